"""A job's output files, brought to where they are wanted: only what is not there yet, verified, whole or not at all."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, Protocol, TypeVar

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.arrival import Arrival, Sink, described
from airflow_jobdeploy.packing.choosing import FileT, RemoteFile, regex, select
from airflow_jobdeploy.packing.folder import Folder

_FIRST = 100
_DIGEST = re.compile("[0-9a-f]{64}")
#: So often a file of a running job is read again that changes while it is read.
_READINGS = 3
#: So often a stream may end because a file of a running job is gone.
_VANISHED = 5
_READ = 1024 * 1024
#: Files of at most so many bytes are held in memory.
_SMALL = 256 * 1024

T = TypeVar("T")
#: Called as bytes come with: files there, files in all, bytes moved, bytes to move.
Progress = Callable[[int, int, int, int], None]


class Source(Protocol[FileT]):
    """What of a backend is needed here."""

    def manifest(self, job_id: str, match: str | None = None) -> list[FileT]: ...
    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[FileT, IO[bytes]]]: ...


class Target(Protocol):
    """Where files go: a folder (folder.py), or a place in an object store (objects.py).

    What goes wrong with the place itself is a StagingError.
    """

    @property
    def name(self) -> str:
        """What people call it."""

    def missing(self, files: Sequence[FileT]) -> list[FileT]:
        """The files that are not there with the same content. Writes nothing; StagingError for names that lead out."""

    def open(self, needed_bytes: int) -> None:
        """Get ready to write. StagingError when it cannot be, before anything moves."""

    def begun(self, files: Sequence[FileT]) -> FileT | None:
        """One of these files whose beginning a download has left that was cut; None when there is none."""

    def sink(self, file: RemoteFile) -> Sink:
        """Where the content of a file goes."""

    def put(self, file: RemoteFile, data: bytes) -> None:
        """A small file, whole and verified, under its name."""

    def delivered(self, files: Sequence[RemoteFile]) -> None:
        """These files have their names now, by way of a sink or otherwise."""

    def close(self, kept: RemoteFile | None = None) -> None:
        """Clear up, however it ended; `kept` is half there."""


@dataclass(frozen=True, kw_only=True)
class DownloadReport:
    """What is there now. `bytes`: moved; `skipped`: files that were there already, unchanged."""

    dest: str
    files: tuple[Mapping[str, Any], ...]
    bytes: int
    skipped: int
    #: Files of a running job that changed whenever they were read.
    left_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For XCom: the first 100 files, and how many there are."""
        told: dict[str, Any] = {
            "dest": self.dest,
            "files": [dict(file) for file in self.files[:_FIRST]],
            "file_count": len(self.files),
            "bytes": self.bytes,
            "skipped": self.skipped,
        }
        return {**told, "left_out": list(self.left_out[:_FIRST])} if self.left_out else told


def download(
    backend: Source[FileT],
    job_id: str,
    dest: Path,
    patterns: Sequence[str] = ("**",),
    progress: Progress | None = None,
) -> DownloadReport:
    """Bring the output files that match `patterns` (`**` crosses directories) below `dest`, in one go.

    A file is verified by its sha256 and appears under its name in one step; one that is there with the same content
    is left alone. Raises StagingError for paths that leave `dest` (before anything moves), damaged bytes,
    a full disk, and patterns that match nothing; WorkerUnreachable when the worker cannot be asked: called again it
    goes on from there.
    """
    one: Download[FileT] = Download(job_id, Folder(dest), patterns, progress=progress)
    with closing(one):
        return one.run(backend)


class _Vanished(Exception):
    """A running job has removed a file that was listed a moment ago."""


