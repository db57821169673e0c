"""What a tree is put together from: a stream that is cut into files, links, folders, files that are whole."""

from __future__ import annotations

import os
from typing import Any, Iterator

from airflow_jobdeploy.hostside import manifest, store
from airflow_jobdeploy.hostside.protocol import OpError

CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
GO_ON = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
MODES = {manifest.FILE: 0o444, manifest.EXECUTABLE: 0o555}
TIMES = (store.MTIME_NS, store.MTIME_NS)


class Stream:
    """Pieces of bytes, cut where files end."""

    def __init__(self, blobs: Iterator[bytes]) -> None:
        self._blobs = blobs
        self._rest = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """At most so many of the next bytes; none at the end."""
        if not self._rest:
            blob = next(self._blobs, b"")
            self._rest = memoryview(blob)
        found, self._rest = self._rest[:most], self._rest[most:]
        return found

    def check_end(self) -> None:
        blob = next(self._blobs, b"")
        if blob or self._rest:
            raise OpError("bad-request", "more bytes came than the files of the tree have")


def sha256() -> Any:
    import hashlib  # here: most sessions receive nothing, and it is 10 ms of their start

    return hashlib.sha256()


def seal(fd: int, entry: list) -> None:
    """The file is whole: from now on it is not written to."""
    if os.fstat(fd).st_mode & 0o777 != MODES[entry[1]]:
        os.fchmod(fd, MODES[entry[1]])
    os.utime(fd, ns=TIMES)


def is_linked(known: store.Known, folder: int, name: bytes, entry: list) -> bool:
    """Has another tree this file, unharmed? Then it is a link to that one."""
    source = known.get((entry[3], entry[1]))
    if source is None:
        return False
    try:
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # gone meanwhile, too many links, another filesystem
        return False
    if store.is_same(folder, name, entry):
        return True
    os.unlink(name, dir_fd=folder)
    return False


def make_link(folder: int, name: bytes, target: bytes) -> None:
    try:
        os.symlink(target, name, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        os.symlink(target, name, dir_fd=folder)


def make_folder(folder: int, name: bytes) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        pass


def write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def write_all(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]
