"""A task comes back, and the worker of its job is silent, or another machine by now: nothing is started beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerChanged, WorkerUnreachable
from tests.service.conftest import Desk

#: Counts its starts, and goes on.
GOES_ON = {"command": 'echo x >> "$COUNT"; sleep 60', "grace": 1}


class Lab:
    """Workers `a` and `b`; whoever is `cut` cannot be asked, and behind `moved` names are other machines."""

    def __init__(self, desk: Desk, folder: Path) -> None:
        self.desk = desk
        self.cut: set[str] = set()
        self.moved: set[str] = set()
        self.given_up: dict[str, str] = {}
        self.count = folder / "starts"
        self._folder = folder
        desk.pool = WorkerPool(name="lab", kind="ssh", workers=(Worker(conn_id="a"), Worker(conn_id="b")))
        desk.connect = self._connect
        desk.workers = lambda: service.Workers(  # type: ignore[method-assign]
            desk.pool, desk.connect, given_up=lambda: self.given_up
        )

    def _connect(self, worker: Worker) -> Any:
        if worker.name in self.cut:
            raise WorkerUnreachable(f"{worker.name}: no route to host")
        name = worker.name + " moved" * (worker.name in self.moved)
        return local_backend(root=str(self._folder / name))

    def work(self, **fields: Any) -> service.Work:
        return self.desk.run_spec({**GOES_ON, "env": {"COUNT": str(self.count)}, "schedule_timeout": 1, **fields})

    def submit(self, **fields: Any) -> Any:
        return self.desk.submit(self.work(**fields)).handle

    def running(self, **fields: Any) -> Any:
        handle = self.submit(**fields)
        self.desk.follow(handle, interrupted=self.count.exists, until=lambda state: state.phase == "running")
        while not self.count.exists():
            self.desk.follow(handle, timeout_s=0.1)
        return handle

    @property
    def starts(self) -> int:
        return len(self.count.read_text().split())

    def close(self) -> None:
        for folder in self._folder.glob("[ab]*/hosts"):
            backend = local_backend(root=str(folder.parent))
            for job in backend.jobs(live_only=True):
                backend.stop(job["plan"]["job_id"], reason="the test is over", grace_s=0)
            backend.close()


@pytest.fixture
def lab(desk: Desk, tmp_path: Path) -> Any:
    made = Lab(desk, tmp_path)
    yield made
    made.close()


def test_another_machine_under_its_name_starts_nothing(lab: Lab) -> None:
    """It has no record of the job: that is no proof that the job was never claimed."""
    first = lab.running()
    lab.moved.add("a")
    with pytest.raises(WorkerChanged, match="attempt 1 may be alive on worker a") as caught:
        lab.submit()
    assert f"airflow jobdeploy forget {first.job_id} --lost --worker-pool lab" in str(caught.value)
    assert lab.starts == 1
    lab.moved.clear()
    assert lab.submit().job_id == first.job_id
    assert lab.starts == 1


def test_another_machine_is_asked_nothing_about_the_job(lab: Lab) -> None:
    handle = lab.running()
    lab.moved.add("a")
    with lab.desk.workers() as workers:
        for ask in (service.status, lambda w, h: service.stop(w, h, reason="x", by="y")):
            with pytest.raises(WorkerChanged, match="another machine answers as worker a"):
                ask(workers, handle)
        assert service.current(workers, handle) == handle


def test_on_the_machine_of_the_task_nobody_waits_for_the_other_one(lab: Lab) -> None:
    """Pool `local`: this task runs here, and the one before ran elsewhere; neither moves while we wait."""
    lab.desk.pool = WorkerPool.local()
    lab.running(schedule_timeout=600)
    lab.moved.add("local")
    with pytest.raises(WorkerChanged, match="attempt 1 may be alive on worker local"):
        lab.submit(schedule_timeout=600)
    assert not any("trying again" in line for line in lab.desk.said)
    assert lab.starts == 1


@pytest.mark.parametrize("how", ["cut", "moved"])
def test_an_end_that_was_seen_is_in_nobodys_way(lab: Lab, how: str) -> None:
    first = lab.submit(command="exit 3")
    assert lab.desk.follow(first).state.exit_code == 3
    assert lab.desk.notebook.value is not None
    lab.desk.notebook.value["ended"] = "FAILED"
    getattr(lab, how).add("a")
    second = lab.submit(command="true")
    # Another machine under the name is a worker as good as any.
    assert (second.attempt, second.worker) == (2, "b" if how == "cut" else "a")
    assert lab.desk.notebook.value["ended"] == ""
    assert lab.desk.follow(second).state.status is JobStatus.SUCCEEDED


def test_a_silent_worker_is_waited_for_until_somebody_gives_the_job_up(lab: Lab) -> None:
    first = lab.running()
    lab.cut.add("a")
    with pytest.raises(WorkerUnreachable, match="attempt 1 may be alive on worker a"):
        lab.submit()
    lab.given_up[first.job_id] = "ann"
    second = lab.submit(command="true", schedule_timeout=600)
    assert (second.attempt, second.worker) == (2, "b")
    assert f"Job {first.job_id} was given up by ann: its worker a counts as lost." in lab.desk.said


def test_a_job_that_stops_itself_has_done_so_after_ninety_seconds(lab: Lab) -> None:
    """Its own limit is sooner: then its grace, and what two clocks may differ by."""
    assert lab.work().lost_after_s is None
    for asks in ({"on_orphan": "stop"}, {"preemptible": True}, {"retry": {"on": ["worker_lost"]}}):
        work = lab.work(**asks, grace=10)
        assert (work.lost_after_s, work.orphan_after_s) == (90.0, 65.0)
    assert lab.work(preemptible=True, on_orphan="continue").lost_after_s is None


def test_a_job_that_stops_itself_is_waited_for_no_longer_also_where_a_machine_has_changed(lab: Lab) -> None:
    lab.running(on_orphan="stop")
    assert lab.desk.notebook.value is not None
    lab.desk.notebook.value["lost_after_s"] = 0.5
    lab.moved.add("a")
    second = lab.submit(command="true")
    assert (second.attempt, lab.desk.follow(second).state.status) == (2, JobStatus.SUCCEEDED)
