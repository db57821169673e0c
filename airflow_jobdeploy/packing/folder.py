"""A folder on this machine as the place where output files go."""

# Paths of files are text here: pathlib's objects would cost 5,000 files half a second.
# ruff: noqa: PTH103, PTH104, PTH108

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.choosing import FileT, RemoteFile
from airflow_jobdeploy.packing.digests import Digests, read_all

_READ = 1024 * 1024
_INCOMING = ".jobdeploy-"
#: A file that was cut after so many bytes stays hidden beside the others, and the next download goes on with it.
KEPT_BYTES = 1024 * 1024
_DIGEST = re.compile("[0-9a-f]{64}")


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BEGUN = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC


class Folder:
    """The files below a folder. A file appears in it whole and verified, under its name in one step."""

    def __init__(self, dest: Path) -> None:
        self._dest = Path(dest).expanduser().absolute()
        self.name = str(self._dest)
        self.explained = _Explained(self.name)
        self._places = _Places(self._dest)
        self._targets: dict[str, str] = {}
        #: What lay there when it was looked at, if that was a regular file.
        self._found: dict[str, os.stat_result | None] = {}
        #: What lies below the folder was read, or written, by an earlier download, too.
        self._digests = Digests(self.name)
        self._incoming: _Incoming | None = None

    def missing(self, files: Sequence[FileT]) -> list[FileT]:
        """The files that are not there with the same content. StagingError for names that lead out of the folder."""
        with self.explained:
            for file in files:
                self._targets[file.path], self._found[file.path] = self._places.target(file.path)
        there = self._there(files)
        return [file for file in files if there.get(self._inside(file)) != file.sha256]

    def _there(self, files: Sequence[FileT]) -> dict[str, str]:
        """path -> sha256 of what lies in the place of files and may be the same; unread where that is known."""
        there: dict[str, str] = {}
        unread: list[tuple[str, os.stat_result]] = []
        for file in files:
            path = self._inside(file)
            found = self._found[file.path]
            if found is None or found.st_size != file.size:
                continue
            known = self._digests.sha256(path, found)
            if known is None:
                unread.append((path, found))
            else:
                there[path] = known[0]

        def read(path: str, found: os.stat_result, sha256: str, pointer: bool, at_ns: int) -> None:
            self._digests.keep(path, found, sha256, pointer=pointer, read_at_ns=at_ns)
            there[path] = sha256

        # What cannot be read is brought again, and what is wrong with the place is said then.
        read_all(self.name, unread, read)
        return there

    def _inside(self, file: RemoteFile) -> str:
        return self._targets[file.path][len(self.name) + 1 :]

    def open(self, needed_bytes: int) -> None:
        """Get ready to write files of so many bytes. StagingError when there is no room for them."""
        with self.explained:
            self._dest.mkdir(parents=True, exist_ok=True)
            self._incoming = self._incoming or _Incoming(self._dest)
            free = shutil.disk_usage(self._dest).free + self._incoming.bytes
            if needed_bytes > free:
                raise StagingError(f"{self.name} has {free} bytes free, the artifacts need {needed_bytes}")

    def begun(self, files: Sequence[FileT]) -> FileT | None:
        """One of these files whose beginning a download has left that was cut."""
        there = self._incoming.names if self._incoming is not None else frozenset()
        return next((file for file in files if file.sha256 in there), None)

    def sink(self, file: RemoteFile) -> _FileSink:
        """Where the content of a file goes."""
        assert self._incoming is not None
        with self.explained:
            return _FileSink(self, self._incoming.place(file), file)

    def put(self, file: RemoteFile, data: bytes) -> None:
        """A small file, whole and verified, under its name."""
        assert self._incoming is not None
        beside = self._incoming.name
        with self.explained:
            try:
                descriptor = os.open(beside, _NEW, _mode_of_new(file))
                try:
                    _write_all(descriptor, data)
                finally:
                    os.close(descriptor)
            except OSError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside)
                raise
        self.give_name(beside, file)

    def delivered(self, files: Sequence[RemoteFile]) -> None:
        """All is done as each file gets its name."""

    def close(self, kept: RemoteFile | None = None) -> None:
        """Clear up; what is there of `kept` stays for the next download."""
        self._digests.save()
        if self._incoming is not None:
            self._incoming.close(kept)
        self._incoming = None

    def give_name(self, beside: str, file: RemoteFile) -> None:
        """A whole file gets its place."""
        target = self._targets[file.path]
        with self.explained:
            self._places.make_folder(target)
            os.rename(beside, target)
            self._digests.wrote(self._inside(file), os.lstat(target), file.sha256)


