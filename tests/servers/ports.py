"""Ports of 127.0.0.1 for servers of tests: one that no other test of this machine has, nor gets meanwhile.

A port that the kernel gives away for the asking may be another process's before its server listens there: that of a
client even, and whoever connects would talk to a stranger. These lie below the ports that the kernel gives to clients,
and each is locked for as long as this process lives.
"""

from __future__ import annotations

import fcntl
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

_LEAST = 20_000
#: Open files are locks: the kernel frees them with their holder.
_held: list[IO[str]] = []


def free_port() -> int:
    """A port on which nobody listens, and none of ours will but who has asked."""
    folder = Path(tempfile.gettempdir()) / "jobdeploy-test-ports"
    folder.mkdir(mode=0o700, exist_ok=True)
    end = _first_of_clients()
    for port in random.sample(range(_LEAST, end), end - _LEAST):
        file = (folder / str(port)).open("w")
        if _is_locked_for_us(file) and _is_free(port):
            _held.append(file)
            return port
        file.close()
    raise AssertionError(f"no port is free from {_LEAST} to {end}")


def _first_of_clients() -> int:
    """ip(7): the kernel gives ports from here on to who connects."""
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except OSError:  # not Linux
        first = 0
    return first if first > _LEAST + 1000 else 32_768


def _is_locked_for_us(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # connections that have just ended are in nobody's way
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
