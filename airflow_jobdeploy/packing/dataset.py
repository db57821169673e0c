"""Datasets: files that a job reads, as a tree: a folder or file here, or objects of a storage that fsspec reads.

Of files here every sha256 is known before anything is sent, so only what the worker lacks is; they are read by several
threads, and not again while they have not changed. Large ones that were never read are read while they are sent, where
the worker has nothing of their sizes. Objects of a storage are read while they are sent, and not kept
here: their digests are known from then on, as long as their ETags (or times) stay.
"""

from __future__ import annotations

import builtins
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from airflow_jobdeploy.core.manifest import FILE, LINK, Entry, Manifest, TreeSource
from airflow_jobdeploy.core.spec_kinds import path_fault
from airflow_jobdeploy.core.words import counted, size
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.hostside.manifest import leads_out
from airflow_jobdeploy.packing import caching
from airflow_jobdeploy.packing.ahead import Ahead
from airflow_jobdeploy.packing.digests import Progress
from airflow_jobdeploy.packing.worktree import Files, refusal

_KIND = "objects"
#: What a storage says of an object that changes with its content, the best first.
_STAMPS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "generation",
    "version_id",
    "mtime",
    "LastModified",
    "last_modified",
)
_FIRST = 10
#: Files here of so many bytes are left unread until it is known whether the worker may have them.
LEAVE_BYTES = 64 * 1024 * 1024
#: So much of an object is asked for at once, in bytes.
_BLOCK = 8 * 1024 * 1024


