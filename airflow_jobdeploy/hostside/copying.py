"""A writable copy of a tree for one job: by reference where the filesystem can (xfs, btrfs, ...), else byte by byte."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from typing import Callable, List, Tuple

#: ioctl_ficlone(2)
_FICLONE = 0x40049409
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM)
_PIECE = 1024 * 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = _READ | os.O_DIRECTORY
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Copy:
    """Copies one tree. `look` is called now and then: what it raises ends the copying."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        #: Can the filesystem share the blocks of files?
        self.clones = True

    def make(self, source: str, target: str) -> None:
        """Make `target`, which must not exist. OSError on a full disk; whoever called removes what is there then."""
        os.mkdir(target, 0o700)
        todo: List[Tuple[bytes, bytes]] = [(os.fsencode(source), os.fsencode(target))]
        while todo:
            here, there = todo.pop()
            todo += self._folder(here, there)

    def _folder(self, source: bytes, target: bytes) -> List[Tuple[bytes, bytes]]:
        """Copy what lies in a folder; the folders in it, made already."""
        found = []
        here = os.open(source, _FOLDER)
        try:
            there = os.open(target, _FOLDER)
            try:
                # `source` is bytes, so that names come as the kernel has them, whatever the locale.
                for entry in os.scandir(source):
                    if entry.is_symlink():
                        os.symlink(os.readlink(entry.name, dir_fd=here), entry.name, dir_fd=there)
                    elif entry.is_dir():
                        os.mkdir(entry.name, 0o700, dir_fd=there)
                        found.append((entry.path, os.path.join(target, entry.name)))
                    else:
                        self._file(entry.name, here, there)
            finally:
                os.close(there)
        finally:
            os.close(here)
        self._look()
        return found

    def _file(self, name: bytes, here: int, there: int) -> None:
        source = os.open(name, _READ, dir_fd=here)
        try:
            found = os.fstat(source)
            mode = 0o700 if found.st_mode & stat.S_IXUSR else 0o600
            target = os.open(name, _CREATE, mode, dir_fd=there)
            try:
                if not self._is_cloned(source, target):
                    self._copy(source, target, found.st_size)
            except OSError as error:
                error.filename = error.filename or os.fsdecode(name)
                raise
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _is_cloned(self, source: int, target: int) -> bool:
        if not self.clones:
            return False
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            self.clones = False
        return self.clones

    def _copy(self, source: int, target: int, left: int) -> None:
        while left:
            piece = memoryview(os.read(source, min(left, _PIECE)))
            if not piece:
                raise OSError(errno.EIO, "a file of the tree has shrunk while it was copied")
            left -= len(piece)
            while piece:
                piece = piece[os.write(target, piece) :]
            if left:
                self._look()
