"""A wait that another thread, or a signal handler, can end.

`threading.Event` is no good for the latter: a handler that runs while its own thread is inside
`Event.wait` or `clear` would wait for a lock that its own thread holds. A pipe has no lock.
"""

from __future__ import annotations

import os
import select


class Waker:
    """A self-pipe. `wake` may be called from anywhere, any number of times; one `wait` takes them all."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def fileno(self) -> int:
        """For select: readable once woken."""
        return self._reader

    def wake(self) -> None:
        """End the present or the next `wait`."""
        try:
            os.write(self._writer, b"!")
        except (BlockingIOError, OSError):
            return  # full: it is awake already; closed: nobody waits any more

    def drain(self) -> None:
        """Forget the wakes so far."""
        try:
            while os.read(self._reader, 4096):
                continue
        except BlockingIOError:
            return

    def wait(self, timeout_s: float) -> bool:
        """Wait to be woken, at most `timeout_s`. True when woken."""
        woken = bool(select.select([self._reader], [], [], max(0.0, timeout_s))[0])
        if woken:
            self.drain()
        return woken

    def close(self) -> None:
        """Let go of both ends; further wakes go nowhere."""
        reader, writer, self._reader, self._writer = self._reader, self._writer, -1, -1
        for descriptor in (reader, writer):
            if descriptor >= 0:
                os.close(descriptor)
