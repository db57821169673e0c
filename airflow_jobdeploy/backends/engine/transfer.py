"""One tree on its way to an engine: in turns that are noted, so that what has arrived is not sent again."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.base import Progress, TreeReport
from airflow_jobdeploy.backends.engine import joining, names
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.tar import MTIME, Member
from airflow_jobdeploy.core.manifest import EXECUTABLE, FOLDER, LINK, Entry, Manifest, TreeSource
from airflow_jobdeploy.errors import StagingError

#: Where the store is in the containers through which it is reached.
STORE = f"{names.TOP}/store"
MANIFEST = "manifest.json"
#: How far a transfer is; and, written last, that the tree is whole.
_SENT, WHOLE = "sent.json", "whole"
_PIECE = 512 * 1024
#: A turn is at least this large, and at most that, in bytes: short ones at first, since what is cut is sent again.
_FIRST, _LARGEST, _SHARE = 256 * 1024, 16 * 1024 * 1024, 8
#: Files of more than so many bytes come in parts: so many at most, and of so many bytes at least.
_SPLIT, _PARTS, _PART = 1024 * 1024, 64, 256 * 1024
#: So much of a file that was given up is sent as zeros, for what came before it to arrive.
_PADDED = 16 * 1024 * 1024
#: So many of the latest trees are asked for files that they have, too.
_RELATIVES = 4
_MANIFEST_LIMIT = 64 * 1024 * 1024


def noted(places: Places, container: str, key: str) -> dict[str, Any]:
    """How far the transfer of a tree is; {}: there was none, or it says nothing."""
    data = places.small(container, f"{STORE}/trees/{key}/{_SENT}", _MANIFEST_LIMIT).get(_SENT)
    try:
        return dict(json.loads(data)) if data else {}
    except ValueError:
        return {}


@dataclass(frozen=True)
class _Unit:
    """What is sent as one file: an entry, or a part of one."""

    entry: Entry
    #: Its number among the entries, and among the parts of its entry; -1: it is the whole.
    number: int
    part: int = -1
    offset: int = 0
    size: int = 0


@dataclass
class Transfer:
    """One tree on its way."""

    places: Places
    container: str
    key: str
    source: TreeSource
    progress: Progress
    shells: Sequence[str]
    _done: int = 0
    _todo: int = 0
    #: sha256 -> a path below the store of the same content.
    _there: dict[str, str] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)
    #: Units of this turn that are whole, and what ended it.
    _whole: int = 0
    _error: BaseException | None = None

    def run(self) -> TreeReport:
        manifest = self.source.manifest
        self._there = self._relatives()
        shell = self._shell()
        units = [unit for number, entry in enumerate(manifest.entries) for unit in self._units(number, entry, shell)]
        note = noted(self.places, self.container, self.key)
        kept = min(len(units), int(note.get("count") or 0)) if note.get("of") == len(units) else 0
        self._digests.update(note.get("digests") or {})
        todo = units[kept:]
        self._todo = sum(unit.size for unit in todo)
        self.progress(0, self._todo)
        for first, turn in _turns(todo):
            self._put(turn, kept + first, len(units))
        whole = self._completed(manifest)
        self._publish(whole, [entry for entry in manifest.entries if entry.kind == FOLDER or self._is_there(entry)])
        self._join(shell, [unit for unit in units if unit.part >= 0])
        self.places.put(self.container, f"{STORE}/trees/{self.key}", [Member(WHOLE, b"", 0o444)])
        self._show(whole)
        sent = {unit.number for unit in todo if unit.size}
        return TreeReport(
            name=whole.name,
            files=whole.files,
            bytes=whole.bytes,
            sent_files=len(sent),
            sent_bytes=self._todo,
            manifest=whole,
        )

    def _is_there(self, entry: Entry) -> bool:
        return entry.is_file and bool(entry.content) and entry.content in self._there

    def _shell(self) -> str:
        """An image that can put parts together; "": there is none on the engine, files are sent whole."""
        if all(entry.size <= _SPLIT for entry in self.source.manifest.entries if entry.is_file):
            return ""
        return next((image for image in self.shells if image and self.places.has_image(image)), "")

    def _units(self, number: int, entry: Entry, shell: str) -> Iterator[_Unit]:
        if entry.kind == FOLDER or self._is_there(entry):
            return
        if not shell or not entry.content or entry.kind == LINK or entry.size <= _SPLIT:
            yield _Unit(entry, number, size=entry.size)
            return
        size = max(_PART, -(-entry.size // _PARTS))
        for part, offset in enumerate(range(0, entry.size, size)):
            yield _Unit(entry, number, part, offset, min(size, entry.size - offset))

    def _relatives(self) -> dict[str, str]:
        """Where the latest trees have which contents."""
        found: dict[str, str] = {}
        for volume in self.places.tree_volumes()[:_RELATIVES]:
            key = str((volume.get("Options") or {}).get("device", "")).rpartition("/")[2]
            data = self.places.small(self.container, f"{STORE}/trees/{key}/{MANIFEST}", _MANIFEST_LIMIT)
            with contextlib.suppress(ValueError):
                for path, kind, size, content in json.loads(data.get(MANIFEST) or b"[]"):
                    if kind in ("f", EXECUTABLE) and size:
                        found.setdefault(f"{content}{kind}", f"trees/{key}/{names.TREE}/{path}")
        wanted = {entry.content: f"{entry.content}{entry.kind}" for entry in self.source.manifest.entries}
        return {content: found[kind] for content, kind in wanted.items() if kind in found}

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _put(self, turn: Sequence[_Unit], before: int, of: int) -> None:
        """Send a turn, and note what of it is there. What ended the reading in the middle is raised after that."""
        self._whole, self._error = 0, None
        self.places.put_stream(self.container, STORE, self._stream(turn))
        self._note(before + self._whole, of)
        if self._error is not None:
            raise self._error

    def _note(self, count: int, of: int) -> None:
        unread = {path: digest for path, digest in self._digests.items() if not self.source.manifest.is_known}
        note = {"count": count, "of": of, "at": self.places.now(), "done": self._done, "todo": self._todo}
        data = json.dumps({**note, "digests": unread}).encode()
        self.places.put(self.container, STORE, [Member(f"trees/{self.key}/{_SENT}", data, 0o600)])

    def _stream(self, turn: Sequence[_Unit]) -> Iterator[bytes]:
        for unit in turn:
            yield self._header(unit)
            sent = 0
            try:
                for piece in self._unit(unit):
                    sent += len(piece)
                    yield piece
            except BaseException as error:
                # The stream is ended as it should be, so that what came before arrives; but not at any price.
                if isinstance(error, GeneratorExit) or unit.size - sent > _PADDED:
                    raise
                self._error = error
                yield bytes(unit.size - sent + -unit.size % tarfile.BLOCKSIZE)
                break
            yield bytes(-unit.size % tarfile.BLOCKSIZE)
            self._whole += 1
        yield bytes(2 * tarfile.BLOCKSIZE)

    def _header(self, unit: _Unit) -> bytes:
        info = self._info(unit.entry)
        if unit.part >= 0:
            info.name = self._part(unit)
        info.size = unit.size
        if unit.entry.kind == LINK:
            info.type, info.linkname, info.size = tarfile.SYMTYPE, unit.entry.content, 0
        return _head(info)

    def _unit(self, unit: _Unit) -> Iterator[bytes]:
        if unit.entry.kind == LINK:
            return
        digest = hashlib.sha256()
        if unit.size:
            yield from self._content(unit, digest)
        if unit.part < 0:
            self._check(unit.entry, digest)

    def _part(self, unit: _Unit) -> str:
        return f"trees/{self.key}/parts/{unit.number}-{unit.part}"

    def _info(self, entry: Entry) -> tarfile.TarInfo:
        info = tarfile.TarInfo(f"trees/{self.key}/{names.TREE}/{entry.path}")
        info.mtime, info.mode = MTIME, 0o555 if entry.kind in (EXECUTABLE, FOLDER) else 0o444
        return info

    def _content(self, unit: _Unit, digest: Any) -> Iterator[bytes]:
        left, entry = unit.size, unit.entry
        with self.source.open(entry, unit.offset) as file:
            while left:
                piece = file.read(min(left, _PIECE))
                if not piece:
                    there = unit.offset + unit.size - left
                    text = f"{entry.path!r} shrank while it was sent: {there} of {entry.size} bytes were there"
                    raise StagingError(f"{text}. Send it again when nobody writes to it")
                left -= len(piece)
                digest.update(piece)
                yield piece
                self._done += len(piece)
                self.progress(self._done, self._todo)

    def _check(self, entry: Entry, digest: Any) -> None:
        found = digest.hexdigest()
        if entry.content and found != entry.content:
            raise self._damaged(entry)
        self._digests[entry.path] = found

    def _damaged(self, entry: Entry) -> StagingError:
        where = f"{entry.path!r} arrived damaged at {self.places.worker}"
        return StagingError(f"{where}: its sha256 differs. Send it again")

    # -- the end -------------------------------------------------------------------------------------------------------

    def _join(self, shell: str, parts: Sequence[_Unit]) -> None:
        """Put parts together. StagingError for a damaged file."""
        counts = Counter(unit.number for unit in parts)
        entries = {unit.number: unit.entry for unit in parts}
        files = [joining.Parted(entry=entry, number=n, parts=counts[n]) for n, entry in entries.items()]
        damaged = joining.join(self.places, self.container, f"{STORE}/trees/{self.key}", files, shell)
        if damaged is not None:
            self._note(0, 0)
            raise self._damaged(damaged)

    def _completed(self, manifest: Manifest) -> Manifest:
        """With the sha256 of files that nobody had read."""
        if manifest.is_known:
            return manifest
        return Manifest.of(
            entry._replace(content=self._digests[entry.path]) if entry.is_file and not entry.content else entry
            for entry in manifest.entries
        )

    def _publish(self, manifest: Manifest, rest: Sequence[Entry]) -> None:
        """What needs no content, then the manifest."""
        self.places.put_stream(self.container, STORE, iter([self._links(manifest, rest)]))

    def _show(self, manifest: Manifest) -> None:
        """The volume that is the tree's name."""
        store = self.places.volume(names.STORE_VOLUME) or {}
        labels = {names.KIND: names.TREE_KIND, names.TREE_NAME: manifest.name, names.BYTES: str(manifest.bytes)}
        options = {"type": "none", "o": "bind", "device": f"{store.get('Mountpoint', '')}/trees/{self.key}"}
        self.places.make_volume(names.tree_volume(manifest.name), labels, options)

    def _links(self, manifest: Manifest, rest: Sequence[Entry]) -> bytes:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
            for path in ("", f"/{names.TREE}"):
                info = tarfile.TarInfo(f"trees/{self.key}{path}")
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, MTIME
                archive.addfile(info)
            for entry in rest:
                info = self._info(entry)
                info.type = tarfile.DIRTYPE if entry.kind == FOLDER else tarfile.LNKTYPE
                info.linkname = "" if entry.kind == FOLDER else self._there[entry.content]
                archive.addfile(info)
            text = Member(f"trees/{self.key}/{MANIFEST}", manifest.text, 0o444)
            archive.addfile(text.info(), io.BytesIO(manifest.text))
        return out.getvalue()


def _turns(units: Sequence[_Unit]) -> Iterator[tuple[int, Sequence[_Unit]]]:
    first, size, before = 0, 0, 0
    for number, unit in enumerate(units):
        size += unit.size + tarfile.BLOCKSIZE
        if size >= max(_FIRST, min(_LARGEST, before // _SHARE)):
            yield first, units[first : number + 1]
            first, before, size = number + 1, before + size, 0
    if first < len(units):
        yield first, units[first:]


def _head(info: tarfile.TarInfo) -> bytes:
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
