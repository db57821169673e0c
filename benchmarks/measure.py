"""How things are measured: interleaved runs, medians, CPU and memory of processes as /proc tells them."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
#: Fields of /proc/PID/stat after the name, see proc(5): utime, stime, cutime, cstime.
_USED, _CHILDREN = slice(11, 13), slice(13, 15)


def interleaved(cases: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each case; one round runs them all, every other one backwards, so that no case is always last."""
    seen: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases)[:: 1 if number % 2 == 0 else -1]:
            seen[name].append(cases[name]())
    return {name: statistics.median(values) for name, values in seen.items()}


def wall_s(action: Callable[[], object]) -> float:
    """Seconds that a call took."""
    begun = time.perf_counter()
    action()
    return time.perf_counter() - begun


def percentile(values: Iterable[float], share: float) -> float:
    """The value that `share` (0..1) of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


# -- processes ------------------------------------------------------------------------------------------------------


def host_pids(server: int, mark: str) -> set[int]:
    """What stands for the far side here: an sshd with all below it, and whatever carries `mark` in its command line
    or environment (supervisors and jobs, which outlive their sessions)."""
    below, pids = {server}, _all_pids()
    parents = {pid: _parent(pid) for pid in pids}
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in below} - below
        grown = bool(more)
        below |= more
    needle = mark.encode()
    ours = {os.getpid(), os.getppid()}
    return (below | {pid for pid in pids if needle in _marks(pid) and parents[pid] not in ours}) - ours


def cpu_s(pids: Iterable[int]) -> dict[int, float]:
    """CPU seconds of live processes and of the children that they have waited for."""
    return {pid: used for pid in pids if (used := _cpu_of(pid)) is not None}


def cpu_between(before: Mapping[int, float], after: Mapping[int, float]) -> float:
    """CPU seconds used between two readings; what began in between counts whole."""
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def private_bytes(pid: int) -> int:
    """Memory that would be free again without this process."""
    total = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name in ("Private_Clean", "Private_Dirty"):
            total += int(rest.split()[0]) * 1024
    return total


def rss_bytes() -> int:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _all_pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return []


def _parent(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[1]) if fields else 0


def _cpu_of(pid: int) -> float | None:
    fields = _stat(pid)
    if not fields:
        return None
    children_s = sum(map(int, fields[_CHILDREN])) * _TICK_S
    with suppress(OSError, ValueError):  # in nanoseconds: 500 supervisors use less than a tick each
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return children_s + sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
    return children_s + sum(map(int, fields[_USED])) * _TICK_S


def _marks(pid: int) -> bytes:
    found = b""
    for name in ("cmdline", "environ"):
        with suppress(OSError):
            found += Path(f"/proc/{pid}/{name}").read_bytes()
    return found
