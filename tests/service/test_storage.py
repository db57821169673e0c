"""Storage that only one worker has keeps all attempts of a job there; shared storage does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.pool import Storage, Worker, WorkerPool
from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import SpecError, WorkerUnreachable
from tests.service.conftest import Desk

#: Counts the attempts in the storage, and fails until there are two.
COUNTS = 'cd "$JOBDEPLOY_VOLUMES_DIR/mnt" && echo x >> runs && [ $(wc -l < runs) = 2 ]'


@pytest.fixture
def lab(desk: Desk, tmp_path: Path) -> Desk:
    """Two workers with storage of their own; those named in `cut` cannot be asked."""
    cut: set[str] = set()

    def connect(worker: Worker) -> Any:
        if worker.name in cut:
            raise WorkerUnreachable(f"{worker.name}: no route to host")
        return local_backend(root=str(tmp_path / "root" / worker.name))

    desk.pool = pool(tmp_path, shared=False)
    desk.connect = connect
    desk.cut = cut  # type: ignore[attr-defined]
    return desk


def pool(tmp_path: Path, *, shared: bool) -> WorkerPool:
    storage = Storage(root=str(tmp_path / "storage"), shared=shared)
    (tmp_path / "storage").mkdir(exist_ok=True)
    return WorkerPool(
        name="lab", kind="ssh", workers=(Worker(conn_id="a", slots=1), Worker(conn_id="b")), storage=storage
    )


def again(lab: Desk, work: service.Work, **how: Any) -> service.Submitted:
    sequel = Sequel(again=True, why="was lost", preemptions=0, retries=1, **how)
    with lab.workers() as workers:
        return service.submit(work, workers, sequel=sequel, intents=lab.notebook, epoch=lab.epoch, say=lab.said.append)


SPEC = {"command": COUNTS, "volumes": ["storage:runs:/mnt"], "schedule_timeout": 1}
STAYS = "The next attempt stays on worker a: the storage of pool 'lab' is not shared"


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_further_attempt_stays_where_the_storage_is(lab: Desk, elsewhere: bool) -> None:
    work = lab.run_spec(SPEC)
    first = lab.submit(work).handle
    assert (first.worker, lab.follow(first).state.status) == ("a", JobStatus.FAILED)
    second = again(lab, work, elsewhere=elsewhere).handle
    assert (second.worker, lab.follow(second).state.status) == ("a", JobStatus.SUCCEEDED)
    assert any(STAYS in line for line in lab.said)


def test_a_lost_worker_is_waited_for(lab: Desk) -> None:
    work = lab.run_spec(SPEC)
    lab.follow(lab.submit(work).handle)
    lab.cut.add("a")  # type: ignore[attr-defined]
    with pytest.raises(WorkerUnreachable, match="a: no route to host"):
        again(lab, work, elsewhere=True)
    assert any(STAYS in line for line in lab.said)


@pytest.mark.parametrize(("shared", "worker"), [(False, "a"), (True, "b")])
def test_a_new_try_after_silence(lab: Desk, tmp_path: Path, shared: bool, worker: str) -> None:
    lab.pool = pool(tmp_path, shared=shared)
    work = lab.run_spec({**SPEC, "retry": {"on": ["worker_lost"], "max": 1}, "worker_lost_after": 1, "grace": 0})
    lab.follow(lab.submit(work).handle)
    assert lab.notebook.value is not None
    lab.notebook.value["lost_after_s"] = 0.1
    lab.cut.add("a")  # type: ignore[attr-defined]
    if shared:
        assert lab.submit(work).handle.worker == worker
    else:
        with pytest.raises(WorkerUnreachable):
            lab.submit(work)


def test_shared_storage_lets_it_go_elsewhere(lab: Desk, tmp_path: Path) -> None:
    lab.pool = pool(tmp_path, shared=True)
    work = lab.run_spec(SPEC)
    lab.follow(lab.submit(work).handle)
    second = again(lab, work, elsewhere=True).handle
    assert (second.worker, lab.follow(second).state.status) == ("b", JobStatus.SUCCEEDED)
    assert not any("stays on worker" in line for line in lab.said)


def test_a_job_without_volumes_is_not_held(lab: Desk) -> None:
    work = lab.run_spec({"command": "false"})
    lab.follow(lab.submit(work).handle)
    assert again(lab, work, elsewhere=True).handle.worker == "b"


def test_everything_that_storage_cannot_do_at_once(desk: Desk) -> None:
    with pytest.raises(SpecError) as caught:
        desk.run_spec({"command": "x", "port": 80, "volumes": ["storage:a:/mnt", "storage:b:/mnt/b"]})
    text = str(caught.value)
    assert "3 problems in the job spec" in text
    assert "pool 'local' has no storage." in text
    assert "the volume at /mnt/b would lie inside the one at /mnt." in text


def test_read_only_is_told_by_the_work(lab: Desk) -> None:
    work = lab.run_spec({"command": "x", "volumes": ["storage:a:/mnt:ro"]})
    assert ["read-only by agreement" in warning for warning in work.warnings] == [True]
