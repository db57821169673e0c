"""What Python itself cannot ask of the kernel: subreaper, death signal, holes in files, the clock that counts sleep.

Through ctypes, where there is one (minimal builds lack it) and where the kernel is Linux. Each function says whether it
worked; what does not work is reported to the near side by `facts.capabilities`, never guessed.
"""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from typing import Any, Optional

try:
    import ctypes
except ImportError:
    ctypes = None  # type: ignore[assignment]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_FALLOC_KEEP_SIZE_AND_PUNCH_HOLE = 0x01 | 0x02  # linux/falloc.h
_F_SETPIPE_SZ = 1031  # linux/fcntl.h; named in Python only from 3.10 on
#: The most that the kernel gives to a pipe of an ordinary user, in bytes: /proc/sys/fs/pipe-max-size.
_WIDE_BYTES = 1024 * 1024

HAS_CTYPES = ctypes is not None
IS_LINUX = sys.platform.startswith("linux")

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_loaded: Optional[Any] = None


def boottime_s() -> float:
    """Seconds since the host booted, suspended time included: no change of the wall clock moves it."""
    return time.clock_gettime(_CLOCK)


def _libc() -> Optional[Any]:
    global _loaded
    if _loaded is None and HAS_CTYPES and IS_LINUX:
        _loaded = ctypes.CDLL(None, use_errno=True)
    return _loaded


def _prctl(option: int, value: int) -> bool:
    libc = _libc()
    return libc is not None and libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) == 0


def become_subreaper() -> bool:
    """Orphans among our descendants become our children, so that we see them and their end."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> bool:
    """Called in a child: SIGKILL me when my parent dies. Not inherited by what I fork."""
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def punch_hole(fd: int, offset: int, length: int) -> bool:
    """Give back the blocks of a range of a file: reads as zeros, size and offsets stay. False: not possible here."""
    libc = _libc()
    if libc is None:
        return False
    call = getattr(libc, "fallocate64", None) or getattr(libc, "fallocate", None)
    if call is None:
        return False
    return call(fd, _FALLOC_KEEP_SIZE_AND_PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length)) == 0


def widen_pipe(fd: int) -> bool:
    """Let a pipe hold 1 MiB instead of 64 KiB: sshd and we wake each other so much less often, and a stream runs at
    twice the rate. False: it is no pipe, or this user has as many large ones as he may (pipe(7))."""
    if not IS_LINUX:
        return False
    try:
        fcntl.fcntl(fd, _F_SETPIPE_SZ, _WIDE_BYTES)
    except OSError:
        return False
    return True


def inotify() -> Optional[int]:
    """A new inotify(7) descriptor that does not block; None where there is none, or the user has too many."""
    libc = _libc()
    call = getattr(libc, "inotify_init1", None)
    fd = call(os.O_NONBLOCK | os.O_CLOEXEC) if call else -1
    return fd if fd >= 0 else None


def inotify_add(fd: int, path: str, mask: int) -> int:
    """The number under which events of `path` come; negative when it cannot be watched."""
    libc = _libc()
    return int(libc.inotify_add_watch(fd, os.fsencode(path), mask)) if libc is not None else -1
