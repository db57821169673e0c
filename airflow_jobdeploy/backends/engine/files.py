"""Trees in and out of volumes, as tar streams of the engine's archive endpoint."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import queue
import re
import tarfile
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, cast

from airflow_jobdeploy.backends.base import ArtifactFile, Upload, UploadNews
from airflow_jobdeploy.backends.engine import names, outputs
from airflow_jobdeploy.backends.engine.api import EngineError
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.said import METRICS, NOTHING
from airflow_jobdeploy.backends.engine.tar import MTIME, Content, Pieces, below
from airflow_jobdeploy.backends.engine.tar import files as tar_files
from airflow_jobdeploy.errors import StagingError, WorkerError, nearest
from airflow_jobdeploy.hostside.upload import send_all

_PIECE = 256 * 1024
#: What arrives is kept in memory up to so many bytes, until it is known to be whole.
_SPOOL_BYTES = 16 * 1024 * 1024
_HERE = f"{names.TOP}/place"


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder of a volume; "" for all of it."""

    volume: str
    folder: str = ""

    @property
    def path(self) -> str:
        return f"{_HERE}/{self.folder}" if self.folder else _HERE


# -- in ------------------------------------------------------------------------------------------------------------


def send(places: Places, place: Place, archive: Iterable[bytes], *, what: str, worker: str) -> None:
    """Unpack a tar stream in a place. StagingError for one that is damaged or leads out: nothing of it is there."""
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as spool:
        try:
            _check(archive, cast("IO[bytes]", spool))
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise StagingError(f"the {what} could not be brought to {worker}: {error}") from error
        spool.seek(0)
        with places.helper({place.volume: _HERE}) as helper:
            places.put_stream(helper, place.path, iter(lambda: spool.read(_PIECE), b""))


