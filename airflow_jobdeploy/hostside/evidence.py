"""Evidence about an end that the exit status does not tell: memory, disk, known failures."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Optional, Tuple

#: Less than this free on a filesystem counts as full, in bytes.
FULL_BYTES = 64 * 1024

_NO_LIMIT = 1 << 60

Reading = Tuple[int, int]


def memory_reading() -> Reading:
    """(kills by the kernel in our cgroup, kills on the whole host), to be compared with a later one."""
    return _cgroup_kills(), _keyed("/proc/vmstat", "oom_kill")


def was_oom(before: Reading, after: Reading) -> bool:
    return any(late > early for early, late in zip(before, after))


def memory_limit() -> Tuple[int, int]:
    """(limit, most ever used or 0) in bytes: of our cgroup, or of the host where that has no limit."""
    total = host_memory()
    folder, v2 = _memory_cgroup()
    limit = _number(os.path.join(folder, "memory.max" if v2 else "memory.limit_in_bytes")) if folder else None
    if not folder or limit is None or limit >= min(_NO_LIMIT, total or _NO_LIMIT):
        return total, 0
    peak = _number(os.path.join(folder, "memory.peak" if v2 else "memory.max_usage_in_bytes"))
    return limit, peak or 0


def host_memory() -> int:
    return _keyed("/proc/meminfo", "MemTotal:") * 1024


def _cgroup_kills() -> int:
    folder, v2 = _memory_cgroup()
    name = "memory.events" if v2 else "memory.oom_control"
    return _keyed(os.path.join(folder, name), "oom_kill") if folder else 0


def _memory_cgroup() -> Tuple[str, bool]:
    # cgroups(7): "0::/path" is the unified hierarchy, "4:memory:/path" one of version 1.
    found, v2 = "", False
    for line in _lines("/proc/self/cgroup"):
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            return _existing("/sys/fs/cgroup/memory", path), False
        if number == "0" and not controllers:
            found, v2 = _existing("/sys/fs/cgroup", path), True
    return found, v2


def _existing(mount: str, path: str) -> str:
    # In a container the path may be the host's: then the mount itself is our cgroup.
    full = os.path.normpath(mount + "/" + path)
    return full if os.path.isdir(full) else mount


def free_bytes(path: str) -> Optional[int]:
    """Free space for us on the filesystem of `path`."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    blocks = found.f_bfree if os.geteuid() == 0 else found.f_bavail
    return blocks * found.f_frsize


def full_disk(paths: List[str]) -> Dict[str, Any]:
    """Facts about the first of these paths whose filesystem is full; empty when none is."""
    for path in paths:
        free = free_bytes(path)
        if free is not None and free < FULL_BYTES:
            return {"disk_free_bytes": free, "disk_path": path}
    return {}


def hint(tail: bytes, temporary: str) -> str:
    """Advice for a known failure that the end of the log names; "" when none is known."""
    for sign, text in _HINTS:
        if sign in tail:
            return text.replace("{tmp}", temporary)
    return ""


def status_hint(status: Optional[int], path: str) -> str:
    """Advice for an exit status that shells have given a meaning; "" for others."""
    if status == 127:
        return "127 means that a program was not found on this worker; PATH there is %s" % path
    return ""


_VENV = (
    "list the packages under `requirements` of the job spec, or make a virtual environment in the job, as the example "
    "template venv.yaml does"
)
_HINTS = (
    (b"externally-managed-environment", "This host's Python is managed by its system: " + _VENV),
    (b"No module named pip", "This host's Python has no pip: " + _VENV),
    (
        b"open terminal failed: not a terminal",
        "This build needs a terminal. On the worker run: TMUX_TMPDIR={tmp} tmux attach",
    ),
    (
        b"failed to map segment from shared object",
        "A file system that is mounted noexec loads no compiled packages: set another `root`, or TMPDIR elsewhere",
    ),
    (b"$'\\r': command not found", "The script has Windows line ends (CRLF): save it with Unix ones"),
)


def _keyed(path: str, key: str) -> int:
    for line in _lines(path):
        fields = line.split()
        if len(fields) >= 2 and fields[0] == key and fields[1].isdigit():
            return int(fields[1])
    return 0


def _number(path: str) -> Optional[int]:
    found = "".join(_lines(path)).strip()
    return int(found) if found.isdigit() else None


def _lines(path: str) -> List[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []
