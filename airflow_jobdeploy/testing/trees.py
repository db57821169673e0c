"""The trees of a MemoryHost: by content, as on real workers."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field

from airflow_jobdeploy.backends.base import Progress, TreeBusy, TreeReport
from airflow_jobdeploy.core.manifest import Entry, Manifest, TreeSource
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside import manifest as manifests

_PIECE = 64 * 1024


@dataclass
class MemoryStore:
    """Attributes are read and written while holding the host's `changed`, but for `arriving`."""

    name: str
    #: name -> contents of its files by path; links and empty folders are left out.
    trees: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Whole files of all trees, and what has come of others, by sha256.
    files: dict[str, bytes] = field(default_factory=dict)
    parts: dict[str, bytes] = field(default_factory=dict)
    #: Names of trees that are being brought: bytes so far.
    coming: dict[str, int] = field(default_factory=dict)

    def check_free(self, name: str) -> None:
        if name in self.coming:
            text = f"{self.name}: another session is bringing the same tree"
            raise TreeBusy(text, done_bytes=self.coming[name])


class Arrival:
    """One tree on its way. `claim` and `publish` are called while holding the host's `changed`, `receive` is not."""

    def __init__(self, store: MemoryStore, source: TreeSource, progress: Progress) -> None:
        self._store, self._source, self._progress = store, source, progress
        self._manifest = source.manifest
        self.name = self._manifest.name if self._manifest.is_known else manifests.name_of(self._manifest.text)
        self._contents: dict[str, bytes] = {}
        self._lacks: list[tuple[Entry, int]] = []
        self._done = 0

    def claim(self) -> None:
        """Nobody else may bring it now. TreeBusy, StagingError."""
        try:
            manifests.read(self._manifest.text)
        except manifests.BadManifest as error:
            raise StagingError(f"the tree could not be brought to {self._store.name}: {error}") from error
        self._store.check_free(self.name)
        self._store.coming[self.name] = 0
        for entry in self._manifest.entries:
            if not entry.is_file:
                continue
            if not entry.size:
                self._contents[entry.path] = b""
            elif entry.content in self._store.files:
                self._contents[entry.path] = self._store.files[entry.content]
            else:
                self._lacks.append((entry, len(self._store.parts.get(entry.content, b""))))

    def release(self) -> None:
        self._store.coming.pop(self.name, None)

    @property
    def _todo(self) -> int:
        return sum(entry.size - offset for entry, offset in self._lacks)

    def receive(self) -> None:
        """Read what is lacking. StagingError; what has been read before an error stays."""
        self._progress(0, self._todo)
        for entry, offset in self._lacks:
            data = self._store.parts.get(entry.content, b"")[:offset] + self._rest(entry, offset)
            self._store.parts.pop(entry.content, None)
            digest = hashlib.sha256(data).hexdigest()
            if offset and digest != entry.content:  # what had come before does not go with the rest
                data = self._rest(entry, 0)
                digest = hashlib.sha256(data).hexdigest()
            if entry.content and digest != entry.content:
                raise StagingError(f"{self._store.name}: {entry.path!r} arrived damaged: its sha256 differs")
            self._store.files[digest] = self._contents[entry.path] = data

    def _rest(self, entry: Entry, offset: int) -> bytes:
        before = self._store.parts.get(entry.content, b"")
        data = bytearray()
        try:
            with self._source.open(entry, offset) as file:
                while len(data) < entry.size - offset:
                    piece = file.read(min(_PIECE, entry.size - offset - len(data)))
                    if not piece:
                        raise StagingError(f"{entry.path!r} shrank while it was sent")
                    data += piece
                    self._done += len(piece)
                    self._store.coming[self.name] = self._done
                    self._progress(self._done, self._todo)
        except BaseException:
            if entry.content:
                self._store.parts[entry.content] = before + bytes(data)
            raise
        return bytes(data)

    def publish(self) -> TreeReport:
        known = Manifest.of(
            entry._replace(content=hashlib.sha256(self._contents[entry.path]).hexdigest()) if entry.is_file else entry
            for entry in self._manifest.entries
        )
        self._store.trees[known.name] = self._contents
        return TreeReport(
            name=known.name,
            files=known.files,
            bytes=known.bytes,
            sent_files=len(self._lacks),
            sent_bytes=self._todo,
            manifest=known,
        )


def pack(files: Mapping[str, bytes]) -> bytes:
    """Files as a tar stream."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:") as tar:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def unpack(archive: bytes) -> dict[str, bytes]:
    """A project's files. StagingError when it is no whole tar, or a path would leave the project."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise StagingError(f"refused: {member.name!r} would leave the project")
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    files[member.name] = content.read()
    except (tarfile.TarError, EOFError) as error:
        raise StagingError(f"the project arrived damaged: {error}") from error
    return files
