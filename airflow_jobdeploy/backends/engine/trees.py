"""Trees on an engine: by content, read-only for jobs, whole or not there.

All lie in one volume, so that files which another tree has are hard links; each whole one is shown as a volume of its
own, made last: that volume is the tree's name, and all that a job sees. Files arrive as tar streams, in turns that are
noted: what has been noted is not sent again. A tar stream cannot go on in the middle of a file: large ones arrive in
parts, and a container of an image that is there anyway puts them together and looks at their sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shlex
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.base import Progress, TreeBusy, TreeReport
from airflow_jobdeploy.backends.engine import config, names
from airflow_jobdeploy.backends.engine.api import EngineError
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.tar import MTIME, Member
from airflow_jobdeploy.core.manifest import EXECUTABLE, FOLDER, LINK, Entry, Manifest, TreeSource
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside import layout
from airflow_jobdeploy.hostside import manifest as manifests

_STORE = f"{names.TOP}/store"
_MANIFEST, _SENT = "manifest.json", "sent.json"
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
#: Who brings a tree, and says nothing for so long, was killed, in seconds.
_HELD_S = 120.0
#: Exit codes of `_join` from here on: the file of that number is not what it should be.
_DAMAGED = 100


def has(places: Places, name: str) -> bool:
    """See `Backend.has_tree`."""
    labels = places.volume_labels(names.tree_volume(name))
    if labels is not None and labels.get(names.KIND) == names.TREE_KIND:
        return True
    _check_free(places, name)
    return False


def _check_free(places: Places, key: str) -> None:
    """TreeBusy while somebody brings it; a holder that was killed is removed."""
    # Not asked of that container itself: it answers nothing while a stream comes in through it.
    found = places.listed(_holder(key))
    if found is None:
        return
    with places.helper({names.STORE_VOLUME: _STORE}) as helper:
        note = _noted(places, helper, key)
    said = max(float(found.get("Created") or 0.0), float(note.get("at") or 0.0))
    if places.now() - said > _HELD_S:
        places.remove_container(found["Id"], force=True)
        return
    done, todo = int(note.get("done") or 0), int(note.get("todo") or 0)
    raise TreeBusy(f"{places.worker}: another session is bringing the same tree", done_bytes=done, todo_bytes=todo)


def _holder(key: str) -> str:
    return f"jobdeploy-fill-{key}"


def _noted(places: Places, container: str, key: str) -> dict[str, Any]:
    data = places.small(container, f"{_STORE}/trees/{key}/{_SENT}", 4096).get(_SENT)
    try:
        return dict(json.loads(data)) if data else {}
    except ValueError:
        return {}


# -- sending -------------------------------------------------------------------------------------------------------


def send(places: Places, source: TreeSource, progress: Progress, shells: Sequence[str]) -> TreeReport:
    """See `Backend.send_tree`. `shells`: images that may be on the engine, and have a shell."""
    manifest = source.manifest
    try:
        manifests.read(manifest.text)
    except manifests.BadManifest as error:
        raise StagingError(f"the tree could not be brought to {places.worker}: {error}") from error
    name = manifest.name if manifest.is_known else ""
    if name and has(places, name):
        return TreeReport(name=name, files=manifest.files, bytes=manifest.bytes, manifest=manifest)
    # What nobody has read, and nothing tells apart from another time, is sent anew.
    state = source.version.encode() or os.urandom(16)
    key = name or "i" + layout.letters(manifest.text + b"\n" + state, 32)
    with _held(places, key) as container:
        return Transfer(places, container, key, source, progress, shells).run()


@contextlib.contextmanager
def _held(places: Places, key: str) -> Iterator[str]:
    """The container through which one tree is brought: its name is taken meanwhile. TreeBusy."""
    places.make_volume(names.STORE_VOLUME, {names.KIND: names.OTHER_KIND})
    try:
        container = places.create(_holder(key), config.helper({names.STORE_VOLUME: _STORE}))
    except EngineError as error:
        if error.is_conflict:
            _check_free(places, key)
            raise TreeBusy(f"{places.worker}: another session is bringing the same tree") from error
        raise
    try:
        yield container
    finally:
        places.remove_container(container, force=True)


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
        note = _noted(self.places, self.container, self.key)
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
            data = self.places.small(self.container, f"{_STORE}/trees/{key}/{_MANIFEST}", _MANIFEST_LIMIT)
            with contextlib.suppress(ValueError):
                for path, kind, size, content in json.loads(data.get(_MANIFEST) or b"[]"):
                    if kind in ("f", EXECUTABLE) and size:
                        found.setdefault(f"{content}{kind}", f"trees/{key}/{names.TREE}/{path}")
        wanted = {entry.content: f"{entry.content}{entry.kind}" for entry in self.source.manifest.entries}
        return {content: found[kind] for content, kind in wanted.items() if kind in found}

    # -- one turn ------------------------------------------------------------------------------------------------------

    def _put(self, turn: Sequence[_Unit], before: int, of: int) -> None:
        """Send a turn, and note what of it is there. What ended the reading in the middle is raised after that."""
        self._whole, self._error = 0, None
        self.places.put_stream(self.container, _STORE, self._stream(turn))
        self._note(before + self._whole, of)
        if self._error is not None:
            raise self._error

    def _note(self, count: int, of: int) -> None:
        unread = {path: digest for path, digest in self._digests.items() if not self.source.manifest.is_known}
        note = {"count": count, "of": of, "at": self.places.now(), "done": self._done, "todo": self._todo}
        data = json.dumps({**note, "digests": unread}).encode()
        self.places.put(self.container, _STORE, [Member(f"trees/{self.key}/{_SENT}", data, 0o600)])

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
        """Put parts together, by a container that has nothing but the store. StagingError for a damaged file."""
        if not parts:
            return
        entries = {unit.number: unit.entry for unit in parts}
        lines = ["set -e", f"cd {shlex.quote(f'{_STORE}/trees/{self.key}')}"]
        for place, (number, entry) in enumerate(entries.items()):
            pieces = " ".join(f"parts/{number}-{unit.part}" for unit in parts if unit.number == number)
            target = shlex.quote(f"{names.TREE}/{entry.path}")
            lines += [
                f'mkdir -p -- "$(dirname -- {target})"',
                f"cat {pieces} >parts/whole",
                f'[ "$(sha256sum <parts/whole | cut -c 1-64)" = {entry.content} ] || exit {_DAMAGED + place % 100}',
                f"chmod {'555' if entry.kind == EXECUTABLE else '444'} parts/whole",
                f"touch -d @{MTIME} parts/whole",
                f"mv -f parts/whole {target}",
            ]
        script = "\n".join([*lines, "rm -rf parts", ""]).encode("utf-8", "surrogateescape")
        self.places.put(self.container, _STORE, [Member(f"trees/{self.key}/join", script, 0o500)])
        code = self.places.run(shell, ["/bin/sh", f"{_STORE}/trees/{self.key}/join"], {names.STORE_VOLUME: _STORE})
        if code >= _DAMAGED:
            self._note(0, 0)
            raise self._damaged(list(entries.values())[code - _DAMAGED])
        if code:
            text = f"the parts of large files could not be put together on {self.places.worker} by image {shell}"
            raise StagingError(f"{text} (exit code {code}): is its disk full?")

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
        self.places.put_stream(self.container, _STORE, iter([self._links(manifest, rest)]))

    def _show(self, manifest: Manifest) -> None:
        """The volume that is the tree's name."""
        store = self.places.volume(names.STORE_VOLUME) or {}
        labels = {names.KIND: names.TREE_KIND, names.TREE_NAME: manifest.name}
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
            text = Member(f"trees/{self.key}/{_MANIFEST}", manifest.text, 0o444)
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


def shown(labels: Mapping[str, str] | None) -> bool:
    """Is this the volume of a whole tree, and not one that an engine has made for want of it?"""
    return (labels or {}).get(names.KIND) == names.TREE_KIND
