"""Trees to a host, as requests of one session: ask for it by name, offer its manifest, fill what is lacking, use it.

One round trip when the tree is there; else the manifest goes, the worker says what it lacks, and that follows as one
stream without headers: both sides know names and sizes. See the ops in hostside/serve.py.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.backends.base import Progress, TreeBusy, TreeGone, TreeReport
from airflow_jobdeploy.backends.session import Refusal, Session
from airflow_jobdeploy.core.manifest import Entry, Foreseeing, Manifest, TreeSource
from airflow_jobdeploy.errors import StagingError, WorkerError

#: What is read of a large file at once, and how much of small files is gathered before it is sent, in bytes.
_PIECE = 512 * 1024
#: The manifest is compressed as little as is worth it: most of it are digests.
_LEVEL = 1
#: The offer of a large tree may keep the worker's disk busy; it gives signs of life meanwhile.
_OFFER_S = 60.0


def has(session: Session, name: str) -> bool:
    """See `Backend.has_tree`."""
    answer = session.request("tree", name=name, reply_s=_OFFER_S)
    _check_free(session, answer)
    return bool(answer["have"])


def use(session: Session, job_id: str, role: str, name: str) -> None:
    """See `Backend.use_tree`."""
    with gone():
        try:
            session.request("use", job=job_id, role=role, name=name, reply_s=_OFFER_S)
        except Refusal as error:
            if error.code == "disk-full":
                raise StagingError(f"the {role} could not be given to job {job_id}: {error}") from error
            raise


@contextmanager
def gone() -> Iterator[None]:
    """Within: a refusal that names a tree that is not there is TreeGone."""
    try:
        yield
    except Refusal as error:
        if error.code == "no-such-tree":
            raise TreeGone(str(error)) from error
        raise


def send(session: Session, source: TreeSource, progress: Progress) -> TreeReport:
    """See `Backend.send_tree`."""
    try:
        try:
            return _sent(session, source, progress)
        except _Spoilt:  # what had come of a file before does not go with the rest: it is gone there now
            return _sent(session, source, progress)
    except TreeBusy:
        raise
    except Refusal as error:  # nothing of it is waited for any more
        raise StagingError(f"the tree could not be brought to {error}") from error
    except BaseException:
        session.close()  # between the offer and the last byte nobody else may bring the tree
        raise


class _Spoilt(Refusal):
    """A file that was gone on with is not what was announced."""


def _sent(session: Session, source: TreeSource, progress: Progress) -> TreeReport:
    manifest = source.manifest
    known = manifest.name if manifest.is_known else ""
    text = manifest.text
    offer = session.send_bytes(
        "offer", [zlib.compress(text, _LEVEL)], name=known, version=source.version, size=len(text)
    )
    _check_free(session, offer)
    if offer["have"]:
        return TreeReport(name=offer["name"], files=manifest.files, bytes=manifest.bytes, manifest=manifest)
    lacks = _lacks(manifest, offer)
    todo = sum(lack.size for lack in lacks)
    progress(0, todo)
    if isinstance(source, Foreseeing):
        source.expect([lack.entry for lack in lacks if not lack.offset])
    digests: dict[str, str] = {}
    try:
        answer = session.send_bytes("fill", _told(_contents(source, lacks, digests), progress, todo))
    except Refusal as error:
        if error.code == "damaged" and any(lack.offset for lack in lacks):
            raise _Spoilt(error.code, str(error)) from error
        raise
    whole = _completed(manifest, answer.get("contents") or [])
    _check_same(session, whole, str(answer["name"]), digests)
    return TreeReport(
        name=whole.name,
        files=whole.files,
        bytes=whole.bytes,
        sent_files=len(lacks),
        sent_bytes=todo,
        manifest=whole,
    )


def _check_free(session: Session, answer: Mapping[str, Any]) -> None:
    busy = answer.get("busy")
    if busy is not None:
        done, todo = int(busy.get("bytes") or 0), int(busy.get("of") or 0)
        text = f"{session.worker}: another session ({busy.get('by') or 'unknown'}) is bringing the same tree"
        raise TreeBusy(text, done_bytes=done, todo_bytes=todo)


@dataclass(frozen=True)
class _Lack:
    """A file of which the worker has the first `offset` bytes."""

    entry: Entry
    offset: int

    @property
    def size(self) -> int:
        return self.entry.size - self.offset


def _lacks(manifest: Manifest, offer: Mapping[str, Any]) -> list[_Lack]:
    """What is to be sent, in the manifest's order: runs of entries, those of them that are files with a content."""
    offsets = {int(index): int(offset) for index, offset in offer.get("offsets", ())}
    found = []
    for first, count in offer["lacks"]:
        for index in range(first, first + count):
            entry = manifest.entries[index]
            if entry.is_file and entry.size:
                found.append(_Lack(entry, offsets.get(index, 0)))
    return found


def _contents(source: TreeSource, lacks: Sequence[_Lack], digests: dict[str, str]) -> Iterator[bytes]:
    """The bytes of all these files, one after the other, small ones gathered; digests of those that had none."""
    held: list[bytes] = []
    size = 0
    for lack in lacks:
        for piece in _pieces(source, lack, digests):
            held.append(piece)
            size += len(piece)
            if size >= _PIECE:
                yield b"".join(held) if len(held) > 1 else held[0]
                held, size = [], 0
    if held:
        yield b"".join(held)


def _pieces(source: TreeSource, lack: _Lack, digests: dict[str, str]) -> Iterator[bytes]:
    entry, left = lack.entry, lack.size
    digest = hashlib.sha256() if not entry.content and not lack.offset else None
    with source.open(entry, lack.offset) as file:
        while left:
            piece = file.read(min(left, _PIECE))
            if not piece:
                text = f"{entry.path!r} shrank while it was sent: {entry.size - left} of {entry.size} bytes were there"
                raise StagingError(f"{text}. Send it again when nobody writes to it")
            left -= len(piece)
            if digest is not None:
                digest.update(piece)
            yield piece
    if digest is not None:
        digests[entry.path] = digest.hexdigest()


def _told(pieces: Iterator[bytes], progress: Progress, todo: int) -> Iterator[bytes]:
    done = 0
    for piece in pieces:
        yield piece
        done += len(piece)
        progress(done, todo)


def _completed(manifest: Manifest, contents: Sequence[str]) -> Manifest:
    """With the sha256 of files that nobody had read, as the worker found them."""
    if manifest.is_known:
        return manifest
    rest = iter(contents)
    entries = (
        entry._replace(content=str(next(rest, ""))) if entry.is_file and not entry.content else entry
        for entry in manifest.entries
    )
    return Manifest.of(entries)


def _check_same(session: Session, manifest: Manifest, name: str, digests: Mapping[str, str]) -> None:
    """Does the worker name the same tree, from the same bytes?"""
    for entry in manifest.entries:
        if digests and digests.get(entry.path, entry.content) != entry.content:
            raise StagingError(f"{entry.path!r} arrived damaged at {session.worker}: its sha256 differs. Send it again")
    if not manifest.is_known or manifest.name != name:
        raise WorkerError(f"{session.worker} names the tree {name!r}, which is not what was sent")
