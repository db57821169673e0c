"""What a tree of files holds, by content: the value that names bundles and datasets on both sides of the wire.

    [["config.yaml", "f", 120, "<sha256>"], ["run.sh", "x", 31, "<sha256>"], ["data", "l", 0, "../elsewhere"], ...]

The JSON text of the sorted entries is what is sent, and its sha256 is the tree's name: two trees of one name are the
same, wherever they come from. Owners, times and modes, but for "executable", are no content.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import IO, NamedTuple, Protocol, runtime_checkable

from airflow_jobdeploy.hostside import layout

FILE, EXECUTABLE, LINK, FOLDER = "f", "x", "l", "d"


class Entry(NamedTuple):
    """One file, link or empty folder. `path`: relative, "/" between its parts, bytes that are no UTF-8 as surrogates.

    `content`: sha256 of a file in hex, "" while nobody has read it; target of a link.
    """

    path: str
    #: FILE, EXECUTABLE, LINK, or FOLDER for an empty one; all others follow from their files.
    kind: str
    size: int = 0
    content: str = ""

    @property
    def is_file(self) -> bool:
        return self.kind in (FILE, EXECUTABLE)


@dataclass(frozen=True)
class Manifest:
    """Entries sorted by path, each path once."""

    entries: tuple[Entry, ...]

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Manifest:
        """Of entries in any order."""
        return cls(tuple(sorted(entries)))

    @cached_property
    def text(self) -> bytes:
        """The canonical form, as it is sent."""
        return json.dumps(self.entries, separators=(",", ":")).encode("ascii")

    @property
    def is_known(self) -> bool:
        """Has every file been read, so that the tree has a name?"""
        return all(entry.content for entry in self.entries if entry.is_file)

    @cached_property
    def name(self) -> str:
        """The tree's name: "t" and 32 characters that follow from the content. ValueError while not all is known."""
        if not self.is_known:
            raise ValueError("a tree has no name before all of its files have been read")
        return "t" + layout.letters(self.text, 32)

    @cached_property
    def files(self) -> int:
        """Files and links."""
        return sum(entry.kind != FOLDER for entry in self.entries)

    @cached_property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.entries)


class TreeSource(Protocol):
    """A tree that can be sent: its manifest, and the contents of its files, each as often as needed."""

    @property
    def manifest(self) -> Manifest: ...

    @property
    def version(self) -> str:
        """Distinguishes states of a tree whose files have not been read (their ETags, say): a transfer that was cut
        goes on only for the same manifest and version. "" where every sha256 is known, or nothing can tell."""

    def open(self, entry: Entry, offset: int = 0) -> IO[bytes]:
        """A file from `offset` on. StagingError when it has vanished or cannot be read."""


@runtime_checkable
class Foreseeing(Protocol):
    """A source whose files are slow to open: it is told which will be wanted, and may begin with them."""

    def expect(self, entries: Sequence[Entry]) -> None:
        """These will be opened, from their beginning, in this order; or there is a fault, and they will not."""


@runtime_checkable
class Unread(Protocol):
    """A source that may have files which nobody has read: they can be sent as they are, or read first."""

    @property
    def unread_sizes(self) -> Sequence[int]:
        """Of those files, in bytes."""

    def read(self) -> None:
        """Read them: the manifest has all digests then. StagingError."""