def _check(archive: Iterable[bytes], spool: IO[bytes]) -> None:
    """Copy a tar stream, member by member; what a job's account must read, everybody may: nobody else sees it."""
    stream = Pieces(archive)
    with (
        tarfile.open(fileobj=cast(Any, _Reader(stream)), mode="r|", errors="surrogateescape") as source,
        tarfile.open(fileobj=spool, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as target,
    ):
        for member in source:
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if member.name.startswith("/") or ".." in parts:
                raise ValueError(f"{member.name!r} leads out of it")
            if not (member.isreg() or member.isdir() or member.issym()):
                raise ValueError(f"{member.name!r} is neither a file, a folder nor a symbolic link")
            if member.issym():
                _check_link(member, len(parts) - 1)
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mode = 0o777 if member.isdir() else 0o666 | (0o111 if member.mode & 0o100 else 0)
            target.addfile(member, source.extractfile(member) if member.isreg() else None)
    stream.drain()


def _check_link(member: tarfile.TarInfo, depth: int) -> None:
    for part in member.linkname.split("/"):
        depth += -1 if part == ".." else 0 if part in ("", ".") else 1
        if depth < 0 or member.linkname.startswith("/"):
            raise ValueError(f"the link {member.name!r} -> {member.linkname!r} leads out of it")


class _Reader:
    """Pieces as a file, for tarfile."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    def read(self, size: int) -> bytes:
        return self._pieces.read(size)


# -- out -----------------------------------------------------------------------------------------------------------


def receive(places: Places, place: Place) -> Iterator[bytes]:
    """The files of a place as a tar stream, their names below it."""
    with places.helper({place.volume: _HERE}) as helper, places.get(helper, place.path) as pieces:
        for name, content in tar_files(Pieces(pieces)):
            entry = tarfile.TarInfo(below(name))
            entry.size, entry.mode, entry.mtime = content.left, 0o600, MTIME
            padding = -content.left % tarfile.BLOCKSIZE
            yield entry.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
            while piece := content.read(min(content.left, _PIECE)):
                yield piece
            yield bytes(padding)
    yield bytes(2 * tarfile.BLOCKSIZE)


def manifest(places: Places, jobs: Jobs, job_id: str, listing: Listing, match: str | None) -> list[ArtifactFile]:
    """The files of a job's output: as its container has listed them at its end, else read for it."""
    jobs.state(job_id, listing, counts_log=False)
    report, said = jobs.output(job_id) or ({}, NOTHING)
    listed = outputs.listed_files(report)
    if listed is not None:
        found = [ArtifactFile(path=path, size=size, sha256=sha, mode=mode) for path, size, sha, mode in listed]
    else:
        found = list(_read(places, job_id, listing, re.compile(match or ".*", re.DOTALL).fullmatch))
    jobs.files(job_id).update((file.path, file) for file in found)
    metrics = said.artifact()
    if metrics is not None and all(file.path != METRICS for file in found):
        found.append(metrics)
    return sorted(found, key=lambda file: file.path.split("/"))


def _read(places: Places, job_id: str, listing: Listing, wanted: Any) -> Iterator[ArtifactFile]:
    with _unless_missing(), _output(places, job_id, listing) as pieces:
        for name, content in tar_files(Pieces(pieces)):
            if not wanted(below(name)):
                continue
            digest, size = hashlib.sha256(), content.left
            while piece := content.read(min(content.left, _PIECE)):
                digest.update(piece)
            yield ArtifactFile(path=below(name), size=size, sha256=digest.hexdigest())


@contextlib.contextmanager
def _unless_missing() -> Iterator[None]:
    """An attempt that has not started has no output directory."""
    try:
        yield
    except EngineError as error:
        if not error.is_missing:
            raise


@contextlib.contextmanager
def _output(places: Places, job_id: str, listing: Listing, path: str = "") -> Iterator[Iterator[bytes]]:
    """The output directory, or a file of it, as a tar stream: through its container, or a helper where that is gone."""
    with contextlib.ExitStack() as stack:
        listed = listing.containers.get(job_id)
        through = listed["Id"] if listed is not None else stack.enter_context(places.helper({job_id: names.JOB}))
        yield stack.enter_context(places.get(through, f"{names.OUTPUT}/{path}" if path else names.OUTPUT))


def fetch(
    places: Places, jobs: Jobs, job_id: str, listing: Listing, paths: Sequence[str], offset: int, worker: str
) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
    """See `Backend.fetch`."""
    jobs.state(job_id, listing, counts_log=False)
    known = jobs.files(job_id)
    if not known.keys() >= set(paths):
        known = {file.path: file for file in manifest(places, jobs, job_id, listing, None)}
    if missing := [path for path in paths if path not in known]:
        hint = nearest(missing[0], known)
        raise WorkerError(f"{worker}: job {job_id} has no output file {missing[0]!r}.{hint}")
    wanted = set(paths)
    ordered = {path: file for path, file in known.items() if path in wanted}
    metrics = (jobs.output(job_id) or ({}, NOTHING))[1].metrics
    return _fetched(places, job_id, listing, ordered, offset, worker, metrics or b"")


def _fetched(
    places: Places,
    job_id: str,
    listing: Listing,
    wanted: Mapping[str, ArtifactFile],
    offset: int,
    worker: str,
    metrics: bytes,
) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
    left = dict(wanted)
    try:
        with _output(places, job_id, listing) as pieces:
            stream = Pieces(pieces)
            for name, content in tar_files(stream) if wanted else ():
                path = below(name)
                if path not in left:
                    continue
                if METRICS in left and METRICS.split("/") < path.split("/"):  # the one that is not there
                    yield left.pop(METRICS), io.BytesIO(_behind(metrics, offset, METRICS, worker))
                    offset = 0
                if offset:
                    _skip(content, offset, path, worker)
                    offset = 0
                yield left.pop(path), cast("IO[bytes]", content)
            stream.drain()
    except tarfile.TarError as error:
        raise StagingError(f"the files of job {job_id} arrived damaged from {worker}: {error}") from error
    except EngineError as error:
        raise StagingError(f"the files of job {job_id} could not be fetched: {error}") from error
    if METRICS in left:
        yield left.pop(METRICS), io.BytesIO(_behind(metrics, offset, METRICS, worker))
    if left:
        raise StagingError(f"{worker}: {next(iter(left))!r} of job {job_id} was removed")


def _behind(data: bytes, offset: int, path: str, worker: str) -> bytes:
    if len(data) < offset:
        raise StagingError(f"{worker}: {path!r} has {len(data)} bytes now, fewer than {offset}")
    return data[offset:]


def _skip(content: Content, offset: int, path: str, worker: str) -> None:
    if content.left < offset:
        raise StagingError(f"{worker}: {path!r} has {content.left} bytes now, fewer than {offset}")
    while offset:
        offset -= len(content.read(min(offset, _PIECE)))


# -- to an object store --------------------------------------------------------------------------------------------


def upload(places: Places, jobs: Jobs, job_id: str, listing: Listing, orders: Sequence[Upload]) -> Iterator[UploadNews]:
    """See `Backend.upload`. A container that has ended sends nothing: the bytes go through this machine."""
    known = {file.path for file in manifest(places, jobs, job_id, listing, None)}
    metrics = (jobs.output(job_id) or ({}, NOTHING))[1].metrics or b""
    one_at_once = threading.Lock()  # an engine's session is used by one thread at a time; sending is not

    def opened(path: str) -> IO[bytes]:
        if path not in known:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with one_at_once:
            return _spooled(places, job_id, listing, path, metrics)

    news: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def send_them() -> None:
        try:
            send_all([asdict(order) for order in orders], opened, news.put)
        finally:
            news.put(None)

    threading.Thread(target=send_them, name="jobdeploy-upload", daemon=True).start()
    while (told := news.get()) is not None:
        yield UploadNews(**told)


def _spooled(places: Places, job_id: str, listing: Listing, path: str, metrics: bytes) -> IO[bytes]:
    """One output file, read whole."""
    spool = cast("IO[bytes]", tempfile.SpooledTemporaryFile(_SPOOL_BYTES))  # noqa: SIM115 - closed by who asked for it
    found = False
    with contextlib.suppress(EngineError), _output(places, job_id, listing, path) as pieces:
        for _, content in tar_files(Pieces(pieces)):
            found = True
            while piece := content.read(min(content.left, _PIECE)):
                spool.write(piece)
    if not found:
        spool.write(metrics)
    spool.seek(0)
    return spool
