"""Clauses 4 and 8 of backends/base.py: logs, artifacts, hostile names."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Limits
from airflow_jobdeploy.errors import StagingError, WorkerError
from airflow_jobdeploy.packing.artifacts import download
from tests.contract.labs import Lab
from tests.contract.steps import launch, log, outcome, wait_ready, wait_until

HOSTILE = "a b; echo pwned > pwned\n'\"`$(id) ünïcødé \\ & | * ~"


# -- 4: logs --------------------------------------------------------------------------------------------------------


def test_4_the_log_is_the_commands_bytes(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.say(HOSTILE)))
    state = outcome(backend, job_id)
    assert log(backend, job_id) == HOSTILE.encode()
    assert state.log_bytes == len(HOSTILE.encode())


def test_4_who_watches_a_job_that_ends_at_once_hears_how_long_its_log_is(lab: Lab) -> None:
    for _ in range(5):
        backend = lab.backend()
        job_id = launch(backend, lab.plan(lab.words.say("at once")))
        state = backend.watch([job_id], 10.0)[job_id]  # nothing else has asked
        while not state.status.is_finished:
            state = backend.watch([job_id], 10.0).get(job_id, state)
        assert state.log_bytes == len(log(backend, job_id)) == len("at once")


def test_4_any_offset_as_often_as_asked(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.say("0123456789")))
    outcome(backend, job_id)
    for reader in (backend, lab.backend()):
        middle = reader.read_log(job_id, 3, 4)
        assert (middle.offset, middle.data, middle.next_offset) == (3, b"3456", 7)
        assert reader.read_log(job_id, 10, 100).data == b""
        assert reader.read_log(job_id, 0, 100).data == b"0123456789"


def test_4_a_large_log_arrives_whole(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.emit(5_000_003)))
    outcome(backend, job_id)
    assert log(backend, job_id) == (b"0123456789" * 500_001)[:5_000_003]


def test_4_a_log_can_be_read_while_it_grows(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block()))
    wait_ready(backend, job_id)
    assert backend.read_log(job_id, 0, 100).data == b"ready\n"
    assert backend.read_log(job_id, 6, 100).data == b""


def test_4_a_cap_says_what_it_dropped(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.emit(3_000_000), limits=Limits(log_limit_bytes=1_000_000))
    job_id = launch(backend, plan)
    state = outcome(backend, job_id)
    assert state.log_bytes == 3_000_000
    assert state.log_dropped_bytes > 0
    first = backend.read_log(job_id, 0, 100)
    assert first.offset == first.dropped_bytes == state.log_dropped_bytes
    assert first.data == (b"0123456789" * 12)[first.offset % 10 :][:100]


def test_4_the_log_of_an_unknown_job_is_an_error(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("x"))
    with pytest.raises(WorkerError, match=plan.job_id):
        lab.backend().read_log(plan.job_id, 0, 10)


# -- artifacts ------------------------------------------------------------------------------------------------------

FILES = {"model.json": "{}", "deep/er/x.txt": "y" * 200_000, "a b;'c": "hostile", "empty": ""}


@pytest.fixture
def produced(lab: Lab) -> tuple[Backend, str]:
    """A job that failed after it wrote its output."""
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.output(FILES, code=1)))
    state = outcome(backend, job_id)
    assert state.artifacts["files"] == len(FILES)
    return backend, job_id


def test_a_manifest_lists_what_was_written_also_by_a_failed_job(produced: tuple[Backend, str]) -> None:
    backend, job_id = produced
    files = backend.manifest(job_id)
    assert [file.path for file in files] == sorted(FILES)
    assert {file.path: file.size for file in files} == {path: len(text) for path, text in FILES.items()}


def test_files_come_in_the_manifests_order(produced: tuple[Backend, str]) -> None:
    backend, job_id = produced
    got = [(file.path, content.read()) for file, content in backend.fetch(job_id, ["model.json", "a b;'c"])]
    assert got == [("a b;'c", b"hostile"), ("model.json", b"{}")]
    assert list(backend.fetch(job_id, [])) == []


def test_a_fetch_that_is_given_up_does_not_disturb(produced: tuple[Backend, str]) -> None:
    backend, job_id = produced
    stream = backend.fetch(job_id, list(FILES))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert backend.read_log(job_id, 0, 10).data == b""
    assert len(list(backend.fetch(job_id, list(FILES)))) == len(FILES)


def test_the_first_file_comes_from_an_offset_on(produced: tuple[Backend, str]) -> None:
    backend, job_id = produced
    paths = ["deep/er/x.txt", "model.json"]
    for offset in (1, 150_001, 200_000):
        got = [(file.size, content.read()) for file, content in backend.fetch(job_id, paths, offset)]
        assert got == [(200_000, b"y" * (200_000 - offset)), (2, b"{}")]


def test_an_offset_behind_the_end_is_an_error(produced: tuple[Backend, str]) -> None:
    backend, job_id = produced
    with pytest.raises(StagingError, match=r"'?model\.json'?:? has 2 bytes now, fewer than 3"):
        list(backend.fetch(job_id, ["model.json"], 3))
    assert [content.read() for _, content in backend.fetch(job_id, ["model.json"])] == [b"{}"]


def test_a_file_that_is_not_there_is_an_error_with_the_nearest(produced: tuple[Backend, str]) -> None:
    backend, job_id = produced
    with pytest.raises(WorkerError, match=r"'modle\.json'.*Did you mean 'model\.json'"):
        list(backend.fetch(job_id, ["modle.json"]))


def test_artifacts_are_downloaded_once(produced: tuple[Backend, str], tmp_path: Path) -> None:
    backend, job_id = produced
    first = download(backend, job_id, tmp_path / "got")
    assert (tmp_path / "got" / "deep" / "er" / "x.txt").read_text() == "y" * 200_000
    assert (len(first.files), first.bytes, first.skipped) == (4, 200_009, 0)
    second = download(backend, job_id, tmp_path / "got")
    assert (second.bytes, second.skipped) == (0, 4)


# -- environment ----------------------------------------------------------------------------------------------------


def test_8_environment_and_secrets_are_data(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.env("PLAIN", "TOKEN"), env={"PLAIN": HOSTILE}, secret_env={"TOKEN": "s3cret" + HOSTILE})
    job_id = launch(backend, plan)
    outcome(backend, job_id)
    assert log(backend, job_id).decode() == f"{HOSTILE}\ns3cret{HOSTILE}\n"
    assert "s3cret" not in str([record["plan"] for record in backend.jobs()])


# -- 13: messages ---------------------------------------------------------------------------------------------------


def test_13_what_a_job_says_of_itself(lab: Lab) -> None:
    backend = lab.backend()
    said = [
        {"type": "progress", "done": 1, "total": 4, "text": "epoch 1\x1b[0m"},
        {"type": "metric", "name": "loss", "value": 0.5, "step": 3},
        {"asset": "s3://bucket/model"},
        {"artifact": "model.pt"},
        {"nonsense": 1},
    ]
    job_id = launch(backend, lab.plan(lab.words.tell(*said)))
    state = wait_until(backend, [job_id], lambda s: "outputs" in s[job_id].messages)[job_id]
    assert state.message.endswith("; 25 % (1 of 4): epoch 1.")
    backend.stop(job_id, reason="enough", grace_s=1.0)
    kept = outcome(backend, job_id).messages
    assert kept == {
        "progress": {"done": 1.0, "total": 4.0, "value": 0.25, "text": "epoch 1"},
        "metrics": {"loss": [0.5, 3]},
        "assets": [{"uri": "s3://bucket/model", "extra": {}}],
        "outputs": [{"path": "model.pt", "text": ""}],
        "odd_lines": 1,
    }
    assert backend.poll([job_id])[job_id].messages == kept
    assert [file.path for file in backend.manifest(job_id)] == ["metrics.csv"]
