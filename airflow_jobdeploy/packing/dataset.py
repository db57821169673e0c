"""Datasets: files that a job reads, as a tree: a folder or file here, or whatever a path-like object leads to.

Of files here every sha256 is known before anything is sent, so only what the worker lacks is; they are read by several
threads, and not again while they have not changed. Objects of a storage are read while they are sent, and not kept
here: their digests are known from then on, as long as their ETags (or times) stay.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Iterable, Iterator, Mapping
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


class PathLike(Protocol):
    """What is asked of a path: that of pathlib, and of Airflow's ObjectStoragePath."""

    @property
    def name(self) -> str: ...

    def iterdir(self) -> Iterable[PathLike]: ...

    def is_dir(self) -> bool: ...

    def stat(self) -> Any: ...

    def open(self, mode: str) -> IO[bytes]: ...


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

    def learn(self, manifest: Manifest) -> None:
        """It was sent, and these are the digests of its files."""
        if isinstance(self.tree, _Objects):
            self.tree.learn(manifest)


# -- here -----------------------------------------------------------------------------------------------------------


def here(path: Path) -> Dataset:
    """A folder with all that is in it, or one file. StagingError names all files that cannot be read, and all links
    that lead out."""
    if not path.exists():
        raise StagingError(f"the dataset {path} does not exist")
    root = os.path.realpath(path)
    if path.is_dir():
        names = list(_names(root))
    else:
        root, name = os.path.split(root)
        names = [name]
    files = Files(root, names, what="dataset")
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


def elsewhere(path: PathLike, url: str) -> Dataset:
    """All below `path` (a folder, or one object). `url`: its name in messages, without secrets.

    StagingError when there is nothing, or the storage does not answer; it says what the storage's library said.
    """
    with explained(url):
        objects = _Objects(path, url)
    return _dataset(url, objects)


class _Objects:
    """Objects below a path. Their digests are unknown until they have been sent once."""

    def __init__(self, path: PathLike, url: str) -> None:
        self._url = url
        self._paths: dict[str, PathLike] = {}
        self._stamps: dict[str, list[Any]] = {}
        self._name = caching.key(url)
        kept = caching.load(_KIND, self._name)
        known = kept.get("objects", {}) if isinstance(kept, dict) and kept.get("url") == url else {}
        entries = []
        for name, found in self._listed(path):
            stamp = _stamp(found)
            digest = known[name][1] if stamp[1] and known.get(name, [None])[0] == stamp else ""
            entries.append(Entry(name, FILE, int(found.st_size), digest))
            self._stamps[name] = stamp
        self.manifest = Manifest.of(entries)
        self.version = "" if self.manifest.is_known else caching.key(repr(sorted(self._stamps.items())))

    def _listed(self, path: PathLike) -> Iterator[tuple[str, Any]]:
        todo: list[tuple[str, PathLike]] = [("", path)] if path.is_dir() else []
        if not todo:
            self._paths[path.name] = path
            yield path.name, path.stat()
        while todo:
            below, folder = todo.pop()
            for child in folder.iterdir():
                name = below + child.name
                is_dir = child.is_dir()
                if not is_dir and not child.name:
                    continue  # the mark of a folder
                if is_dir and child.name:
                    todo.append((f"{name}/", child))
                    continue
                fault = path_fault(name)
                if fault:
                    raise StagingError(f"the dataset {self._url} has the object {name!r}, which {fault}")
                self._paths[name] = child
                yield name, child.stat()

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        with explained(f"{self._url}: {entry.path!r}"):
            file = self._paths[entry.path].open("rb")
            found = getattr(file, "size", None)
            if isinstance(found, int) and found != entry.size:
                file.close()
                raise StagingError(
                    f"{entry.path!r} of the dataset {self._url} had {entry.size} bytes and has {found} now: send it "
                    "again when nobody writes to it"
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


def _stamp(found: Any) -> list[Any]:
    """What changes when the object does; size and time at least."""
    if isinstance(found, Mapping):
        best = next((str(found[key]) for key in _STAMPS if found.get(key)), "")
        return [int(found["size"]) if "size" in found else int(found.st_size), best]  # type: ignore[attr-defined]
    return [int(found.st_size), str(getattr(found, "st_mtime_ns", found.st_mtime))]


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
