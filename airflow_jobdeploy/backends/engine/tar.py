"""Files for an engine's archive endpoint, and from it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from airflow_jobdeploy.backends.arriving import Content, Pieces, files

#: One time for all files, so that a write by a job shows.
MTIME = 1_000_000_000


class Member(NamedTuple):
    """A file, or a folder where `data` is None."""

    path: str
    data: bytes | None
    mode: int = 0o644

    def info(self) -> tarfile.TarInfo:
        entry = tarfile.TarInfo(self.path)
        entry.mode, entry.mtime = self.mode, MTIME
        if self.data is None:
            entry.type = tarfile.DIRTYPE
        else:
            entry.size = len(self.data)
        return entry


def folder(path: str, mode: int) -> Member:
    return Member(path, None, mode)


def pack(members: Iterable[Member]) -> bytes:
    """A tar of small files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
        for member in members:
            archive.addfile(member.info(), io.BytesIO(member.data or b""))
    return out.getvalue()


def small_files(pieces: Iterable[bytes], limit: int) -> Iterator[tuple[str, bytes]]:
    """(path below the folder that was asked for, content) of regular files; of large ones the first `limit` bytes."""
    stream = Pieces(pieces)
    for name, content in files(stream):
        yield below(name), content.read(min(content.left, limit))
    stream.drain()


def below(name: str) -> str:
    """The engine names files with the last part of the path that was asked for in front."""
    return name.partition("/")[2] or name


__all__ = ["MTIME", "Content", "Member", "Pieces", "below", "files", "folder", "pack", "small_files"]
