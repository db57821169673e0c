"""Trees on their way to a worker: asked for by name, sent, gone on with after a cut, waited for while another job
brings the same one. Says what goes, how fast, and what need not go."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from airflow_jobdeploy.backends.base import Progress, TreeBusy, TreeReport
from airflow_jobdeploy.core.manifest import TreeSource, Unread
from airflow_jobdeploy.core.words import counted, duration, size
from airflow_jobdeploy.errors import StagingError, WorkerUnreachable
from airflow_jobdeploy.service.repeating import Repeating
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.workers import Workers

#: How long it is gone on with while nothing of it arrives, unless `setup_timeout` bounds it, in seconds.
PATIENCE_S = 600.0
#: How often a transfer says how far it is, at first and when it has taken a minute, in seconds.
SAY_S, SAY_LATER_S = 5.0, 10.0
#: How often it is asked whether another job has brought the tree, in seconds.
BUSY_S = 1.0

_T = TypeVar("_T")
Say = Callable[[str], None]
Clock = Callable[[], float]


class Sending:
    """The trees of one attempt, to one worker.

    `check` is called often, and may raise to end it; `limit_s`: for all of its trees (setup_timeout; None: as long as
    something arrives); `progress`: told bytes sent and to send, by who shows them; None: lines now and then do.
    """

    def __init__(
        self,
        workers: Workers,
        worker: str,
        *,
        say: Say,
        check: Callable[[], None] = lambda: None,
        limit_s: float | None = None,
        progress: Progress | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._workers = workers
        self._worker = worker
        self._say = say
        self._check = check
        self._limit_s = limit_s
        self._progress = progress
        self._clock = clock
        self._began = clock()

    def has(self, name: str) -> bool:
        """Is the tree there, or when another job has brought it? Asks again while the worker is unreachable."""
        return self._until_done("the tree", lambda: self._workers.backend(self._worker).has_tree(name))

    def bring(self, source: TreeSource, what: str, about: str = "") -> TreeReport:
        """See that the tree is on the worker. For the log: `what` it is ("project"), and more `about` it.

        Raises StagingError, WorkerUnreachable, and whatever `check` does.
        """
        about = about or f"{counted(source.manifest.files, 'file')}, {size(source.manifest.bytes)}"
        told = [False]

        def attempt() -> TreeReport:
            backend = self._workers.backend(self._worker)
            if isinstance(source, Unread) and source.unread_sizes and backend.may_have(source.unread_sizes):
                source.read()
            manifest = source.manifest
            name = manifest.name if manifest.is_known else ""
            if name and backend.has_tree(name):
                return TreeReport(name=name, files=manifest.files, bytes=manifest.bytes, manifest=manifest)
            if not told[0]:
                self._say(f"Sending the {what} ({about}) to worker {self._worker}.")
                told[0] = True
            return backend.send_tree(source, meter.told)

        meter = _Meter(what, self._say, self._look, self._progress, self._clock)
        report = self._until_done(what, attempt, meter)
        self._say(self._summary(what, about, report, meter))
        return report

    def _summary(self, what: str, about: str, report: TreeReport, meter: _Meter) -> str:
        if not meter.sent_bytes and not report.sent_files:
            return f"The {what} ({about}) is on worker {self._worker} already: nothing is sent."
        there = max(0, report.bytes - meter.sent_bytes)
        reused = f"; {size(there)} of it were there already" if there else ""
        return f"Sent {size(meter.sent_bytes)} of the {what} in {duration(meter.spent_s)}{meter.rate}{reused}."

    # -- again and again ---------------------------------------------------------------------------------------------

    def _until_done(self, what: str, attempt: Callable[[], _T], meter: _Meter | None = None) -> _T:
        failures, quiet_since, waited, say = 0, self._clock(), _Seldom(self._clock), Repeating(self._say)
        while True:
            self._look()
            before = meter.sent_bytes if meter else 0
            try:
                return attempt()
            except TreeBusy as error:
                quiet_since, failures = self._clock(), 0
                if waited.is_time():
                    self._say(
                        f"Another job is bringing the same {what} to worker {self._worker}{_far(error)}: waiting."
                    )
                self._workers.pause(BUSY_S)
            except WorkerUnreachable as error:
                self._workers.drop(self._worker)
                if meter and meter.sent_bytes > before:
                    quiet_since, failures = self._clock(), 0
                failures += 1
                if self._limit_s is None and self._clock() - quiet_since >= PATIENCE_S:
                    raise
                say(f"The {what} is not on worker {self._worker} yet, trying again: {error}")
                self._workers.pause(backoff_s(failures, random.random()))

    def _look(self) -> None:
        self._check()
        if self._limit_s is not None and self._clock() - self._began > self._limit_s:
            raise StagingError(
                f"bringing code and data to worker {self._worker} took longer than setup_timeout"
                f" ({duration(self._limit_s)}); what has arrived is not sent again"
            )


def _far(error: TreeBusy) -> str:
    return f" ({size(error.done_bytes)} of {size(error.todo_bytes)} so far)" if error.todo_bytes else ""


class _Seldom:
    """Is it time to say something again? At first it is."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._began = self._last = clock()
        self._is_first = True

    def is_time(self) -> bool:
        now = self._clock()
        pause_s = SAY_S if now - self._began < 60 else SAY_LATER_S
        if not self._is_first and now - self._last < pause_s:
            return False
        self._is_first, self._last = False, now
        return True


class _Meter:
    """What has gone of one tree, over all attempts; says so now and then."""

    def __init__(self, what: str, say: Say, look: Callable[[], None], progress: Progress | None, clock: Clock) -> None:
        self._what = what
        self._say = say
        self._look = look
        self._progress = progress
        self._clock = clock
        self._seldom = _Seldom(clock)
        #: Of attempts that were cut, and of this one.
        self._before = self._done = 0
        self._began = clock()
        self._spent_s = 0.0

    @property
    def sent_bytes(self) -> int:
        return self._before + self._done

    @property
    def spent_s(self) -> float:
        return self._spent_s

    @property
    def rate(self) -> str:
        """ ", 12.3 MiB/s", "" where nothing can be said."""
        return f", {size(self.sent_bytes / self._spent_s)}/s" if self._spent_s >= 0.1 and self.sent_bytes else ""

    def told(self, done: int, todo: int) -> None:
        """`Progress` of one attempt."""
        now = self._clock()
        if not done:
            self._before, self._done, self._began = self.sent_bytes, 0, now
            self._seldom.is_time()  # the first word comes after a while
        self._spent_s += now - self._began
        self._began, self._done = now, done
        self._look()
        if self._progress is not None:
            self._progress(done, todo)
        elif done and self._seldom.is_time():
            left_s = (todo - done) / (self.sent_bytes / self._spent_s) if self._spent_s and self.sent_bytes else None
            ahead = f", about {duration(left_s)} to go" if left_s is not None else ""
            self._say(f"Sent {size(done)} of {size(todo)} of the {self._what}{self.rate}{ahead}.")
