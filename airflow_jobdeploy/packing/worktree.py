"""Files of a directory as they lie there: a TreeSource that reads each file when it is asked for."""

# ruff: noqa: PTH115

from __future__ import annotations

import builtins
import os
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

from airflow_jobdeploy.core.manifest import EXECUTABLE, FILE, FOLDER, LINK, Entry, Manifest
from airflow_jobdeploy.core.words import counted
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import caching
from airflow_jobdeploy.packing.digests import Digests, Progress, open_file, read_all, unreadable

#: How many problems a message names.
_FIRST = 10


class Files:
    """Files, links and empty folders below a directory, by name ("/" at the end of folders). StagingError names all
    that cannot be read; nothing is read that was read before and has not changed.

    `leave_bytes`: files of at least so many bytes that were never read are left to who sends them, or to `read`.
    """

    def __init__(
        self,
        root: str,
        names: Sequence[str],
        *,
        what: str = "project",
        progress: Progress | None = None,
        leave_bytes: int | None = None,
    ) -> None:
        self.root = root
        #: See TreeSource; "" while nothing is left unread.
        self.version = ""
        self._what = what
        self._progress = progress
        self._leave_bytes = leave_bytes
        self._digests = Digests(root)
        self._left: dict[str, os.stat_result] = {}
        #: Sockets, pipes and devices: nothing to send.
        self.skipped: list[str] = []
        #: Pointers of Git LFS whose content is not here.
        self.pointers: list[str] = []
        self._entries: list[Entry] = []
        self._problems: list[str] = []
        self._look(names)
        if self._problems:
            raise refusal(what, root, self._problems)
        self.manifest = Manifest.of(self._entries)
        if self._left:
            self._listed_ns = time.time_ns()
            self.version = caching.key(*(repr((name, _stamp(found))) for name, found in sorted(self._left.items())))
        del self._entries

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        return open_entry(self.root, entry, offset, what=self._what)

    # -- what was left unread ------------------------------------------------------------------------------------------

    @property
    def unread_sizes(self) -> tuple[int, ...]:
        """Of the files without a sha256, in bytes."""
        return tuple(found.st_size for found in self._left.values())

    def read(self) -> None:
        """Read what was left. StagingError."""
        found: dict[str, str] = {}
        self._problems = read_all(self.root, list(self._left.items()), self._keeper(found), self._progress)
        if self._problems:
            raise refusal(self._what, self.root, self._problems)
        self._know(found)

    def learn(self, manifest: Manifest) -> None:
        """It was sent, and these are the digests: kept for files that nobody has touched meanwhile."""
        digests = {entry.path: entry.content for entry in manifest.entries}
        keep = self._keeper({})
        for name, found in self._left.items():
            try:
                unchanged = _stamp(os.lstat(f"{self.root}/{name}")) == _stamp(found)
            except OSError:
                continue
            if unchanged and digests.get(name):
                keep(name, found, digests[name], False, self._listed_ns)
        self._know(digests)

    def _keeper(self, found: dict[str, str]) -> Callable[[str, os.stat_result, str, bool, int], None]:
        def keep(name: str, stat: os.stat_result, sha256: str, pointer: bool, at_ns: int) -> None:
            self._digests.keep(name, stat, sha256, pointer=pointer, read_at_ns=at_ns)
            found[name] = sha256

        return keep

    def _know(self, digests: Mapping[str, str]) -> None:
        entries = (
            entry._replace(content=digests.get(entry.path, "")) if entry.path in self._left else entry
            for entry in self.manifest.entries
        )
        self.manifest = Manifest.of(entries)
        self._left, self.version = {}, ""
        self._digests.save()

    # -- at first ------------------------------------------------------------------------------------------------------

    def _look(self, names: Sequence[str]) -> None:
        digests = self._digests
        unread: list[tuple[str, os.stat_result]] = []
        for name in names:
            try:
                found = os.lstat(f"{self.root}/{name}")
                mode = found.st_mode
                if stat.S_ISREG(mode):
                    known = digests.sha256(name, found)
                    if known is None and self._leave_bytes is not None and found.st_size >= self._leave_bytes:
                        self._left[name] = found
                        self._add(name, found, "", False)
                    elif known is None:
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

        self._problems += read_all(self.root, unread, read, self._progress)
        digests.save()

    def _add(self, name: str, found: os.stat_result, sha256: str, pointer: bool) -> None:
        kind = EXECUTABLE if found.st_mode & stat.S_IXUSR else FILE
        self._entries.append(Entry(name, kind, found.st_size, sha256))
        if pointer:
            self.pointers.append(name)


def _stamp(found: os.stat_result) -> tuple[int, int, int, int]:
    """What changes when a file does."""
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


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
            f"{entry.path!r} of the {what} had {counted(entry.size, 'byte')} and has {found} now: "
            "it is being written to. Nothing was kept on the worker; send it again when nobody does"
        )
    os.lseek(descriptor, offset, os.SEEK_SET)
    return os.fdopen(descriptor, "rb", buffering=0)


def refusal(what: str, root: str, problems: Sequence[str]) -> StagingError:
    """All that is wrong with a tree, as one error."""
    lines = "\n".join(f"  {problem}" for problem in problems[:_FIRST])
    more = f"\n  and {len(problems) - _FIRST} more" if len(problems) > _FIRST else ""
    return StagingError(f"the {what} {root} cannot be sent:\n{lines}{more}")