class Download(Generic[FileT]):
    """One download, which may take several connections: `run` is called again after each that was lost.

    `partial`: the job still runs. A file that changes while it is read is read again, and left out in the end; of one
    that only grows what was there when it was listed is delivered.
    """

    def __init__(
        self,
        job_id: str,
        target: Target,
        patterns: Sequence[str] = ("**",),
        *,
        partial: bool = False,
        progress: Progress | None = None,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """`check` is called again and again while bytes move, and ends the download by raising."""
        self.job_id = job_id
        self.target = target
        self.partial = partial
        #: Bytes of files that were brought, or begun.
        self.moved = 0
        self._patterns = tuple(patterns)
        self._progress = progress
        self._check = check
        #: path -> sha256 of what is in its place and right.
        self._there: dict[str, str] = {}
        self._skipped = 0
        self._arrival: Arrival | None = None
        #: path -> how often it was not what the manifest says.
        self._changed: dict[str, int] = {}
        self._vanished = 0

    # -- a pass ------------------------------------------------------------------------------------------------

    def run(self, source: Source[FileT]) -> DownloadReport:
        """Bring what is missing; what is there stays there whatever is raised."""
        while True:
            files = self.listed(source)
            todo = self.missing(files)
            if todo:
                self._bring(source, todo, len(files))
            if all(self._is_there(file) for file in files):
                return self.report(files)

    def listed(self, source: Source[FileT]) -> list[FileT]:
        """The wanted files of the job's manifest, but for those that were given up."""
        match = regex(*self._patterns) if self.partial else None
        files = select(source.manifest(self.job_id, match), self._patterns, self.job_id)
        for file in files:
            if not _DIGEST.fullmatch(file.sha256) or file.size < 0:
                raise StagingError(f"job {self.job_id}: the manifest is damaged at {file.path!r}: {file}")
        return [file for file in files if self._changed.get(file.path, 0) < _READINGS]

    def missing(self, files: Sequence[FileT]) -> list[FileT]:
        """Of these files those that are not there; the others are counted as such."""
        unsure = [file for file in files if not self._is_there(file)]
        todo = self.target.missing(unsure)
        away = {file.path for file in todo}
        self._skipped += len(unsure) - len(todo)
        self._there |= {file.path: file.sha256 for file in unsure if file.path not in away}
        return todo

    def report(self, files: Iterable[FileT]) -> DownloadReport:
        """What is there, once nothing is missing."""
        there = tuple({"path": file.path, "size": file.size, "sha256": file.sha256} for file in files)
        left_out = tuple(sorted(path for path, times in self._changed.items() if times >= _READINGS))
        return DownloadReport(
            dest=self.target.name, files=there, bytes=self.moved, skipped=self._skipped, left_out=left_out
        )

    def delivered(self, file: RemoteFile) -> None:
        """This file is in its place."""
        self._there[file.path] = file.sha256
        self._changed.pop(file.path, None)

    def _is_there(self, file: RemoteFile) -> bool:
        return self._there.get(file.path) == file.sha256

    def close(self) -> None:
        """Clear up; the beginning of a large file stays for the next download, where the place can keep it."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.leave()
        self.target.close(arrival.file if arrival is not None else None)

    # -- bytes -------------------------------------------------------------------------------------------------

    def _bring(self, source: Source[FileT], todo: Sequence[FileT], total: int) -> None:
        """Each file of `todo` in its place, or (of a running job) counted as changed."""
        size = sum(file.size for file in todo)
        self.target.open(size)
        begun = self._begun(todo)
        offset = self._arrival.size if self._arrival is not None else 0
        wanted = {file.path: file for file in todo}
        rest = [path for path in wanted if begun is None or path != begun.path]
        goal = self.moved + size - offset
        try:
            for file, content in self._streams(source, begun, rest, offset):
                expected = wanted.pop(file.path, None)
                if expected is None:
                    raise StagingError(f"job {self.job_id}: the worker sent {file.path!r}, which was not asked for")
                for _ in self._receive(expected, content):
                    self._tell(total - len(wanted) - 1, total, goal)
                self._tell(total - len(wanted), total, goal)
        except _Vanished:
            return  # some were there before: the next pass asks for what is there then
        if wanted:
            names = ", ".join(repr(name) for name in list(wanted)[:10])
            raise StagingError(f"job {self.job_id}: the worker did not send {names}: were they removed there?")

    def _begun(self, todo: Sequence[FileT]) -> FileT | None:
        """The file whose beginning is there, left by this call or one before; it is `self._arrival` then."""
        arrival = self._arrival
        found = next((file for file in todo if arrival is not None and arrival.is_of(file)), None)
        if found is None:
            self._give_up()
            found = self.target.begun(todo)
            if found is not None:
                self._arrival = Arrival(found, self.target.sink(found))
        return found

    def _streams(
        self, source: Source[FileT], begun: FileT | None, rest: list[str], offset: int
    ) -> Iterator[tuple[FileT, IO[bytes]]]:
        if begun is not None:
            yield from self._stream(source, [begun.path], offset)
        if rest:
            yield from self._stream(source, rest, 0)

    def _stream(self, source: Source[FileT], paths: list[str], offset: int) -> Iterator[tuple[FileT, IO[bytes]]]:
        stream = self._asked(lambda: source.fetch(self.job_id, paths, offset))
        while (item := self._asked(lambda: next(stream, None))) is not None:
            yield item

    def _receive(self, file: FileT, content: IO[bytes]) -> Iterator[int]:
        """Write one file, verify it, give it its name; the sizes of the pieces but the last."""
        arrival = self._arrival
        if arrival is None and file.size <= _SMALL:
            self._receive_small(file, content)
            return
        if arrival is None or not arrival.is_of(file):
            arrival = self._arrival = Arrival(file, self.target.sink(file))
        while arrival.left:
            data = self._asked(lambda: content.read(min(_READ, arrival.left)))
            if not data:
                break
            self._write(arrival, data)
            self.moved += len(data)
            self._check()
            if arrival.left:
                yield len(data)
        is_longer = not self.partial and bool(self._asked(lambda: content.read(1)))
        self._settle(arrival, is_longer)

    def _receive_small(self, file: FileT, content: IO[bytes]) -> None:
        """One that is held in memory until it is known to be right: most files are, and this takes half the time."""
        data = self._asked(lambda: _read(content, file.size))
        is_longer = not self.partial and bool(self._asked(lambda: content.read(1)))
        self.moved += len(data)
        self._check()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 == file.sha256 and not is_longer:
            self.target.put(file, data)
            self._settled(file)
        else:
            self._refuse(file, described(len(data), sha256, file), is_longer=is_longer, may_be_ours=False)

    def _write(self, arrival: Arrival, data: bytes) -> None:
        try:
            arrival.write(data)
        except StagingError:
            self._give_up()  # the room that it takes is needed more than its beginning
            raise

    def _settle(self, arrival: Arrival, is_longer: bool) -> None:
        file = arrival.file
        if arrival.is_right and not is_longer:
            arrival.publish()
            self._arrival = None
            self._settled(file)
            return
        self._give_up()
        self._refuse(file, arrival.described, is_longer=is_longer, may_be_ours=bool(arrival.inherited))

    def _settled(self, file: RemoteFile) -> None:
        self.delivered(file)
        self.target.delivered([file])

    def _refuse(self, file: RemoteFile, seen: str, *, is_longer: bool, may_be_ours: bool) -> None:
        """A file that is not what the manifest says: an error, unless it is read again. `may_be_ours`: the beginning
        of it was left by an earlier download."""
        if not (self.partial or may_be_ours):
            more = ", and there is more" if is_longer else ""
            raise StagingError(
                f"{file.path!r} is not what the manifest says ({seen}{more}): "
                "it was changed after the job's end, or damaged"
            )
        self._changed[file.path] = self._changed.get(file.path, 0) + 1

    def _give_up(self) -> None:
        """Of the file on its way nothing is left."""
        arrival, self._arrival = self._arrival, None
        if arrival is not None:
            arrival.discard()

    def _asked(self, question: Callable[[], T]) -> T:
        """What the worker answers: files of a running job come and go."""
        try:
            return question()
        except StagingError as error:
            self._vanished += 1
            if not self.partial or self._vanished > _VANISHED:
                raise
            raise _Vanished from error

    def _tell(self, files: int, total: int, goal: int) -> None:
        if self._progress is not None:
            self._progress(files, total, self.moved, goal)


def _read(content: IO[bytes], size: int) -> bytes:
    """So many bytes; fewer only at the end."""
    data = content.read(size)
    while len(data) < size and (more := content.read(size - len(data))):
        data += more
    return data
