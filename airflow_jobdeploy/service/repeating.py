"""What is tried again and again is said when it is another trouble than before, and else once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

AGAIN_S = 60.0


class Repeating:
    """Says lines, but not the same one again within `AGAIN_S` seconds. Of one attempt that is repeated."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last = ""
        self._said_at = 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if text != self._last or now - self._said_at >= AGAIN_S:
            self._last, self._said_at = text, now
            self._say(text)
