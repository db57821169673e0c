"""Trees made of a few literal files."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import IO

from airflow_jobdeploy.core.manifest import EXECUTABLE, FILE, FOLDER, LINK, Entry, Manifest


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A TreeSource; `on_open` is called with each file that is read, and what it raises ends the reading."""

    contents: Mapping[str, bytes]
    manifest: Manifest
    version: str = ""
    on_open: Callable[[Entry], None] = lambda entry: None
    opened: list[str] = field(default_factory=list)

    def open(self, entry: Entry, offset: int = 0) -> IO[bytes]:
        self.opened.append(entry.path)
        self.on_open(entry)
        return io.BytesIO(self.contents[entry.path][offset:])

    def unread(self, version: str = "") -> Tree:
        """The same tree while nobody has read its files."""
        entries = (entry._replace(content="") if entry.is_file else entry for entry in self.manifest.entries)
        return replace(self, manifest=Manifest.of(entries), version=version, opened=[])

    def as_if(self, *entries: Entry) -> Tree:
        """With a manifest that says something else."""
        return replace(self, manifest=Manifest(entries), opened=[])


def file(path: str, data: bytes, kind: str = FILE) -> Entry:
    return Entry(path, kind, len(data), hashlib.sha256(data).hexdigest())


def tree(
    contents: Mapping[str, bytes | str],
    *,
    executables: tuple[str, ...] = (),
    links: Mapping[str, str] | None = None,
    folders: tuple[str, ...] = (),
) -> Tree:
    """A tree of these files; `links`: their targets by path; `folders`: empty ones."""
    data = {path: text.encode() if isinstance(text, str) else text for path, text in contents.items()}
    entries = [file(path, text, EXECUTABLE if path in executables else FILE) for path, text in data.items()]
    entries += [Entry(path, LINK, 0, target) for path, target in (links or {}).items()]
    entries += [Entry(path, FOLDER) for path in folders]
    return Tree(contents=data, manifest=Manifest.of(entries))


NOTHING = tree({})
