"""What makes jobs on engines quick: files in the configuration, the report in a link; and who must do without."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import TreeGone
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine import judging, names, reports
from airflow_jobdeploy.backends.engine.seen import Seen
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.core.status import JobStatus, Reason
from tests.backends.engines import backend_of, job, run
from tests.backends.engines import engine as engine
from tests.contract.steps import launch, log, outcome
from tests.servers.dockerd import IMAGE, Dockerd

PLAN = {"steps": [{"name": "first"}, {"name": "the job"}]}
SAID = "/jobdeploy/job/report/said/1/3/0/1/17 PENDING Staging starting/18 RUNNING - running"


def counting(engine: Dockerd) -> tuple[DockerBackend, list[str]]:
    """A backend, and what it asks the engine for from now on."""
    asked: list[str] = []

    def connect() -> Any:
        client = engine.client()
        plain = client.request

        def request(method: str, url: str, **options: Any) -> Any:
            asked.append(f"{method} {url.partition('/v1.')[2].partition('/')[2]}")
            return plain(method, url, **options)

        client.request = request
        return client

    return DockerBackend(worker="engine", connect=connect, settings=Settings(image=IMAGE)), asked


def copies(asked: list[str]) -> list[str]:
    """Requests that let an engine copy files."""
    return [one for one in asked if one.endswith("/archive") and not one.startswith("HEAD")]


@pytest.mark.docker
@pytest.mark.parametrize(("command", "code"), [("true", 0), ("echo no; exit 3", 3)])
def test_a_plain_job_costs_no_copy(engine: Dockerd, command: str, code: int) -> None:
    run(backend_of(engine), job("true"))  # what is done once for an engine
    backend, asked = counting(engine)
    state = run(backend, job(command))
    assert (state.exit_code, state.reason) == (code, Reason.EXIT_CODE if code else "")
    assert [entry["status"] for entry in state.history][:2] == ["PENDING", "RUNNING"]
    link = [place for place, one in enumerate(asked) if one.startswith("HEAD") and one.endswith("/archive")][-1]
    assert copies(asked[link:]) == [], "all is known by the link"
    assert [one for one in copies(asked) if one.startswith("PUT")] == []
    assert not [one for one in asked if one.endswith("info")], "it takes long to tell"
    again = backend_of(engine).poll([state.job_id])[state.job_id]
    assert (again.exit_code, again.message, again.step) == (code, state.message, state.step)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('echo out > "$JOBDEPLOY_OUTPUT_DIR/f"', {"artifacts": {"files": 1, "bytes": 4}}),
        ('mkdir -p "$JOBDEPLOY_OUTPUT_DIR/.d"; echo o > "$JOBDEPLOY_OUTPUT_DIR/.d/.f"', {"artifacts": {"files": 1}}),
        ('echo "{\\"a\\": 1}" > "$JOBDEPLOY_RESULT_FILE"', {"result": {"a": 1}}),
        ('echo "{\\"metric\\": \\"loss\\", \\"value\\": 1}" >> "$JOBDEPLOY_MESSAGES_FILE"', {}),
    ],
)
def test_a_report_with_more_in_it_is_read(engine: Dockerd, text: str, shown: dict[str, Any]) -> None:
    backend, asked = counting(engine)
    state = run(backend, job(text))
    assert state.status is JobStatus.SUCCEEDED
    assert copies(asked)
    found = state.to_dict()
    for key, value in shown.items():
        assert value == found[key] or value.items() <= found[key].items()


@pytest.mark.docker
def test_what_no_variable_can_hold_is_copied(engine: Dockerd) -> None:
    long = "\n".join(f": {n:0100d}" for n in range(1500)) + "\necho over"
    odd = "printf '\udcff\\n' | wc -c"
    for text, told in ((long, b"over\n"), (odd, b"2\n")):
        backend = backend_of(engine)
        plan = job(text)
        assert run(backend, plan).status is JobStatus.SUCCEEDED
        assert log(backend, plan.job_id) == told


@pytest.mark.docker
def test_commands_of_jobs_with_secrets_are_not_shown(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("echo not for all to see", secret_env={"TOKEN": "s3cret"})
    run(backend, plan)
    assert "not for all to see" not in json.dumps(engine.client().inspect_container(plan.job_id))


@pytest.mark.docker
def test_every_word_arrives_as_it_is(engine: Dockerd) -> None:
    backend = backend_of(engine)
    words = ("it's", "$HOME `id`", "two\nlines", "%s %d", "\\n", "-x", "", "größe")
    step = Step(name="it's $(job)", kind="argv", args=("printf", "[%s]", *words))
    plan = Plan(uid=job("").uid, steps=(step,))
    state = run(backend, plan)
    assert (state.status, state.step) == (JobStatus.SUCCEEDED, "it's $(job)")
    assert log(backend, plan.job_id).decode() == "".join(f"[{word}]" for word in words)


@pytest.mark.docker
def test_a_container_that_is_removed_before_its_start_is_claimed_again(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("echo after all")
    backend.claim(plan)
    engine.client().remove_container(plan.job_id)
    assert backend.poll([plan.job_id])[plan.job_id].phase == "claimed"
    with pytest.raises(TreeGone, match="was removed before it could start"):
        backend.start(plan.job_id)
    assert launch(backend, plan) == plan.job_id
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"after all\n"


@pytest.mark.docker
def test_an_order_before_the_start_is_kept(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("echo never")
    backend.claim(plan)
    assert backend.stop(plan.job_id, reason="not wanted").status is JobStatus.CANCELLED
    assert backend.start(plan.job_id).status is JobStatus.CANCELLED
    assert backend_of(engine).manifest(plan.job_id) == []


@pytest.mark.docker
def test_thousands_of_files_are_listed_where_they_were_made(engine: Dockerd) -> None:
    backend, asked = counting(engine)
    name = "a-name-that-is-long-enough-to-fill-command-lines"
    plan = job(f'cd "$JOBDEPLOY_OUTPUT_DIR" && for n in $(seq 2000); do echo $n > {name}-$n; done')
    assert run(backend, plan).status is JobStatus.SUCCEEDED
    asked.clear()
    assert len(backend.manifest(plan.job_id)) == 2000
    assert copies(asked) == []


# -- without an engine ------------------------------------------------------------------------------------------------


def test_a_link_tells_the_report() -> None:
    found = reports.of_link(SAID, PLAN)
    assert found is not None
    seen = Seen(job_id="j", plan=PLAN, claimed="", container={"State": {"Status": "exited"}}, report=found, now=20.0)
    state = judging.wire(seen)
    assert (state["status"], state["exit_code"], state["step"]) == ("FAILED", 3, "the job")
    assert reports.standing(found) == ("running", "RUNNING", "", "the job", "")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text.replace("said", "sad"),
        lambda text: text.replace("/1/3/", "/2/3/"),
        lambda text: text.replace("/3/0/1", "/x/0/1"),
        lambda text: text.replace("/3/0/1", "/3/0/2"),
        lambda text: text.replace(" - running", ""),
        lambda text: text.partition("/17 ")[0],
        lambda text: "/etc/passwd",
    ],
)
def test_a_link_that_says_something_else_is_not_believed(damage: Callable[[str], str]) -> None:
    assert reports.of_link(damage(SAID), PLAN) is None


def test_no_room_for_the_files_is_told() -> None:
    ended = {"State": {"Status": "exited", "ExitCode": names.NO_ROOM_CODE}}
    state = judging.wire(Seen(job_id="j", plan=PLAN, claimed="", container=ended, report={}))
    assert (state["status"], state["reason"]) == ("FAILED", "Setup")
    assert "is the engine's disk full?" in state["message"]
