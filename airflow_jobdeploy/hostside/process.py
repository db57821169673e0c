"""Processes as `/proc` shows them. Without `/proc` (macOS) every question is answered "nothing seen".

A pid alone names nothing: it is reused. A process is a pid and its start time; a zombie is not alive, whatever
`kill -0` says (an init that reaps late leaves it there for seconds).
"""

from __future__ import annotations

import os
from typing import Dict, Iterator, List, NamedTuple, Optional, Set

HAS_PROC = os.path.exists("/proc/self/stat")


class Process(NamedTuple):
    """One line of /proc/<pid>/stat. `start`: clock ticks since boot; `rss_bytes`: memory it holds now."""

    pid: int
    comm: str
    state: str
    ppid: int
    start: int
    rss_bytes: int

    @property
    def is_alive(self) -> bool:
        return self.state not in "ZX"


_PAGE = os.sysconf("SC_PAGE_SIZE")


def look(pid: int) -> Optional[Process]:
    """The process with this pid, or None."""
    data = _read("/proc/%d/stat" % pid)
    if data is None:
        return None
    head, _, tail = data.rpartition(b")")
    fields = tail.split()
    if len(fields) < 22:
        return None
    comm = head.partition(b"(")[2].decode("utf-8", "replace")
    state = fields[0].decode()
    if state == "Z" and _has_threads(pid):
        state = "S"
    return Process(pid, comm, state, int(fields[1]), int(fields[19]), int(fields[21]) * _PAGE)


def most_bytes(process: Process) -> int:
    """The most memory that a live process has held so far."""
    for line in (_read("/proc/%d/status" % process.pid) or b"").splitlines():
        if line.startswith(b"VmHWM:"):  # in kB, proc(5)
            return int(line.split()[1]) * 1024
    return process.rss_bytes


def _has_threads(pid: int) -> bool:
    # A main thread that has ended shows as a zombie while others of its process run on.
    try:
        return len(os.listdir("/proc/%d/task" % pid)) > 1
    except OSError:
        return False


def is_alive(pid: object, start: object) -> bool:
    """Is exactly this process (pid and start time) still running?"""
    if not isinstance(pid, int) or pid <= 0:
        return False
    if not HAS_PROC:
        return _answers(pid)
    found = look(pid)
    return found is not None and found.is_alive and (start is None or found.start == start)


def _answers(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def all_pids() -> List[int]:
    """Every pid that /proc lists."""
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def descendants(root: int) -> List[Process]:
    """Everything alive below `root`, which itself is left out."""
    if not HAS_PROC:
        return []
    by_parent = None if _has_children_files() else _parents()
    found: Dict[int, Process] = {}
    todo = [root]
    while todo:
        pid = todo.pop()
        below = _children(pid) if by_parent is None else by_parent.get(pid, [])
        for child in below:
            seen = look(child) if child not in found else None
            if seen is not None:
                found[child] = seen
                todo.append(child)
    return [process for process in found.values() if process.is_alive]


def is_below(pid: int, root: int) -> bool:
    """Does `pid` descend from `root`, by the parents that live?"""
    for _ in range(1000):  # a chain that changes while we climb has an end, too
        found = look(pid)
        if found is None or found.ppid <= 1:
            return False
        pid = found.ppid
        if pid == root:
            return True
    return False


def _has_children_files() -> bool:
    # Kernels without CONFIG_PROC_CHILDREN are asked the slow way: all of /proc.
    return os.path.exists("/proc/self/task/%d/children" % os.getpid())


def _children(pid: int) -> Iterator[int]:
    try:
        threads = os.listdir("/proc/%d/task" % pid)
    except OSError:
        return
    for thread in threads:
        data = _read("/proc/%d/task/%s/children" % (pid, thread))
        for child in (data or b"").split():
            yield int(child)


def _parents() -> Dict[int, List[int]]:
    table: Dict[int, List[int]] = {}
    for pid in all_pids():
        seen = look(pid)
        if seen is not None:
            table.setdefault(seen.ppid, []).append(pid)
    return table


def carriers(name: str, value: str) -> List[Process]:
    """Processes of this user whose environment holds `name=value` (root: of any user), ourselves left out."""
    wanted = ("\0%s=%s\0" % (name, value)).encode()
    mine = {os.getpid()}
    found = (look(pid) for pid in all_pids() if pid not in mine and wanted in environment(pid))
    return [process for process in found if process is not None and process.is_alive]


def environment(pid: int) -> bytes:
    """NUL before and after each variable; b"" where it is not ours to read."""
    user = os.geteuid()
    try:
        if user != 0 and os.stat("/proc/%d" % pid).st_uid != user:
            return b""
    except OSError:
        return b""
    return b"\0" + (_read("/proc/%d/environ" % pid) or b"") + b"\0"


def with_descendants(processes: List[Process]) -> List[Process]:
    """The given processes and everything below them."""
    known: Set[int] = {process.pid for process in processes}
    result = list(processes)
    for process in processes:
        for below in descendants(process.pid):
            if below.pid not in known:
                known.add(below.pid)
                result.append(below)
    return result


def _read(path: str) -> Optional[bytes]:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:  # it ended meanwhile, or is not ours to read
        return None
