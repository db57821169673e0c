"""A project directory as a tar stream: read once, in bounded memory, the same bytes for the same tree."""

from __future__ import annotations

import builtins
import hashlib
import os
import posixpath
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO

from airflow_jobdeploy.core.manifest import EXECUTABLE, FILE, FOLDER, LINK, Entry, Manifest
from airflow_jobdeploy.core.words import counted, size
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import git
from airflow_jobdeploy.packing.ignoring import Ignored
from airflow_jobdeploy.packing.listing import by_git, by_walk

#: Size of the pieces given out, in bytes: about a write of a channel.
_PIECE = 256 * 1024
#: How many names of a kind messages and `first_left_out` give.
_FIRST = 10


@dataclass(frozen=True, kw_only=True)
class ProjectArchive:
    """What will be sent; iterate for the tar stream, as often as needed.

    Iterating raises StagingError when a file has vanished or shrunk meanwhile: the worker then keeps nothing.
    """

    root: Path
    #: Regular files and links, and their bytes.
    files: int
    bytes: int
    #: Files and directories that stay behind, as told by `git` or the usual rules.
    left_out: int = 0
    first_left_out: tuple[str, ...] = ()
    #: Sockets, pipes and devices: nothing to send.
    skipped: tuple[str, ...] = ()
    entries: tuple[tarfile.TarInfo, ...] = field(repr=False, default=())

    def __str__(self) -> str:
        """One line for the log."""
        text = f"{counted(self.files, 'file')}, {size(self.bytes)} from {self.root}"
        if self.left_out:
            text += f"; left out: {_some(self.first_left_out, self.left_out)}"
        if self.skipped:
            text += f"; skipped (no regular files): {_some(self.skipped[:_FIRST], len(self.skipped))}"
        return text

    #: Its files are read for their names: see TreeSource.
    version = ""

    @cached_property
    def manifest(self) -> Manifest:
        """Reads every file. StagingError."""
        return Manifest.of(map(self._named, self.entries))

    def _named(self, entry: tarfile.TarInfo) -> Entry:
        if entry.isdir():
            return Entry(entry.name, FOLDER)
        if entry.issym():
            return Entry(entry.name, LINK, 0, entry.linkname)
        digest = hashlib.sha256()
        with self._file(entry.name) as file:
            for data in iter(lambda: file.read(_PIECE), b""):
                digest.update(data)
            count = file.tell()
        return Entry(entry.name, EXECUTABLE if entry.mode & 0o100 else FILE, count, digest.hexdigest())

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        """See TreeSource."""
        file = self._file(entry.path)
        file.seek(offset)
        return file

    def _file(self, name: str) -> IO[builtins.bytes]:
        try:
            return builtins.open(self.root / name, "rb", buffering=0, opener=_not_following)
        except OSError as error:
            raise StagingError(f"{name!r} of the project cannot be read: {error.strerror}") from error

    def __iter__(self) -> Iterator[builtins.bytes]:
        piece = bytearray()
        for entry in self.entries:
            for data in _entry_bytes(self.root, entry):
                piece += data
                if len(piece) >= _PIECE:
                    yield bytes(piece)
                    piece.clear()
        yield bytes(piece) + bytes(2 * tarfile.BLOCKSIZE)


def _not_following(path: str, flags: int) -> int:
    """Neither a link nor a pipe that took the file's place since is followed or waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def archive(project_dir: str | os.PathLike[str], *, ignore: Sequence[str] = ()) -> ProjectArchive:
    """Look through a project directory; nothing but names and sizes is read yet.

    Where git rules, its tracked and untracked files are the project and ignored ones stay; else all but
    `listing.BY_PRODUCTS`. `ignore`: further patterns. Raises StagingError naming all links that lead out
    of the project and all files that cannot be read.
    """
    root = Path(project_dir).expanduser()
    if not root.is_dir():
        raise StagingError(f"the project directory {root} {'is no directory' if root.exists() else 'does not exist'}")
    root = root.resolve()
    kept, left_out = _listed(root, ignore)
    entries: list[tarfile.TarInfo] = []
    skipped: list[str] = []
    problems: list[str] = []
    for name in kept:
        found = _entry(root, name)
        if isinstance(found, tarfile.TarInfo):
            entries.append(found)
        elif found:
            problems.append(found)
        else:
            skipped.append(name)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems[:_FIRST])
        more = f"\n  and {len(problems) - _FIRST} more" if len(problems) > _FIRST else ""
        raise StagingError(f"the project {root} cannot be sent:\n{lines}{more}")
    return ProjectArchive(
        root=root,
        files=sum(not entry.isdir() for entry in entries),
        bytes=sum(entry.size for entry in entries),
        left_out=len(left_out),
        first_left_out=tuple(left_out[:_FIRST]),
        skipped=tuple(skipped),
        entries=tuple(entries),
    )


def _listed(root: Path, ignore: Sequence[str]) -> tuple[list[str], list[str]]:
    where = git.folder(str(root))
    listed = (by_git(where, git.status(where)) if where else None) or by_walk(str(root))
    kept, dropped = Ignored(ignore).split(listed.files)
    return kept, sorted({*listed.left_out, *dropped})


def _entry(root: Path, name: str) -> tarfile.TarInfo | str:
    """The header of one file; a sentence about what is wrong with it; "" for what is no file."""
    path = root / name
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return _link(root, name, str(path.readlink()))
    except OSError as error:
        return f"{name!r} cannot be looked at: {error.strerror}"
    if stat.S_ISDIR(found.st_mode):
        return _header(name.rstrip("/"), found, tarfile.DIRTYPE)
    if not stat.S_ISREG(found.st_mode):
        return ""
    if not os.access(path, os.R_OK):
        return f"{name!r} cannot be read by this account: make it readable, or let git ignore it"
    return _header(name, found, tarfile.REGTYPE)


def _link(root: Path, name: str, target: str) -> tarfile.TarInfo | str:
    inside = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    leaves = posixpath.isabs(target) or inside == ".." or inside.startswith("../")
    if leaves or not Path(os.path.realpath(root / inside)).is_relative_to(root):
        return f"{name!r} is a link to {target!r}, which leads out of the project: copy it in, or make it relative"
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    return entry


def _header(name: str, found: os.stat_result, kind: bytes) -> tarfile.TarInfo:
    """Owners and groups are not sent: they mean nothing on the other machine."""
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.mtime = kind, stat.S_IMODE(found.st_mode) & 0o777, int(found.st_mtime)
    entry.size = found.st_size if kind == tarfile.REGTYPE else 0
    return entry


def _entry_bytes(root: Path, entry: tarfile.TarInfo) -> Iterator[bytes]:
    yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if not entry.isreg():
        return
    left = entry.size
    try:
        # Neither a link nor a pipe that took the file's place since is followed or waited for.
        file = os.open(root / entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StagingError(f"{entry.name!r} of the project cannot be read: {error.strerror}") from error
    try:
        while left:
            data = os.read(file, min(left, _PIECE))
            if not data:
                text = f"{entry.name!r} shrank while it was sent: {entry.size - left} of {entry.size} bytes were there"
                raise StagingError(f"{text}. Nothing was kept on the worker; send it again when nobody writes to it")
            left -= len(data)
            yield data
    except OSError as error:
        raise StagingError(f"{entry.name!r} of the project cannot be read: {error.strerror}") from error
    finally:
        os.close(file)
    yield bytes(-entry.size % tarfile.BLOCKSIZE)


def _some(names: Sequence[str], count: int) -> str:
    shown = ", ".join(repr(name) for name in names)
    return shown + (f" and {count - len(names)} more" if count > len(names) else "")
