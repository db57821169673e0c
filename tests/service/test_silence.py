"""A worker that falls silent: what is known stays known, what cannot be known is said so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.errors import WorkerUnreachable
from airflow_jobdeploy.service.follower import Follower, Update
from airflow_jobdeploy.service.watching import Watch, backoff_s


def _state(status: JobStatus, log_bytes: int = 0) -> JobState:
    return JobState(job_id="j", status=status, log_bytes=log_bytes)


class _Clock:
    """Goes on by ten seconds whenever it is looked at."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 10.0
        return self.now


def _silence(
    state: JobState, *, given_up: Mapping[str, str] | None = None, unknown_after_s: float = 25.0, **how: Any
) -> list[Update]:
    """What is told when the worker falls silent after `state`."""

    def nobody() -> Any:
        raise WorkerUnreachable("nobody answers")

    told: list[Update] = []
    follower = Follower("j", deliver=told.append, **how)
    follower.tell(state)
    told.clear()
    watch = Watch(nobody, clock=_Clock(), unknown_after_s=unknown_after_s, given_up=lambda: given_up or {})
    watch.add(follower)
    for _ in range(5):
        watch.wake()
        watch.run_pass(0.0)
    watch.close()
    return told


def test_chores_are_done_at_each_connect_and_every_minute(tmp_path: Path) -> None:
    """Among them the reaper's look."""
    now, done = [0.0], []
    connect = lambda: local_backend(root=str(tmp_path))  # noqa: E731
    watch = Watch(connect, clock=lambda: now[0], chores=[lambda backend, followed: done.append(followed)])
    watch.add(Follower("j" + "a" * 20, deliver=lambda update: None, until=lambda state: False))
    for at, so_far in ((0.0, 1), (30.0, 1), (61.0, 2), (90.0, 2), (122.0, 3)):
        now[0] = at
        watch.run_pass(0.0)
        assert len(done) == so_far, at
    watch.disconnect()
    watch.run_pass(0.0)
    assert done == [frozenset({"j" + "a" * 20})] * 4
    watch.close()


def test_a_worker_may_be_silent_for_a_minute_and_is_asked_ever_seldomer_and_for_ever() -> None:
    now, asked = [0.0], []

    def nobody() -> Any:
        asked.append(now[0])
        raise WorkerUnreachable("nobody answers")

    told: list[Update] = []
    watch = Watch(nobody, clock=lambda: now[0])
    watch.add(Follower("j", deliver=told.append))
    for at, news in ((0.0, 0), (59.0, 0), (60.0, 1), (3600.0, 1), (86400.0, 1)):
        now[0] = at
        watch.wake()
        watch.run_pass(0.0)
        assert len(told) == news, at
    watch.close()
    assert len(asked) == 5
    assert [backoff_s(failures, 1.0) for failures in (1, 2, 3, 7, 1000)] == [0.5, 1.0, 2.0, 30.0, 30.0]
    assert backoff_s(7, 0.0) == 15.0  # by chance as little as half: a thousand clients do not come back at once


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


def test_a_job_that_was_given_up_is_lost_at_once_and_not_before_its_worker_is_silent() -> None:
    given_up = {"j": "ann"}
    last = _silence(_state(JobStatus.RUNNING, log_bytes=50), given_up=given_up)[-1]
    assert (last.state.status, last.state.reason, last.over) == (JobStatus.FAILED, "WorkerLost", True)
    assert last.state.message == "ann has given it up: its worker does not answer, and will not come back"
    assert last.text == "[50 bytes of log lost with the worker at offset 0]\n"
    assert _silence(_state(JobStatus.RUNNING), given_up=given_up, unknown_after_s=1000.0) == []


def test_a_known_end_whose_log_is_out_of_reach_can_be_given_up() -> None:
    [last] = _silence(_state(JobStatus.SUCCEEDED, log_bytes=100), given_up={"j": "ann"})
    assert (last.state.status, last.over) == (JobStatus.SUCCEEDED, True)


def test_a_job_whose_worker_is_another_machine_for_good_can_be_given_up(tmp_path: Path) -> None:
    """Also beside one that is really there."""
    here = local_backend(root=str(tmp_path))
    told: list[Update] = []
    watch = Watch(lambda: here, given_up=lambda: {"j": "ann"})
    watch.add(Follower("j", deliver=told.append, machine="another"))
    watch.add(Follower("j" + "a" * 20, deliver=lambda update: None, machine=here.facts(quick=True).machine))
    watch.run_pass(0.0)
    watch.close()
    assert [(update.state.reason, update.over) for update in told] == [("WorkerLost", True)]
