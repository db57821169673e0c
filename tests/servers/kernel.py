"""What the kernel says of a process, seen from outside its namespaces."""

from __future__ import annotations

import os
from pathlib import Path


def pid_space(pid: int | None) -> str:
    """Its PID namespace; "" when it is gone."""
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""


def read(pid: int, name: str) -> bytes:
    """A file of /proc/<pid>; b"" when the process is gone."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    """A zombie is not."""
    return read(pid, "stat").rpartition(b") ")[2][:1] not in (b"", b"Z")


def pid_inside(pid: int) -> int:
    """The number by which a process is known in its own namespace; 0 when it has ended meanwhile."""
    lines = [line for line in read(pid, "status").decode().splitlines() if line.startswith("NSpid:")]
    return int(lines[0].split()[-1]) if lines else 0


def all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]
