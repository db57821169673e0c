"""Small objects of a storage, read by several threads before their turn comes: each request costs a round trip, and a
hundred thousand of them one after the other are hours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from airflow_jobdeploy.core.manifest import Entry

#: Objects up to this size, in bytes, are read ahead; larger ones keep the line busy by themselves.
SMALL_BYTES = 4 * 1024 * 1024
#: So much may be held, in bytes and in objects.
HELD_BYTES, HELD = 64 * 1024 * 1024, 256
_THREADS = 16


class Ahead:
    """Reads the small ones of `wanted`, in this order, as far ahead of who takes them as HELD_BYTES allow."""

    def __init__(self, read: Callable[[Entry], bytes], wanted: Sequence[Entry]) -> None:
        self._read = read
        self._todo = deque(entry for entry in wanted if entry.size <= SMALL_BYTES)
        self._begun: deque[tuple[Entry, Future[bytes]]] = deque()
        self._held = 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="jobdeploy-ahead")
        self._go_on()

    def take(self, entry: Entry) -> bytes | None:
        """The content of an object; None when it is not among those that come next. Raises what reading raised."""
        if all(begun.path != entry.path for begun, _ in self._begun):
            return None
        while True:
            begun, future = self._begun.popleft()
            self._held -= begun.size
            if begun.path == entry.path:
                break
            future.cancel()  # not asked for after all
        self._go_on()
        return future.result()

    def close(self) -> None:
        """Read nothing more. Waits for nobody: what is being read is small."""
        self._todo.clear()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _go_on(self) -> None:
        while self._todo and len(self._begun) < HELD and self._held + self._todo[0].size <= HELD_BYTES:
            entry = self._todo.popleft()
            self._held += entry.size
            self._begun.append((entry, self._pool.submit(self._read, entry)))
        if not self._todo and not self._begun:
            self.close()
