"""One live attempt: whatever happens to the submitter, the work is done once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import PlacementError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.hostside import files
from tests.service.conftest import Desk


class Killed(BaseException):
    """The submitter's process is gone at this instant."""


class Doomed:
    """A backend whose owner dies just before or just after a call."""

    def __init__(self, backend: Any, call: str, *, after: bool) -> None:
        self._backend, self._call, self._after = backend, call, after

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)
        if name != self._call:
            return method

        def fatal(*args: Any, **how: Any) -> Any:
            if self._after:
                method(*args, **how)
            raise Killed

        return fatal


@contextmanager
def dying(desk: Desk, call: str, *, after: bool) -> Iterator[None]:
    """Within: whoever works at the desk dies at `call`."""
    connect = desk.connect
    desk.connect = lambda worker: Doomed(connect(worker), call, after=after)
    try:
        with pytest.raises(Killed):
            yield
    finally:
        desk.connect = connect


def tally(path: Path) -> dict[str, str]:
    """A job that leaves one line in `path` each time it runs."""
    return {"command": f"echo ran >> '{path}'"}


@pytest.mark.parametrize("call", ["facts", "claim", "has_tree", "send_tree", "use_tree", "start"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_submitter_that_dies_at_any_instant_leaves_one_run(
    desk: Desk, tmp_path: Path, call: str, after: bool
) -> None:
    project = tmp_path / "it's a project; rm -rf $HOME"
    project.mkdir()
    (project / "file.txt").write_text("hello")
    work = desk.run_spec(tally(tmp_path / "runs"), project_dir=project)
    with dying(desk, call, after=after):
        desk.submit(work)
    submitted = desk.submit(work)
    followed = desk.follow(submitted.handle)
    assert followed.state.status is JobStatus.SUCCEEDED
    assert (tmp_path / "runs").read_text() == "ran\n"
    assert submitted.handle.attempt == 1


def test_a_retry_finds_the_running_attempt(desk: Desk) -> None:
    work = desk.run_spec({"command": "sleep 60"})
    first = desk.submit(work)
    again = desk.submit(work)
    assert again.reattached
    assert again.handle.job_id == first.handle.job_id
    assert any("REATTACH" in line or "is RUNNING" in line or "is PENDING" in line for line in desk.said)
    desk.stop(again.handle)


def test_a_retry_of_what_has_succeeded_starts_nothing(desk: Desk, tmp_path: Path) -> None:
    work = desk.run_spec(tally(tmp_path / "runs"))
    desk.follow(desk.submit(work).handle)
    again = desk.submit(work)
    assert again.reattached
    assert again.state.status is JobStatus.SUCCEEDED
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_a_retry_of_what_has_failed_is_the_next_attempt(desk: Desk) -> None:
    work = desk.run_spec({"command": 'echo "attempt $JOBDEPLOY_ATTEMPT"; exit 1'})
    for attempt in (1, 2, 3):
        handle = desk.submit(work).handle
        assert handle.attempt == attempt
        assert desk.follow(handle).state.exit_code == 1
    assert desk.log == ["attempt 1", "attempt 2", "attempt 3"]
    assert len({handle.uid for handle in desk.handles}) == 1


def test_a_clear_stops_the_old_attempt_before_the_new_one_starts(desk: Desk) -> None:
    work = desk.run_spec({"command": "sleep 60", "grace": 1})
    first = desk.submit(work)
    desk.epoch["clear_number"] += 1
    second = desk.submit(work)
    assert second.handle.attempt == 2
    assert not second.reattached
    assert desk.status(first.handle).status is JobStatus.CANCELLED
    desk.stop(second.handle)


def test_two_submitters_of_one_intent_start_it_once(desk: Desk, tmp_path: Path) -> None:
    work = desk.run_spec(tally(tmp_path / "runs"))
    with dying(desk, "claim", after=False):
        desk.submit(work)
    handles: list[Any] = []
    threads = [threading.Thread(target=lambda: handles.append(desk.submit(work).handle)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {handle.job_id for handle in handles} == {handles[0].job_id}
    assert len(handles) == 4
    desk.follow(handles[0])
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_the_handle_is_known_before_anything_starts(desk: Desk) -> None:
    with dying(desk, "start", after=False):
        desk.submit(desk.run_spec({"command": "true"}))
    assert desk.handles[0].job_id
    assert desk.status(desk.handles[0]).reason == "Staging"


def test_a_worker_that_is_silent_for_a_moment_is_asked_again(desk: Desk) -> None:
    connect, calls = desk.connect, []

    def silent_at_first(worker: Worker) -> Any:
        calls.append(worker)
        if len(calls) in (2, 3):
            raise WorkerUnreachable("no route to host")
        return connect(worker)

    class Cut:
        """The connection breaks at the claim, after it was written."""

        def __init__(self, backend: Any) -> None:
            self._backend = backend

        def __getattr__(self, name: str) -> Any:
            return getattr(self._backend, name)

        def claim(self, plan: Any) -> Any:
            self._backend.claim(plan)
            raise WorkerUnreachable("connection reset")

    def cut_once(worker: Worker) -> Any:
        backend = silent_at_first(worker)
        return Cut(backend) if len(calls) == 1 else backend

    desk.connect = cut_once
    submitted = desk.submit(desk.run_spec({"command": "echo done"}))
    assert sum("no route to host" in line for line in desk.said) == 1, "the same is not said twice"
    assert len(calls) > 2
    assert desk.follow(submitted.handle).state.status is JobStatus.SUCCEEDED


def test_workers_that_do_not_answer_are_passed_over(desk: Desk) -> None:
    connect = desk.connect

    def half(worker: Worker) -> Any:
        if worker.name == "gone":
            raise WorkerUnreachable("gone: connection refused")
        return connect(worker)

    desk.connect = half
    desk.pool = WorkerPool(name="lab", kind="ssh", workers=(Worker(conn_id="gone"), Worker(conn_id="here")))
    submitted = desk.submit(desk.run_spec({"command": "true"}))
    assert submitted.handle.worker == "here"
    assert any("Passed over worker gone" in line and "connection refused" in line for line in desk.said)
    desk.follow(submitted.handle)


def test_a_pool_that_is_rebooting_is_waited_for(desk: Desk) -> None:
    """The nightly run of one host must not fail because that host was just then updated."""
    connect, troubles = desk.connect, iter(["connection refused", "no route to host"])

    def booting(worker: Worker) -> Any:
        if trouble := next(troubles, None):
            raise WorkerUnreachable(trouble)
        return connect(worker)

    desk.connect = booting
    submitted = desk.submit(desk.run_spec({"command": "true"}))
    assert [line for line in desk.said if "trying again" in line] == [
        "No worker of pool 'local' answers, trying again: local: connection refused",
        "No worker of pool 'local' answers, trying again: local: no route to host",
    ]
    assert desk.follow(submitted.handle).state.status is JobStatus.SUCCEEDED


@pytest.mark.parametrize(("lasting", "spec"), [(True, {}), (False, {"schedule_timeout": 0.1})])
def test_no_longer_than_makes_sense(desk: Desk, lasting: bool, spec: dict[str, Any]) -> None:
    """A wrong password stays wrong; and `schedule_timeout` is the limit that was asked for."""

    def closed(worker: Worker) -> Any:
        raise WorkerUnreachable("gone: refused", lasting=lasting)

    desk.connect = closed
    with pytest.raises(PlacementError, match="no worker of pool 'local' answers: local: gone: refused"):
        desk.submit(desk.run_spec({"command": "true", **spec}))


def test_a_worker_that_left_the_pool_is_named(desk: Desk) -> None:
    submitted = desk.submit(desk.run_spec({"command": "true"}))
    desk.follow(submitted.handle)
    desk.pool = WorkerPool(name="lab", kind="ssh", workers=(Worker(conn_id="other"),))
    with pytest.raises(PlacementError, match="worker 'local' is not in pool 'lab'"):
        desk.status(submitted.handle)


def test_being_interrupted_gives_the_claimed_job_back(desk: Desk) -> None:
    answers = iter([False] * 3)
    with pytest.raises(service.Interrupted) as caught:
        desk.submit(desk.run_spec({"command": "true"}), interrupted=lambda: bool(desk.handles) or next(answers, False))
    assert caught.value.handle is not None
    assert desk.status(caught.value.handle).reason == "Staging"


def test_a_forgotten_submission_of_the_same_task_is_stopped_first(desk: Desk) -> None:
    key = JobKey(deployment="d", dag_id="dag", run_id="manual 1", task_id="train")
    first = desk.submit(desk.run_spec({"command": "sleep 60", "grace": 1}, key=key, owner="task"))
    desk.notebook.value = None  # the store was emptied
    second = desk.submit(desk.run_spec({"command": "true"}, key=key, owner="task"))
    assert second.handle.uid != first.handle.uid
    assert desk.status(first.handle).status is JobStatus.CANCELLED
    other = JobKey(deployment="d", dag_id="dag", run_id="manual 2", task_id="train")
    desk.notebook.value = None
    third = desk.submit(desk.run_spec({"command": "true"}, key=other, owner="task"))
    assert desk.follow(third.handle).state.status is JobStatus.SUCCEEDED


def test_stop_ends_a_job_and_stopping_again_changes_nothing(desk: Desk) -> None:
    submitted = desk.submit(desk.run_spec({"command": "sleep 60"}))
    first = desk.stop(submitted.handle)
    assert first.status is JobStatus.CANCELLED
    assert "the test is over" in first.message
    assert desk.stop(submitted.handle).status is JobStatus.CANCELLED


def test_a_bare_job_id_is_found_and_an_unknown_one_is_named(desk: Desk) -> None:
    submitted = desk.submit(desk.run_spec({"command": "true"}))
    desk.follow(submitted.handle)
    with desk.workers() as workers:
        assert service.find(workers, submitted.handle.job_id).uid == submitted.handle.uid
        with pytest.raises(WorkerError, match="jaaaaaaaaaaaaaaaaaaaa"):
            service.find(workers, "jaaaaaaaaaaaaaaaaaaaa")


class Losing:
    """A backend whose worker loses all trees right after the first call of this name."""

    def __init__(self, backend: Any, call: str, root: Path, calls: list[str]) -> None:
        self._backend, self._call, self._root, self._calls = backend, call, root, calls

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._backend, name)

        def noted(*args: Any, **how: Any) -> Any:
            self._calls.append(name)
            answer = method(*args, **how)
            if name == self._call and self._calls.count(name) == 1:
                files.remove_tree(str(self._root / "store" / "trees"))
            return answer

        return noted


@pytest.mark.parametrize("call", ["send_tree", "use_tree"])
def test_a_tree_that_goes_in_between_is_sent_again(desk: Desk, tmp_path: Path, call: str) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "file.txt").write_text("hello")
    work = desk.run_spec({"command": "cat file.txt"}, project_dir=project)
    connect, calls = desk.connect, list[str]()
    desk.connect = lambda worker: Losing(connect(worker), call, tmp_path / "root", calls)  # type: ignore[assignment, return-value]
    submitted = desk.submit(work)
    assert calls.count("send_tree") == 2
    desk.connect = connect
    assert desk.follow(submitted.handle).state.status is JobStatus.SUCCEEDED
    assert desk.log == ["hello"]
