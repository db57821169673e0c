"""At most a few handshakes at a time from this machine to one worker.

A stock sshd refuses connections at random once 10 of them are unauthenticated (`MaxStartups 10:30:100`,
sshd_config(5)); 500 tasks that start at once would lose half of their connects. Processes of one
account share the gate through lock files that the kernel frees when a process dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from airflow_jobdeploy.errors import WorkerError

#: Handshakes at once to one worker; two fewer than a stock sshd lets wait.
WIDTH = 8


@contextlib.contextmanager
def connecting(worker: str, width: int = WIDTH) -> Iterator[None]:
    """Hold one of `width` places while a connection to `worker` is made."""
    with _place(own_directory() / hashlib.sha256(worker.encode()).hexdigest()[:20], width):
        yield


@contextlib.contextmanager
def _place(directory: Path, width: int) -> Iterator[None]:
    directory.mkdir(mode=0o700, exist_ok=True)
    held = _first_free(directory, width)
    if held is None:  # all taken: queue at one of them, the kernel wakes us
        held = os.open(directory / str(random.randrange(width)), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except BaseException:
            os.close(held)
            raise
    try:
        yield
    finally:
        os.close(held)


def _first_free(directory: Path, width: int) -> int | None:
    for number in range(width):
        lock = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return lock
    return None


def own_directory() -> Path:
    """A directory of this account alone below the temporary one, for what its processes have to agree on.

    WorkerError when somebody else made it.
    """
    path = Path(tempfile.gettempdir()) / f"jobdeploy-connect-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    if found.st_uid != os.getuid() or not path.is_dir() or path.is_symlink():
        raise WorkerError(f"{path} belongs to another account or is no directory: remove it, or set TMPDIR")
    return path
