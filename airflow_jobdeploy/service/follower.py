"""One job being followed: what it told last, how far its log was given out, when there is nothing more to come.

A `Follower` is driven by a `Watch` (watching.py), in a task and in a triggerer alike, and gives `Update`s to
whoever asked for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.logview import LogView
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.core.words import counted


@dataclass(frozen=True, kw_only=True)
class Update:
    """News of one job: its state, and log text that has not been given before.

    `offset`: of the first byte of the log that has not been given out as text; a reader that starts
    there loses nothing. `over`: nothing more will come.
    """

    state: JobState
    text: str
    offset: int
    over: bool = False


class Follower:
    """One job being followed, from a log offset on, until `until` holds and its log is read."""

    def __init__(
        self,
        job_id: str,
        *,
        deliver: Callable[[Update], None],
        offset: int = 0,
        machine: str = "",
        until: Callable[[JobState], bool] = is_over,
        leave_bytes: int = 0,
        lost_after_s: float | None = None,
    ) -> None:
        self.job_id = job_id
        self.machine = machine
        self.state: JobState | None = None
        self.over = False
        self._deliver = deliver
        self._until = until
        #: What `until` says of the state: a watch looks at it in each pass, for a thousand quiet jobs.
        self._has_reached = False
        #: More than this much log left at the end is left to somebody with more time.
        self._leave_bytes = leave_bytes
        #: After so much silence of its worker the job has stopped itself; None: it goes on.
        self.lost_after_s = lost_after_s
        self._next = offset
        self._view = LogView()

    def is_of(self, machine: str) -> bool:
        """Is the job on this machine, as far as we know?"""
        return not self.machine or self.machine == machine

    @property
    def offset(self) -> int:
        """The first byte of the log that was not given out."""
        return self._next - self._view.pending_bytes

    @property
    def backlog(self) -> int:
        """Bytes of log known to be there and not read."""
        return max(0, self.state.log_bytes - self._next) if self.state else 0

    @property
    def has_ended(self) -> bool:
        """Is its end known?"""
        return self.state is not None and self.state.status.is_finished

    def tell(self, state: JobState) -> None:
        """A new state came."""
        changed = self.state is None or _news(self.state) != _news(state)
        self.state = state
        self._has_reached = self._until(state)
        if changed and not self._has_reached:
            self._give("")

    def read(self, backend: Backend, limit: int, now: float) -> int:
        """Read one turn of the log, at most `limit` bytes; the bytes read."""
        assert self.state is not None
        chunk = backend.read_log(self.job_id, self._next, limit)
        text = self._view.feed(chunk.data, now=now, offset=chunk.offset, dropped=chunk.dropped_bytes)
        self._next = chunk.next_offset
        if not chunk.data:  # shorter than its state said: nothing more will come of it
            self._next = max(self._next, self.state.log_bytes)
        if text:
            self._give(text)
        return len(chunk.data)

    def settle(self) -> None:
        """Deliver the last update when the job is over and its log is read, or left for others."""
        if self.over or not self._has_reached:
            return
        leaves = 0 < self._leave_bytes < self.backlog
        if not self.backlog or leaves:
            ended = self.state is not None and is_over(self.state)
            text = self._view.end() if ended and not leaves else ""
            self.over = True
            self._give(text)

    def give_up(self, state: JobState) -> None:
        """The worker is lost, and what is left of the log with it; the job, too, if its end was not known."""
        left = self.backlog
        mark = f"[{counted(left, 'byte')} of log lost with the worker at offset {self._next}]\n" if left else ""
        self.state, self.over = state, True
        self._give(self._view.end() + mark)

    def _give(self, text: str) -> None:
        assert self.state is not None
        self._deliver(Update(state=self.state, text=text, offset=self.offset, over=self.over))


def _news(state: JobState) -> tuple[object, ...]:
    """What of a state is worth telling; a grown log is told by its text."""
    return state.status, state.reason, state.phase, state.step, state.exit_code, state.messages
