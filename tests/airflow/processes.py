"""Processes by their pids: who is below whom, when one ends, and signals to some of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path


def children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return found


def tree(pid: int) -> list[int]:
    """A process and all below it."""
    return [pid, *(below for child in children(pid) for below in tree(child))]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def crowded() -> float:
    """By how much what takes time takes longer than on a machine that has nothing else to do: 1.0 or more."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def send(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@contextlib.contextmanager
def stopped(pids: list[int]) -> Iterator[None]:
    """SIGSTOP, and SIGCONT at the end."""
    send(pids, signal.SIGSTOP)
    try:
        yield
    finally:
        send(pids, signal.SIGCONT)


class Life:
    """A process whose end is noted when it comes: pidfd_open(2)."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended_at: float | None = None
        try:
            self._file = os.pidfd_open(pid)
        except ProcessLookupError:
            self.ended_at = time.time()
            return
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._file, select.POLLIN)
        poll.poll()
        self.ended_at = time.time()
        os.close(self._file)

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    def end(self, timeout_s: float = 240) -> float:
        """Wait for its end; when that was, as time.time()."""
        if self.ended_at is None:
            self._thread.join(timeout_s)
        assert self.ended_at is not None, f"process {self.pid} is alive after {timeout_s} s"
        return self.ended_at
