"""A place in an object store as where output files go: streamed through, an object is whole or not there.

`.jobdeploy-manifest.json` beside the objects says what was brought: path -> sha256, size, and the tag that the store
gave the object. What it lists, and the store still has under this tag, is not brought again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.choosing import FileT, RemoteFile

LISTING = ".jobdeploy-manifest.json"
#: A file up to this size is gathered and sent by one request.
SMALL_BYTES = 8 * 1024 * 1024
#: A larger one in parts, of at least this size; stores take at most 10,000 parts.
_PART_BYTES = 32 * 1024 * 1024
_PARTS = 9_000
#: So many objects are asked for one by one; for more the store is asked to list all.
_ONE_BY_ONE = 16
#: What tells one version of an object from another, in the words of the stores, the best first.
_TAGS = ("ETag", "etag", "md5Hash", "generation", "content_md5", "mtime", "LastModified", "updated", "created")
_KEY_BYTES = 1024
#: How a store is asked for a URL to write by. One request takes at most 5 GiB, in S3 and its kind.
_SIGNED: Mapping[str, Mapping[str, str]] = {
    "s3": {"client_method": "put_object"},
    "gs": {"method": "PUT"},
    "gcs": {"method": "PUT"},
}
_SIGNED_BYTES = 5 * 2**30


class ObjectFolder:
    """The objects below a prefix. `fs`: an fsspec filesystem; `path`: the prefix, as it knows it; `name`: its URL."""

    def __init__(self, fs: Any, path: str, name: str) -> None:
        self._fs = fs
        self._path = path.rstrip("/")
        self.name = name
        #: path -> {"sha256", "size", "tag"}, as the listing object has it.
        self._listed: dict[str, Mapping[str, Any]] | None = None
        self._fresh: dict[str, RemoteFile] = {}
        self._is_open = False
        self._has_failed = False

    # -- what is there -----------------------------------------------------------------------------------------

    def missing(self, files: Sequence[FileT]) -> list[FileT]:
        """The files that are not there with the same content. StagingError for names that no object can have."""
        for file in files:
            self.key(file.path)
        if self._listed is None:
            self._listed = self._read_listing()
        likely = [file for file in files if self._is_listed(file)]
        tags = self._tags(likely)
        there = {
            file.path
            for file in likely
            if tags.get(file.path) is not None and tags[file.path] == (file.size, self._listed[file.path].get("tag"))
        }
        return [file for file in files if file.path not in there]

    def _is_listed(self, file: RemoteFile) -> bool:
        entry = (self._listed or {}).get(file.path)
        return entry is not None and (entry.get("sha256"), entry.get("size")) == (file.sha256, file.size)

    def key(self, path: str) -> str:
        """The object of an output file. StagingError when its name leads out of the prefix, or is none for a store."""
        parts = path.split("/")
        if path.startswith("/") or {"", ".", ".."} & set(parts) or "\0" in path or parts[0] == LISTING:
            raise StagingError(f"refused: the output file {path!r} would leave {self.name}")
        key = f"{self._path}/{path}"
        try:
            length = len(key.encode())
        except UnicodeEncodeError:
            raise StagingError(
                f"refused: the name of the output file {path!r} is no UTF-8, as {self.name} needs"
            ) from None
        if length > _KEY_BYTES:
            raise StagingError(
                f"refused: {path!r} makes a name of {length} bytes in {self.name}; {_KEY_BYTES} are allowed"
            )
        return key

    def _tags(self, files: Sequence[RemoteFile]) -> dict[str, tuple[int, str]]:
        """path -> (size, tag) of those that the store has."""
        if not files:
            return {}
        with self._explained("look into"):
            self._fs.invalidate_cache()
            if len(files) <= _ONE_BY_ONE:
                found = {file.path: self._info(self.key(file.path)) for file in files}
            else:
                listed = self._fs.find(self._path, detail=True)
                found = {file.path: listed.get(self.key(file.path)) for file in files}
        return {path: (int(info.get("size") or 0), _tag(info)) for path, info in found.items() if info}

    def _info(self, key: str) -> Mapping[str, Any] | None:
        try:
            info: Mapping[str, Any] = self._fs.info(key)
        except FileNotFoundError:
            return None
        return info

    def _read_listing(self) -> dict[str, Mapping[str, Any]]:
        with self._explained("look into"):
            try:
                data = self._fs.cat_file(f"{self._path}/{LISTING}")
            except FileNotFoundError:
                return {}
        try:
            files = json.loads(data)["files"]
            return {path: entry for path, entry in files.items() if isinstance(entry, dict)}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {}  # of somebody else, or damaged: what it lists is brought again

    # -- writing -----------------------------------------------------------------------------------------------

    def open(self, needed_bytes: int) -> None:
        """See that objects can be written here: the listing is one. StagingError when they cannot."""
        if not self._is_open:
            self._write_listing(self._listed or {})
            self._is_open = True

    def begun(self, files: Sequence[FileT]) -> FileT | None:
        """No part of an object outlives the download that sent it."""
        return None

    def sink(self, file: RemoteFile) -> _SmallSink | _LargeSink:
        """Where the content of a file goes."""
        kind = _SmallSink if file.size <= SMALL_BYTES else _LargeSink
        return kind(self, self.key(file.path), file.size)

    def put(self, file: RemoteFile, data: bytes) -> None:
        """A small file, whole and verified, under its name."""
        self.write(self.key(file.path), data)

    def delivered(self, files: Sequence[RemoteFile]) -> None:
        """These objects have been written."""
        self._fresh |= {file.path: file for file in files}

    # -- by others ---------------------------------------------------------------------------------------------

    def signed(self, file: RemoteFile, expires_s: float) -> str:
        """A URL by which whoever has it may write this one object; "" where the store has no such thing."""
        protocol = self._fs.protocol if isinstance(self._fs.protocol, str) else self._fs.protocol[0]
        options = _SIGNED.get(protocol)
        if options is None or file.size > _SIGNED_BYTES:
            return ""
        with self._explained("sign for"):
            return str(self._fs.sign(self.key(file.path), expiration=int(expires_s), **options))

    def confirmed(self, files: Sequence[FileT], tags: Mapping[str, str]) -> list[FileT]:
        """Of these files those that the store has, with their size and under these tags."""
        found = self._tags(files)
        return [file for file in files if found.get(file.path) == (file.size, tags[file.path])]

    def close(self, kept: RemoteFile | None = None) -> None:
        """Write down what was brought."""
        if not self._fresh:
            return
        failed = self._has_failed
        try:
            self._write_down()
        except StagingError:
            if not failed:
                raise
            # That the store has failed was said before; what is not written down is sent again some day.

    def _write_down(self) -> None:
        fresh, self._fresh = self._fresh, {}
        tags = self._tags(list(fresh.values()))
        brought = {
            path: {"sha256": file.sha256, "size": file.size, "tag": tags[path][1]}
            for path, file in fresh.items()
            if path in tags and tags[path][0] == file.size
        }
        self._listed = {**self._read_listing(), **brought}  # another download may have written it meanwhile
        self._write_listing(self._listed)

    def _write_listing(self, files: Mapping[str, Any]) -> None:
        data = json.dumps({"version": 1, "files": dict(files)}, indent=1, sort_keys=True).encode()
        self.write(f"{self._path}/{LISTING}", data)

    def write(self, key: str, data: bytes) -> None:
        """Write a small object by one request."""
        with self._explained("write to"):
            self._make_folder(key)
            self._fs.pipe_file(key, data)

    def begin(self, key: str, size: int) -> Any:
        """A large object that is being written: a file that is not there before `commit`."""
        with self._explained("write to"):
            self._make_folder(key)
            return self._fs.open(key, "wb", autocommit=False, block_size=max(_PART_BYTES, size // _PARTS + 1))

    def _make_folder(self, key: str) -> None:
        """Where the store is a tree of folders; in S3 there are none, and `makedirs` would make buckets."""
        if getattr(self._fs, "root_marker", "") == "/":
            self._fs.makedirs(key.rpartition("/")[0], exist_ok=True)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Around writing an object."""
        with self._explained("write to"):
            yield

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Every library has errors of its own; all of them mean that this place cannot be used."""
        try:
            yield
        except StagingError:
            raise
        except Exception as error:
            self._has_failed = True
            raise StagingError(f"cannot {what} {self.name}: {_reason(error)}") from error


class _SmallSink:
    """A small object: sent by one request once it is verified."""

    def __init__(self, folder: ObjectFolder, key: str, size: int) -> None:
        self._folder, self._key = folder, key
        self._data = bytearray()

    def begun(self) -> Iterator[bytes]:
        return iter(())

    def write(self, data: bytes) -> None:
        self._data += data

    def publish(self) -> None:
        self._folder.write(self._key, bytes(self._data))

    def leave(self) -> None:
        self.discard()

    def discard(self) -> None:
        self._data.clear()


class _LargeSink:
    """A large object: sent in parts as it comes; the store makes one of them when it is told to, and verified."""

    def __init__(self, folder: ObjectFolder, key: str, size: int) -> None:
        self._folder = folder
        self._file = folder.begin(key, size)

    def begun(self) -> Iterator[bytes]:
        return iter(())

    def write(self, data: bytes) -> None:
        with self._folder.explained():
            self._file.write(data)

    def publish(self) -> None:
        with self._folder.explained():
            self._file.close()
            self._file.commit()
        self._file = None

    def leave(self) -> None:
        self.discard()

    def discard(self) -> None:
        file, self._file = self._file, None
        if file is None:
            return
        try:
            with self._folder.explained():
                file.discard()
        except StagingError:
            pass  # the store cannot be asked: parts without a whole are no object, and stores clear them up in time
        finally:
            file.closed = True  # else its end would be another try to make an object of it


def _tag(info: Mapping[str, Any]) -> str:
    return next((str(info[key]).strip('"') for key in _TAGS if info.get(key) is not None), "")


def _reason(error: Exception) -> str:
    said = str(error).strip().rstrip(".") or type(error).__name__
    if isinstance(error, FileNotFoundError):
        return f"{said}. Is the bucket there, and its name right?"
    if isinstance(error, PermissionError) or "redential" in said:
        return f"{said}. May this connection's account read and write there?"
    return said
