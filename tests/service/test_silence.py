"""A worker that falls silent: what is known stays known, what cannot be known is said so."""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.errors import WorkerUnreachable
from airflow_jobdeploy.service.follower import Follower, Update
from airflow_jobdeploy.service.watching import Watch


def _state(status: JobStatus, log_bytes: int = 0) -> JobState:
    return JobState(job_id="j", status=status, log_bytes=log_bytes)


class _Clock:
    """Goes on by ten seconds whenever it is looked at."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def _silence(state: JobState, **how: Any) -> list[Update]:
    """What is told when the worker falls silent after `state`."""

    def nobody() -> Any:
        raise WorkerUnreachable("nobody answers")

    told: list[Update] = []
    follower = Follower("j", deliver=told.append, **how)
    follower.tell(state)
    told.clear()
    watch = Watch(nobody, clock=_Clock(), unknown_after_s=25.0)
    watch.add(follower)
    for _ in range(5):
        watch.wake()
        watch.run_pass(0.0)
    watch.close()
    return told


def test_a_running_job_becomes_unknown_after_a_while_and_is_not_judged() -> None:
    [update] = _silence(_state(JobStatus.RUNNING))
    assert (update.state.status, update.state.reason, update.over) == (JobStatus.UNKNOWN, "Unreachable", False)
    assert "nobody answers" in update.state.message


def test_a_known_end_stays_known_while_its_log_cannot_be_read() -> None:
    assert _silence(_state(JobStatus.SUCCEEDED, log_bytes=100)) == []


def test_a_job_with_a_lease_is_lost_with_its_worker() -> None:
    last = _silence(_state(JobStatus.RUNNING), lost_after_s=35.0)[-1]
    assert (last.state.status, last.state.reason, last.over) == (JobStatus.FAILED, "WorkerLost", True)


def test_a_known_end_is_kept_and_its_lost_log_is_marked() -> None:
    [last] = _silence(_state(JobStatus.SUCCEEDED, log_bytes=100), lost_after_s=35.0)
    assert (last.state.status, last.over) == (JobStatus.SUCCEEDED, True)
    assert last.text == "[100 bytes of log lost with the worker at offset 0]\n"
