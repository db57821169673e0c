"""How a transfer gets on, said every few seconds: how far, how fast, how much longer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from airflow_jobdeploy.core.words import counted, duration, size

#: Seconds between two lines.
EVERY_S = 4.0
#: The rate is that of the last so many seconds.
_WINDOW_S = 20.0


class Pace:
    """Called as bytes come, with the numbers so far; says a line when it is time."""

    def __init__(
        self, say: Callable[[str], None], *, every_s: float = EVERY_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say = say
        self._every_s = every_s
        self._clock = clock
        self._said_at = clock()
        #: (when, bytes moved by then), about one a second.
        self._seen: deque[tuple[float, int]] = deque([(self._said_at, 0)])

    def __call__(self, files: int, all_files: int, moved: int, all_bytes: int) -> None:
        now = self._clock()
        if now - self._seen[-1][0] >= 1.0:
            self._seen.append((now, moved))
            while now - self._seen[0][0] > _WINDOW_S:
                self._seen.popleft()
        if now - self._said_at >= self._every_s:
            self._said_at = now
            self._say(f"{files} of {counted(all_files, 'file')}, {self.described(now, moved, all_bytes)}")

    def described(self, now: float, moved: int, all_bytes: int) -> str:
        """ "3.0 MiB of 9.0 MiB, 1.0 MiB/s, 6.0 s left"."""
        told = f"{size(moved)} of {size(all_bytes)}"
        since, before = self._seen[0]
        if now <= since or moved <= before:
            return told
        rate = (moved - before) / (now - since)
        return f"{told}, {size(rate)}/s, {duration(max(0, all_bytes - moved) / rate)} left"
