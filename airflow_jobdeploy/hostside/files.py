"""Small files that several processes read and write: whole or not at all, on a full disk and when killed half-way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import time
from typing import Any, Optional

#: Bytes set aside for a job's state and for its exit record, at the claim.
STATE_RESERVE = 8 * 1024
EXIT_RESERVE = 16 * 1024

_LIMIT = 64 * 1024 * 1024
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class Damaged(Exception):
    """A file of ours does not hold what it should; the text names it and says how."""


def to_json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=True, separators=(",", ":")).encode()


def read_json(path: str) -> Optional[dict]:
    """The object in a file, None when there is no file. Damaged when it holds something else."""
    data = _read_settled(path)
    if data is None:
        return None
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise Damaged("%s is damaged: %s (%d bytes)" % (path, error, len(data))) from None
    if not isinstance(value, dict):
        raise Damaged("%s is damaged: it holds no JSON object" % path)
    return value


def _read_settled(path: str) -> Optional[bytes]:
    # `write_swapped` reuses the inode before last: what was read counts only if its file is still the current one.
    data: Optional[bytes] = None
    for _ in range(20):
        try:
            with open(path, "rb") as file:
                before = os.fstat(file.fileno())
                data = file.read(_LIMIT)
            after = os.stat(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Damaged("%s cannot be read: %s" % (path, error.strerror)) from None
        if (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns):
            break
    return data


def read_small(path: str, limit: int) -> Optional[bytes]:
    """At most `limit` + 1 bytes of a regular file that a job may have written; None for anything else.

    A job may put a FIFO, a link or a directory there: nothing is followed, nothing blocks.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(limit + 1)
    finally:
        os.close(fd)


def write_json(path: str, value: Any, sync: bool = False) -> None:
    """Write beside, then rename. OSError when the disk is full or read-only; then nothing has changed."""
    beside = "%s.%d.new" % (path, os.getpid())
    try:
        with open(beside, "wb", opener=_private) as file:
            file.write(to_json(value))
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.rename(beside, path)
    except OSError:
        forget_file(beside)
        raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def reserve(path: str, size: int, sync: bool = False) -> None:
    """Set aside the blocks of a record that must be written on a full disk, too. `sync`: down to the disk."""
    with open(path, "wb", opener=_private) as file:
        file.write(b" " * size)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def write_reserved(path: str, reserved: str, value: Any) -> None:
    """Write a record once into its reserved blocks, then give it its name: in place, fsync, rename. Needs no space."""
    try:
        _overwrite(reserved, to_json(value), sync=True)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # Copy-on-write filesystems want new blocks for old ones: give ours back first.
        forget_file(reserved)
        _overwrite(reserved, to_json(value), sync=True)
    os.rename(reserved, path)


def write_swapped(path: str, reserved: str, value: Any) -> None:
    """Rewrite a record without needing free space: two files take turns, each whole under its name."""
    spare = path + ".spare"
    if not os.path.exists(reserved) and os.path.exists(spare):  # killed between the renames below
        os.rename(spare, reserved)
    _overwrite(reserved, to_json(value))
    forget_file(spare)
    try:
        os.link(path, spare)
    except OSError:  # no such file yet, or a filesystem without links: the next write makes a new reserve
        os.rename(reserved, path)
        return
    os.rename(reserved, path)
    os.rename(spare, reserved)


def _overwrite(path: str, data: bytes, sync: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        size = max(len(data), os.fstat(fd).st_size)
        view = memoryview(data.ljust(size))
        while view:
            view = view[os.write(fd, view) :]
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


def forget_file(path: str) -> None:
    """Remove a file that may be gone, or not ours to remove: nothing depends on it."""
    try:
        os.unlink(path)
    except OSError:
        pass


def private_dir(path: str) -> str:
    """Make a directory and its parents, 0700 where new."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def remove_tree(path: str) -> None:
    """Remove a directory, also one that a job has closed to us (chmod 000). Links are not followed."""
    if os.path.islink(path):
        forget_file(path)
        return
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    if os.path.isdir(path):
        for folder, folders, _ in os.walk(path):
            for name in [".", *folders]:
                inner = os.path.join(folder, name)
                if not os.path.islink(inner):
                    _open_up(inner)
        shutil.rmtree(path, ignore_errors=True)


def _open_up(path: str) -> None:
    try:
        os.chmod(path, 0o700)
    except OSError:  # another user's: rmtree has said so already by leaving it
        pass


class Lock:
    """An exclusive flock on a file, kept until `release` or the death of its holder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def take(self, wait_s: float = 0.0) -> bool:
        """Take the lock; probes of others hold it for microseconds, so a loser tries again for `wait_s` seconds."""
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + wait_s
        while not _flock(self._fd, fcntl.LOCK_EX):
            if time.monotonic() >= until:
                self.release()
                return False
            time.sleep(0.01)  # a blocking flock could not be bounded
        return True

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    @property
    def is_current(self) -> bool:
        """Is it ours, and still the file of that name? Its directory may have been renamed or removed meanwhile."""
        try:
            return self._fd >= 0 and os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def write(self, data: bytes) -> None:
        """Say something to who waits for it: at the beginning of the file, over what stood there."""
        os.pwrite(self._fd, data, 0)


def is_locked(path: str) -> Optional[bool]:
    """Does somebody hold this lock? None: the filesystem has no locks, or there is no such file."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # not to write: closing it would ring the bells of watchers
    except OSError:
        return None
    try:
        return not _flock(fd, fcntl.LOCK_SH)
    except OSError:
        return None
    finally:
        os.close(fd)


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if kind == fcntl.LOCK_EX and error.errno in _NO_LOCKS:
            return True  # liveness is told by pid and start time then; see judge.is_supervised
        raise
    return True
