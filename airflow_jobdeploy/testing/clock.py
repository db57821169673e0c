"""Clocks to wait by: the real one, and one that moves only when told to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """What a MemoryHost counts its durations on."""

    def now(self) -> float:
        """Seconds since some moment."""

    def wait(self, condition: threading.Condition, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait, holding `condition`, until `done` or for `timeout_s` of this clock; the last of `done`."""


class RealClock:
    """The machine's."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, condition: threading.Condition, done: Callable[[], bool], timeout_s: float | None) -> bool:
        return condition.wait_for(done, timeout_s)


class ManualClock:
    """Stands still until `advance`; hours pass in no time. Calling it gives the time, as `time.monotonic` does."""

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._waiting: set[threading.Condition] = set()
        self._lock = threading.Lock()
        self._waiters = 0
        self._waiters_changed = threading.Condition()

    def __call__(self) -> float:
        return self._now

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass, for all that wait by this clock."""
        with self._lock:
            self._now += seconds
            waiting = list(self._waiting)
        for condition in waiting:
            with condition:
                condition.notify_all()

    def await_waiters(self, count: int, timeout_s: float = 10.0) -> None:
        """Return, in real time, once `count` threads wait by this clock: a running job is two, supervisor and program.

        TimeoutError when they do not. Call it before `advance` where it matters since when they wait.
        """
        with self._waiters_changed:
            if not self._waiters_changed.wait_for(lambda: self._waiters >= count, timeout_s):
                raise TimeoutError(f"{self._waiters} threads wait by this clock, expected {count}")

    def wait(self, condition: threading.Condition, done: Callable[[], bool], timeout_s: float | None) -> bool:
        with self._lock:
            self._waiting.add(condition)
            end = None if timeout_s is None else self._now + timeout_s
        self._count(+1)
        try:
            condition.wait_for(lambda: done() or (end is not None and self._now >= end))
        finally:
            self._count(-1)
        return done()

    def _count(self, change: int) -> None:
        with self._waiters_changed:
            self._waiters += change
            self._waiters_changed.notify_all()
