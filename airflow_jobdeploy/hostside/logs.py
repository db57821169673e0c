"""The log of a job: its last lines, its cap, what we add to it. The bytes are the command's own; we only append."""

from __future__ import annotations

import os
import re
from typing import Iterable, Tuple

from airflow_jobdeploy.hostside import files, kernel
from airflow_jobdeploy.hostside.layout import JobPaths

LAST_LINES = 5
LAST_BYTES = 2000
_TAIL = 4096
_BLOCK = 4096
#: ANSI escapes, then every other control character but the tab.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[@-_]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def size(paths: JobPaths) -> int:
    try:
        return os.stat(paths.log).st_size
    except OSError:
        return 0


def dropped_until(paths: JobPaths) -> int:
    """Offset up to which the cap has removed the head of the log."""
    try:
        return int((files.read_json(paths.log_cap) or {}).get("dropped_until", 0))
    except files.Damaged:
        return 0


def tail(paths: JobPaths, count: int = _TAIL) -> bytes:
    """The last `count` bytes."""
    try:
        with open(paths.log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - count))
            return file.read(count)
    except OSError:
        return b""


def last_lines(data: bytes, hidden: Iterable[str] = ()) -> str:
    """At most 5 lines and 2000 bytes from the end: decoded, without control characters and `hidden` values."""
    text = data.decode("utf-8", "replace")
    for value in hidden:
        text = text.replace(value, "***") if value else text
    lines = [shown(line) for line in text.split("\n")]
    kept = "\n".join([line for line in lines if line.strip()][-LAST_LINES:])
    return kept.encode()[-LAST_BYTES:].decode("utf-8", "ignore")


def shown(line: str) -> str:
    """A line as a person sees it."""
    # A progress bar rewrites its line: what was written last is what a person saw.
    parts = [part for part in line.split("\r") if part.strip()]
    return _CONTROL.sub("", parts[-1]).rstrip() if parts else ""


def append(paths: JobPaths, line: str) -> None:
    """Add a line of ours, on a line of its own. A full disk loses it: the facts say the same."""
    start = b"" if tail(paths, 1) in (b"", b"\n") else b"\n"
    try:
        with open(paths.log, "ab") as file:
            file.write(start + line.encode("utf-8", "replace") + b"\n")
    except OSError:
        pass


def cap(paths: JobPaths, limit_bytes: int) -> bool:
    """Drop the head of a log that has grown a quarter over its limit; offsets stay. False: not possible here.

    The record is written before the hole is made, so that nobody takes zeros for what the job wrote.
    """
    before = dropped_until(paths)
    total = size(paths)
    if total - before <= limit_bytes + max(limit_bytes // 4, _BLOCK):
        return True
    until = (total - limit_bytes) // _BLOCK * _BLOCK
    files.write_json(paths.log_cap, {"dropped_until": until, "dropped_bytes": until})
    with open(paths.log, "rb+") as file:
        if kernel.punch_hole(file.fileno(), 0, until):
            return True
    files.write_json(paths.log_cap, {"dropped_until": before, "dropped_bytes": before})
    return False


def read(paths: JobPaths, offset: int, limit: int) -> Tuple[int, int, int, bytes]:
    """(actual start, bytes dropped before it, size of the log, data)."""
    start = max(offset, dropped_until(paths))
    try:
        with open(paths.log, "rb") as file:
            file.seek(start)
            data = file.read(limit)
    except FileNotFoundError:
        data = b""
    # The cap may have moved while we read: what it dropped reads as zeros and is not the job's.
    moved = dropped_until(paths)
    if moved > start:
        data = data[moved - start :]
        start = moved
    return start, start - offset, size(paths), data
