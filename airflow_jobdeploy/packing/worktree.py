"""Files of a directory as they lie there: a TreeSource that reads each file when it is asked for."""

# ruff: noqa: PTH115

from __future__ import annotations

import builtins
import os
import stat
from collections.abc import Sequence
from typing import IO

from airflow_jobdeploy.core.manifest import EXECUTABLE, FILE, FOLDER, LINK, Entry, Manifest
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.digests import Digests, Progress, open_file, read_all, unreadable

#: How many problems a message names.
_FIRST = 10


class Files:
    """Files, links and empty folders below a directory, by name ("/" at the end of folders). StagingError names all
    that cannot be read; nothing is read that was read before and has not changed."""

    def __init__(
        self, root: str, names: Sequence[str], *, what: str = "project", progress: Progress | None = None
    ) -> None:
        self.root = root
        #: Every sha256 is known: see TreeSource.
        self.version = ""
        self._what = what
        #: Sockets, pipes and devices: nothing to send.
        self.skipped: list[str] = []
        #: Pointers of Git LFS whose content is not here.
        self.pointers: list[str] = []
        self._entries: list[Entry] = []
        self._problems: list[str] = []
        self._look(names, progress)
        if self._problems:
            raise refusal(what, root, self._problems)
        self.manifest = Manifest.of(self._entries)
        del self._entries

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        return open_entry(self.root, entry, offset, what=self._what)

    def _look(self, names: Sequence[str], progress: Progress | None) -> None:
        digests = Digests(self.root)
        unread: list[tuple[str, os.stat_result]] = []
        for name in names:
            try:
                found = os.lstat(f"{self.root}/{name}")
                mode = found.st_mode
                if stat.S_ISREG(mode):
                    known = digests.sha256(name, found)
                    if known is None:
                        unread.append((name, found))
                    else:
                        self._add(name, found, *known)
                elif stat.S_ISLNK(mode):
                    self._entries.append(Entry(name, LINK, 0, os.readlink(f"{self.root}/{name}")))
                elif stat.S_ISDIR(mode):
                    self._entries.append(Entry(name.rstrip("/"), FOLDER))
                else:
                    self.skipped.append(name)
            except OSError as error:
                self._problems.append(f"{name!r} {unreadable(error)}")

        def read(name: str, found: os.stat_result, sha256: str, pointer: bool, at_ns: int) -> None:
            digests.keep(name, found, sha256, pointer=pointer, read_at_ns=at_ns)
            self._add(name, found, sha256, pointer)

        self._problems += read_all(self.root, unread, read, progress)
        digests.save()

    def _add(self, name: str, found: os.stat_result, sha256: str, pointer: bool) -> None:
        kind = EXECUTABLE if found.st_mode & stat.S_IXUSR else FILE
        self._entries.append(Entry(name, kind, found.st_size, sha256))
        if pointer:
            self.pointers.append(name)


def open_entry(root: str, entry: Entry, offset: int, *, what: str) -> IO[builtins.bytes]:
    """A file below `root` from `offset` on. StagingError when it is not as it was when its entry was made."""
    try:
        descriptor = open_file(root, entry.path)
    except OSError as error:
        raise StagingError(f"{entry.path!r} of the {what} {unreadable(error)}") from error
    found = os.fstat(descriptor).st_size
    if found != entry.size:
        os.close(descriptor)
        raise StagingError(
            f"{entry.path!r} of the {what} had {entry.size} bytes and has {found} now: it is being written to. "
            "Nothing was kept on the worker; send it again when nobody does"
        )
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.fdopen(descriptor, "rb", buffering=0)


def refusal(what: str, root: str, problems: Sequence[str]) -> StagingError:
    """All that is wrong with a tree, as one error."""
    lines = "\n".join(f"  {problem}" for problem in problems[:_FIRST])
    more = f"\n  and {len(problems) - _FIRST} more" if len(problems) > _FIRST else ""
    return StagingError(f"the {what} {root} cannot be sent:\n{lines}{more}")