class FileSystem(Protocol):
    """What is asked of a filesystem of fsspec."""

    def find(self, path: str, *, detail: bool) -> Mapping[str, Mapping[str, Any]]:
        """Path -> facts ("size", and what changes with the content) of all objects below a path, or at it."""

    def open(self, path: str, mode: str, *, block_size: int) -> IO[bytes]: ...


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A TreeSource of data. `where`: what it was asked for as."""

    where: str
    tree: TreeSource = field(repr=False)
    notes: tuple[str, ...] = ()

    @property
    def manifest(self) -> Manifest:
        return self.tree.manifest

    @property
    def version(self) -> str:
        return self.tree.version

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        return self.tree.open(entry, offset)

    def expect(self, entries: Sequence[Entry]) -> None:
        """See core.manifest.Foreseeing."""
        if isinstance(self.tree, _Objects):
            self.tree.expect(entries)

    def learn(self, manifest: Manifest) -> None:
        """It was sent, and these are the digests of its files."""
        if isinstance(self.tree, (_Objects, Files)):
            self.tree.learn(manifest)

    @property
    def unread_sizes(self) -> Sequence[int]:
        """See core.manifest.Unread."""
        return self.tree.unread_sizes if isinstance(self.tree, Files) else ()

    def read(self) -> None:
        """See core.manifest.Unread."""
        if isinstance(self.tree, Files):
            self.tree.read()


# -- here -----------------------------------------------------------------------------------------------------------


def here(path: Path, progress: Progress | None = None) -> Dataset:
    """A folder with all that is in it, or one file. StagingError names all files that cannot be read, and all links
    that lead out. `progress` is told while files are read that were not before."""
    if not path.exists():
        raise StagingError(f"the dataset {path} does not exist")
    root = os.path.realpath(path)
    if path.is_dir():
        names = list(_names(root))
    else:
        root, name = os.path.split(root)
        names = [name]
    files = Files(root, names, what="dataset", progress=progress, leave_bytes=LEAVE_BYTES)
    _check_links(root, files.manifest)
    return _dataset(str(path), files, files.skipped)


def _names(root: str) -> Iterator[str]:
    """All files and links below a folder, and empty folders (with "/")."""
    for folder, folders, files in os.walk(root, onerror=_raised):
        below = os.path.relpath(folder, root) + "/" if folder != root else ""
        links = [name for name in folders if os.path.islink(f"{folder}/{name}")]  # noqa: PTH114
        for name in (*files, *links):
            yield below + name
        if below and not files and not folders:
            yield below


def _raised(error: OSError) -> None:
    raise StagingError(f"the dataset's folder {error.filename} cannot be listed: {error.strerror}") from error


def _check_links(root: str, manifest: Manifest) -> None:
    links = {entry.path: entry.content for entry in manifest.entries if entry.kind == LINK}
    out = [path for path, target in links.items() if target.startswith("/") or leads_out(path, target, links)]
    if out:
        lines = [f"{path!r} is a link to {links[path]!r}, which leads out of the dataset: copy it in" for path in out]
        raise refusal("dataset", root, lines)


def _dataset(where: str, tree: TreeSource, skipped: Iterable[str] = ()) -> Dataset:
    manifest = tree.manifest
    if not manifest.files:
        raise StagingError(f"the dataset {where} is empty")
    notes = [f"Dataset: {counted(manifest.files, 'file')}, {size(manifest.bytes)} of {where}"]
    left = sorted(skipped)
    if left:
        notes.append(f"Skipped of the dataset (no regular files): {', '.join(map(repr, left[:_FIRST]))}")
    return Dataset(where=where, tree=tree, notes=tuple(notes))


# -- elsewhere ------------------------------------------------------------------------------------------------------


def elsewhere(fs: FileSystem, path: str, url: str) -> Dataset:
    """All below `path` of a filesystem of fsspec (a folder, or one object). `url`: its name in messages.

    StagingError when there is nothing, or the storage does not answer; it says what the storage's library said.
    """
    with explained(url):
        objects = _Objects(fs, path, url)
    return _dataset(url, objects)


class _Objects:
    """Objects below a path. Their digests are unknown until they have been sent once."""

    def __init__(self, fs: FileSystem, path: str, url: str) -> None:
        self._fs = fs
        self._url = url
        self._paths: dict[str, str] = {}
        self._stamps: dict[str, list[Any]] = {}
        self._ahead: Ahead | None = None
        self._name = caching.key(url)
        kept = caching.load(_KIND, self._name)
        known = kept.get("objects", {}) if isinstance(kept, dict) and kept.get("url") == url else {}
        entries = []
        for name, place, found in self._listed(path.rstrip("/")):
            stamp = _stamp(found)
            digest = known[name][1] if stamp[1] and known.get(name, [None])[0] == stamp else ""
            entries.append(Entry(name, FILE, int(found["size"]), digest))
            self._stamps[name] = stamp
            self._paths[name] = place
        self.manifest = Manifest.of(entries)
        self.version = "" if self.manifest.is_known else caching.key(repr(sorted(self._stamps.items())))

    def _listed(self, path: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
        """(name in the dataset, path, facts)"""
        found = self._fs.find(path, detail=True)
        if not found:
            raise FileNotFoundError(path)
        faults = []
        for place, facts in found.items():
            name = place[len(path) + 1 :] if place != path else path.rpartition("/")[2]
            if not name or (name.endswith("/") and not facts["size"]):
                continue  # the mark of a folder
            fault = path_fault(name)
            if fault:
                faults.append(f"{name!r} {fault}")
            else:
                yield name, place, facts
        if faults:
            raise refusal("dataset", self._url, faults)

    def expect(self, entries: Sequence[Entry]) -> None:
        if self._ahead is not None:
            self._ahead.close()
        self._ahead = Ahead(self._whole, entries)

    def _whole(self, entry: Entry) -> builtins.bytes:
        with self._open(entry, 0) as file:
            return file.read(entry.size)

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        data = self._ahead.take(entry) if self._ahead is not None and not offset else None
        return self._open(entry, offset) if data is None else io.BytesIO(data)

    def _open(self, entry: Entry, offset: int) -> IO[builtins.bytes]:
        with explained(f"{self._url}: {entry.path!r}"):
            file = self._fs.open(self._paths[entry.path], "rb", block_size=_BLOCK)
            found = getattr(file, "size", None)
            if isinstance(found, int) and found != entry.size:
                file.close()
                raise StagingError(
                    f"{entry.path!r} of the dataset {self._url} had {counted(entry.size, 'byte')} and has {found} now: "
                    "send it again when nobody writes to it"
                )
            if offset:
                file.seek(offset)
            return _Explained(file, f"{self._url}: {entry.path!r}")  # type: ignore[return-value]

    def learn(self, manifest: Manifest) -> None:
        digests = {entry.path: entry.content for entry in manifest.entries}
        objects = {name: [stamp, digests.get(name, "")] for name, stamp in self._stamps.items()}
        caching.save(_KIND, self._name, {"url": self._url, "objects": objects})


class _Explained:
    """A file whose errors say what they are about."""

    def __init__(self, file: IO[bytes], what: str) -> None:
        self._file, self._what = file, what

    def read(self, size: int = -1) -> bytes:
        with explained(self._what):
            return self._file.read(size)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> _Explained:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _stamp(found: Mapping[str, Any]) -> list[Any]:
    """What changes when the object does; "" where nothing tells."""
    return [int(found["size"]), next((str(found[key]) for key in _STAMPS if found.get(key)), "")]


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Within: what a storage's library raises becomes a StagingError that names the dataset."""
    try:
        yield
    except StagingError:
        raise
    except FileNotFoundError as error:
        raise StagingError(f"the dataset {what} does not exist") from error
    except Exception as error:  # a storage's library has errors of its own
        said = str(error).strip() or type(error).__name__
        raise StagingError(f"the dataset {what} cannot be read: {type(error).__name__}: {said}") from error
