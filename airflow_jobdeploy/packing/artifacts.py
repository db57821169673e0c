"""A job's output files, brought to a local directory: only what is not there yet, verified, whole or not at all."""

# Paths of files are text here: pathlib's objects would cost 5,000 files half a second.
# ruff: noqa: PTH103, PTH104, PTH108, PTH120, PTH123

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from airflow_jobdeploy.errors import StagingError, nearest

_READ = 1024 * 1024
_FIRST = 100
_INCOMING = ".jobdeploy-"

#: Called after each file with: files there, files in all, bytes moved, bytes to move.
Progress = Callable[[int, int, int, int], None]


class RemoteFile(Protocol):
    """One file of a manifest."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def mode(self) -> int: ...


FileT = TypeVar("FileT", bound=RemoteFile)


class Source(Protocol[FileT]):
    """What of a backend is needed here."""

    def manifest(self, job_id: str) -> list[FileT]: ...
    def fetch(self, job_id: str, paths: Sequence[str]) -> Iterator[tuple[FileT, IO[bytes]]]: ...


@dataclass(frozen=True, kw_only=True)
class DownloadReport:
    """What is there now. `bytes`: moved; `skipped`: files that were there already, unchanged."""

    dest: str
    files: tuple[Mapping[str, Any], ...]
    bytes: int
    skipped: int

    def to_dict(self) -> dict[str, Any]:
        """For XCom: the first 100 files, and how many there are."""
        files = [dict(file) for file in self.files[:_FIRST]]
        return {
            "dest": self.dest,
            "files": files,
            "file_count": len(self.files),
            "bytes": self.bytes,
            "skipped": self.skipped,
        }


def download(
    backend: Source[FileT],
    job_id: str,
    dest: Path,
    patterns: Sequence[str] = ("**",),
    progress: Progress | None = None,
) -> DownloadReport:
    """Bring the output files that match `patterns` (`**` crosses directories) below `dest`.

    A file is verified by its sha256 and appears under its name in one step; one that is there with the same content
    is left alone. Raises StagingError for paths that leave `dest` (before anything moves), damaged bytes,
    a full disk, and patterns that match nothing; WorkerUnreachable when the worker cannot be asked.
    """
    files = select(backend.manifest(job_id), patterns, job_id)
    dest = Path(dest).expanduser().absolute()
    places = _Places(dest)
    targets = {file.path: places.target(file.path) for file in files}
    todo = [file for file in files if not _is_there(targets[file.path], file)]
    moved = 0
    if todo:
        with _explained(dest):
            dest.mkdir(parents=True, exist_ok=True)
            moved = _bring(backend, job_id, todo, (places, targets), dest, len(files), progress)
    told = tuple({"path": file.path, "size": file.size, "sha256": file.sha256} for file in files)
    return DownloadReport(dest=str(dest), files=told, bytes=moved, skipped=len(files) - len(todo))


# -- choosing -------------------------------------------------------------------------------------------------------


def select(files: Sequence[FileT], patterns: Sequence[str], job_id: str) -> list[FileT]:
    """The files that match any of the patterns. StagingError when a pattern other than `**` matches none."""
    chosen: set[str] = set()
    for pattern in patterns:
        matcher = _regex(pattern)
        hits = {file.path for file in files if matcher.fullmatch(file.path)}
        if not hits and pattern != "**":
            names = ", ".join(repr(file.path) for file in files[:10]) or "nothing"
            hint = nearest(pattern, [file.path for file in files])
            raise StagingError(f"no output file of job {job_id} matches {pattern!r}.{hint} The job left {names}")
        chosen |= hits
    return [file for file in files if file.path in chosen]


def _regex(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a directory, `**` crosses directories, `[...]` is a set of characters."""
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    text = "".join(known.get(part) or (_set(part) if part.startswith("[") else re.escape(part)) for part in parts)
    return re.compile(text, re.DOTALL)


def _set(part: str) -> str:
    """By way of fnmatch, which knows what to make of `[z-a]` and the like."""
    text = fnmatch.translate(part)
    return "(?!/)" + text[text.index(":") + 1 : text.rindex(")")]


# -- places ---------------------------------------------------------------------------------------------------------


