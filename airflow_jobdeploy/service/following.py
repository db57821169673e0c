"""Follow one job in the calling thread: its log, its changes, its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_jobdeploy.core.messages import Announcer
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.service.follower import Follower, Update
from airflow_jobdeploy.service.watching import Watch
from airflow_jobdeploy.service.workers import Workers

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Followed:
    """Where `follow` ended: the last state seen, the log offset to go on from."""

    state: JobState
    offset: int
    #: The job is over and its log was given out whole.
    over: bool
    interrupted: bool = False


def follow(
    workers: Workers,
    handle: JobHandle,
    *,
    offset: int = 0,
    say_log: Say,
    say: Say,
    interrupted: Callable[[], bool] = lambda: False,
    until: Callable[[JobState], bool] = is_over,
    timeout_s: float | None = None,
) -> Followed:
    """Follow a job in this thread: its log from `offset` on to `say_log`, its changes to `say`.

    Ends when `until` holds and the log is read, when `interrupted()` is true (looked at after
    `workers.wake()`), or after `timeout_s`.
    """
    teller = _Teller(say_log, say)
    follower = Follower(
        handle.job_id,
        deliver=teller,
        offset=offset,
        machine=handle.machine,
        until=until,
        lost_after_s=handle.lost_after_s,
    )
    watch = workers.watch = Watch(lambda: workers.lend(handle.worker), given_up=workers.given_up)
    watch.add(follower)
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    try:
        while not follower.over and not interrupted():
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                break
            watch.run_pass(min(1.0, left))
            teller.tick()
    finally:
        workers.watch = None
        workers.give_back(handle.worker, watch.release())
        watch.close()
    state = follower.state or handle_state(handle)
    return Followed(state=state, offset=follower.offset, over=follower.over, interrupted=interrupted())


class _Teller:
    """Turns updates into log lines: text as it is, changes of status as sentences, what the job says of itself."""

    def __init__(self, say_log: Say, say: Say) -> None:
        self._say_log = say_log
        self._say = say
        self._last: tuple[str, str] | None = None
        self._announcer = Announcer()

    def __call__(self, update: Update) -> None:
        if update.text:
            self._say_log(update.text.removesuffix("\n"))
        line = narrated(update.state)
        if line and (update.state.status, update.state.reason) != self._last:
            self._say(line)
        self._last = (update.state.status, update.state.reason)
        self._announcer.take(update.state.messages)
        self._announce(is_last=update.over)

    def tick(self) -> None:
        """Say what was held back for being too soon."""
        if self._announcer.is_pending:
            self._announce(is_last=False)

    def _announce(self, *, is_last: bool) -> None:
        for line in self._announcer.lines(time.monotonic(), is_last=is_last):
            self._say(line)


def narrated(state: JobState) -> str:
    """What a change to `state` is worth telling while it is being followed; its end is told by the caller."""
    if state.status.is_finished:
        return ""
    return f"{state.status} ({state.reason}): {state.message}" if state.reason else state.message


def handle_state(handle: JobHandle) -> JobState:
    """The state that a handle last heard of."""
    return JobState(
        job_id=handle.job_id,
        uid=handle.uid,
        attempt=handle.attempt,
        status=JobStatus(handle.status),
        reason=handle.reason,
        message=handle.message,
        exit_code=handle.exit_code,
        result=handle.result,
        machine=handle.machine,
    )