class _Explained:
    """Errors of the disk as StagingErrors. No generator: a file enters it nine times."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"the disk of {self._name} is full: what is there is whole, fetch again when there is room"
            raise StagingError(text) from error
        place = error.filename or self._name
        raise StagingError(f"cannot write artifacts to {place}: {error.strerror or error}") from error


class _FileSink:
    """One file, written beside."""

    def __init__(self, folder: Folder, beside: str, file: RemoteFile) -> None:
        self._folder, self._beside, self._file = folder, beside, file
        self._descriptor = os.open(beside, _BEGUN, _mode_of_new(file))

    def begun(self) -> Iterator[bytes]:
        with self._folder.explained:
            while data := os.read(self._descriptor, _READ):
                yield data

    def write(self, data: bytes) -> None:
        with self._folder.explained:
            _write_all(self._descriptor, data)

    def publish(self) -> None:
        self.leave()
        self._folder.give_name(self._beside, self._file)

    def discard(self) -> None:
        self.leave()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._beside)

    def leave(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _mode_of_new(file: RemoteFile) -> int:
    """The mode that any new file here gets, and executable when it was."""
    return 0o777 if file.mode & 0o100 else 0o666


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# -- places ---------------------------------------------------------------------------------------------------------


class _Places:
    """Where files go below `dest`. Folders on the way are looked at, and made, once: 5,000 files lie in few of them."""

    def __init__(self, dest: Path) -> None:
        self._dest = str(dest)
        self._fit: set[str] = set()
        self._made: set[str] = set()

    def target(self, name: str) -> tuple[str, os.stat_result | None]:
        """The path, and the regular file that is there. StagingError when the name, or a link on the way, leads out."""
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
        try:
            found = os.lstat(target)
        except (FileNotFoundError, NotADirectoryError):
            return target, None
        if stat.S_ISDIR(found.st_mode):
            raise StagingError(f"refused: {target} is a directory here and a file there: remove it first")
        return target, found if stat.S_ISREG(found.st_mode) else None

    def _check(self, place: str, name: str) -> None:
        mode = _mode(place)
        if mode and not stat.S_ISDIR(mode):
            what = "a link" if stat.S_ISLNK(mode) else "a file"
            raise StagingError(f"refused: {name!r} would be written through {place}, which is {what}: remove it first")
        self._fit.add(place)

    def make_folder(self, target: str) -> None:
        """The folder of a file."""
        folder = target.rpartition("/")[0]  # a third of os.path.dirname
        if folder not in self._made:
            os.makedirs(folder, exist_ok=True)
            self._made.add(folder)


def _mode(path: str) -> int:
    """Type and mode of what is there, links not followed; 0 when nothing is."""
    try:
        return os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


# -- files on their way ---------------------------------------------------------------------------------------------


class _Incoming:
    """A directory for files on their way, on the same file system, where each is called by its sha256.

    It is locked, so that others know it is in use, and find what was left over by a download that was cut.
    """

    def __init__(self, dest: Path) -> None:
        self._dir = tempfile.mkdtemp(prefix=_INCOMING, dir=dest)
        self._lock = _locked(self._dir)
        assert self._lock is not None, "a directory of our own making"
        for old in dest.glob(_INCOMING + "*"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                self._inherit(str(old))

    def _inherit(self, old: str) -> None:
        lock = _locked(old)
        if lock is None:
            return
        try:
            for entry in os.scandir(old):
                if _DIGEST.fullmatch(entry.name):
                    os.rename(entry.path, f"{self._dir}/{entry.name}")
            shutil.rmtree(old, ignore_errors=True)
        finally:
            os.close(lock)

    @property
    def name(self) -> str:
        """Where a file is written that is held in memory meanwhile."""
        return f"{self._dir}/file"

    @property
    def names(self) -> frozenset[str]:
        """The sha256 of the files that are half there."""
        return frozenset(entry.name for entry in os.scandir(self._dir))

    @property
    def bytes(self) -> int:
        """How much is there already."""
        return sum(entry.stat(follow_symlinks=False).st_size for entry in os.scandir(self._dir))

    def place(self, file: RemoteFile) -> str:
        """Where this file is written; what was left of it there is its beginning, or gone."""
        place = f"{self._dir}/{file.sha256}"
        found = _mode(place)
        if found and not (stat.S_ISREG(found) and os.lstat(place).st_size <= file.size):
            os.unlink(place)
        return place

    def close(self, kept: RemoteFile | None) -> None:
        assert self._lock is not None
        try:
            place = f"{self._dir}/{kept.sha256}" if kept else ""
            if not (place and _mode(place) and os.lstat(place).st_size >= KEPT_BYTES):
                shutil.rmtree(self._dir, ignore_errors=True)
        finally:
            os.close(self._lock)


def _locked(directory: str) -> int | None:
    """A descriptor that holds the directory's lock; None when somebody else does."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