class _Places:
    """Where files go below `dest`. Folders on the way are looked at, and made, once: 5,000 files lie in few of them."""

    def __init__(self, dest: Path) -> None:
        self._dest = str(dest)
        self._fit: set[str] = set()
        self._made: set[str] = set()

    def target(self, name: str) -> str:
        """StagingError when the file's name, or a link below `dest`, leads elsewhere."""
        parts = [part for part in name.split("/") if part not in ("", ".")]
        own = bool(parts) and parts[0].startswith(_INCOMING)
        if not parts or name.startswith("/") or ".." in parts or "\0" in name or own:
            raise StagingError(f"refused: the output file {name!r} would leave {self._dest}")
        place = self._dest
        for part in parts[:-1]:
            place = f"{place}/{part}"
            if place not in self._fit:
                self._check(place, name)
        target = f"{place}/{parts[-1]}"
        if stat.S_ISDIR(_mode(target)):
            raise StagingError(f"refused: {target} is a directory here and a file there: remove it first")
        return target

    def _check(self, place: str, name: str) -> None:
        mode = _mode(place)
        if mode and not stat.S_ISDIR(mode):
            what = "a link" if stat.S_ISLNK(mode) else "a file"
            raise StagingError(f"refused: {name!r} would be written through {place}, which is {what}: remove it first")
        self._fit.add(place)

    def make_folder(self, target: str) -> None:
        """The folder of a file."""
        folder = os.path.dirname(target)
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)


def _mode(path: str) -> int:
    """Type and mode of what is there, links not followed; 0 when nothing is."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _is_there(target: str, file: RemoteFile) -> bool:
    try:
        found = os.lstat(target)
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.size:
            return False
        with open(target, "rb", buffering=0) as content:
            return _sha256(content) == file.sha256
    except OSError:
        return False  # it is brought again, and what is wrong with the place is said then


def _sha256(content: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while data := content.read(_READ):
        digest.update(data)
    return digest.hexdigest()


# -- bringing -------------------------------------------------------------------------------------------------------


def _bring(
    backend: Source[FileT],
    job_id: str,
    todo: Sequence[FileT],
    where: tuple[_Places, Mapping[str, str]],
    dest: Path,
    total: int,
    progress: Progress | None,
) -> int:
    places, targets = where
    wanted = {file.path: file for file in todo}
    to_move = sum(file.size for file in todo)
    _check_room(dest, to_move)
    moved = 0
    with _incoming(dest) as incoming:
        for file, content in backend.fetch(job_id, list(wanted)):
            expected = wanted.pop(file.path, None)
            if expected is None:
                raise StagingError(f"job {job_id}: the worker sent {file.path!r}, which was not asked for")
            _store(content, expected, f"{incoming}/file")
            places.make_folder(targets[expected.path])
            os.rename(f"{incoming}/file", targets[expected.path])
            moved += expected.size
            if progress is not None:
                progress(total - len(wanted), total, moved, to_move)
    if wanted:
        names = ", ".join(repr(name) for name in list(wanted)[:10])
        raise StagingError(f"job {job_id}: the worker did not send {names}: were they removed there?")
    return moved


def _store(content: IO[bytes], file: RemoteFile, beside: str) -> None:
    """Write one file and verify it."""
    digest, size = hashlib.sha256(), 0
    # The mode that any new file here gets, and executable when it was.
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o777 if file.mode & 0o100 else 0o666)
    try:
        while data := content.read(_READ):
            digest.update(data)
            size += len(data)
            _write(descriptor, data)
    finally:
        os.close(descriptor)
    if digest.hexdigest() != file.sha256 or size != file.size:
        os.unlink(beside)
        seen = f"{size} bytes with sha256 {digest.hexdigest()[:12]}..., expected {file.size} with {file.sha256[:12]}..."
        raise StagingError(
            f"{file.path!r} is not what the manifest says ({seen}): it was changed after the job's end, or damaged"
        )


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _incoming(dest: Path) -> Iterator[Path]:
    """A directory for files on their way, on the same file system; locked, so that the next finds what is left over."""
    for old in dest.glob(_INCOMING + "*"):
        with contextlib.suppress(BlockingIOError, FileNotFoundError, NotADirectoryError), _locked(old):
            shutil.rmtree(old, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=dest))
    try:
        with _locked(place):
            yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _check_room(dest: Path, needed: int) -> None:
    free = shutil.disk_usage(dest).free
    if needed > free:
        raise StagingError(f"{dest} has {free} bytes free, the artifacts need {needed}: nothing was fetched")


@contextlib.contextmanager
def _explained(dest: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or dest
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk of {dest} is full: what is there is whole, fetch again when there is room"
            raise StagingError(text) from error
        raise StagingError(f"cannot write artifacts to {place}: {error.strerror or error}") from error
