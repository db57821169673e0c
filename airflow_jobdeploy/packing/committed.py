"""A committed tree, as `git archive` has it: export-ignore, export-subst, line endings, filters.

The stream of `git archive` is read once; what it held (names and digests) is remembered by commit, for it cannot
change. Its bytes lie in a temporary file without a name while somebody reads them, and are asked of git anew when they
are needed later.
"""

from __future__ import annotations

import builtins
import hashlib
import io
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, Any

from airflow_jobdeploy.core.manifest import EXECUTABLE, FILE, LINK, Entry, Manifest
from airflow_jobdeploy.core.words import size
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import caching, git, ignoring
from airflow_jobdeploy.packing.checkout import plain_checkout
from airflow_jobdeploy.packing.digests import POINTER
from airflow_jobdeploy.packing.held import Held, from_json, to_json
from airflow_jobdeploy.packing.worktree import open_entry

_READ = 1024 * 1024
_KIND = "commits"


class Committed:
    """One commit of one repository, below one folder: a TreeSource.

    `where`: the top of a work tree, or a repository without one (`bare`). `limit`: bytes of which more are not kept.
    `checkout`: the folder of a work tree where just this commit lies, unchanged: files are read there when they can be.
    """

    def __init__(
        self,
        where: str,
        commit: str,
        prefix: str,
        *,
        limit: int,
        bare: bool = False,
        checkout: git.Folder | None = None,
    ) -> None:
        self.where = where
        self.commit = commit
        self.prefix = prefix
        self.bare = bare
        self.limit = limit
        self._checkout = checkout
        self._spool: IO[builtins.bytes] | None = None
        self._places: dict[str, int] = {}

    @property
    def manifest(self) -> Manifest:
        return self.held.manifest

    @property
    def version(self) -> str:
        return ""

    @cached_property
    def held(self) -> Held:
        """StagingError when the commit has no such folder, or git fails."""
        kept = from_json(caching.load(_KIND, self._name))
        if kept is None:
            kept = (self._checkout and plain_checkout(self._checkout, self.commit)) or self._read()
            caching.save(_KIND, self._name, to_json(kept))
        return kept

    @cached_property
    def _name(self) -> str:
        """All that decides what `git archive` gives."""
        config = git.settings(self.where, bare=self.bare)
        attributes = git.info_attributes(self.where, bare=self.bare)
        return caching.key("1", self.commit, self.prefix, config, attributes)

    def open(self, entry: Entry, offset: int = 0) -> IO[builtins.bytes]:
        if self._checkout is not None and self.held.plain:
            try:
                return open_entry(self._checkout.root, entry, offset, what="project")
            except StagingError:
                self._checkout = None  # it has changed since: git still has what was committed
        if self._spool is None and self._read().manifest != self.manifest:
            caching.save(_KIND, self._name, None)
            raise StagingError(f"git archive of {self.commit} in {self.where} gives other files than before: try again")
        assert self._spool is not None
        begin = self._places[entry.path]
        return io.BufferedReader(_Slice(self._spool.fileno(), begin + offset, begin + entry.size), _READ)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self) -> Held:
        """Of the stream: the manifest now, the bytes into the spool."""
        listed = git.tree(self.where, self.commit, self.prefix, bare=self.bare)
        if self.prefix and not listed:
            raise StagingError(f"commit {self.commit[:12]} of {self.where} has no folder {self.prefix[:-1]!r}")
        entries: list[Entry] = []
        pointers: list[str] = []
        ignore = b""
        spool = tempfile.TemporaryFile()  # noqa: SIM115  # closed with us
        with self._stream() as tar, _room(spool):
            for member in tar:
                name = member.name.removeprefix(self.prefix)
                if member.issym():
                    entries.append(Entry(name, LINK, 0, member.linkname))
                if not member.isreg():
                    continue
                begin = spool.tell()
                digest, first = _copied(tar.extractfile(member), spool, keep=begin + member.size <= self.limit)
                entries.append(Entry(name, EXECUTABLE if member.mode & 0o100 else FILE, member.size, digest))
                self._places[name] = begin
                if first.startswith(POINTER):
                    pointers.append(name)
                if name == ignoring.FILE:
                    ignore = first
        self._spool = spool
        there = {entry.path for entry in entries}
        return Held(
            manifest=Manifest.of(entries),
            pointers=tuple(pointers),
            exported_not=tuple(name for name, link in listed.items() if not link and name not in there),
            submodules={name: link for name, link in listed.items() if link},
            ignore=ignore.decode(errors="replace"),
        )

    @contextmanager
    def _stream(self) -> Iterator[tarfile.TarFile]:
        line = git.archive_command(self.where, self.commit, self.prefix, bare=self.bare)
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                line,
                env=git.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                pipesize=_READ,
            )
            assert process.stdout is not None
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|", errors="surrogateescape") as tar:
                    yield tar
                while process.stdout.read(_READ):
                    pass  # what pads the end
            except tarfile.TarError as error:
                process.kill()
                raise StagingError(f"git archive of {self.where} broke off: {_said(said) or error}") from error
            finally:
                process.stdout.close()
                status = process.wait()
            if status:
                raise StagingError(f"git cannot archive commit {self.commit} of {self.where}: {_said(said)}")


class _Slice(io.RawIOBase):
    """A part of a file, read by position: as many at once as one likes."""

    def __init__(self, descriptor: int, begin: int, end: int) -> None:
        super().__init__()
        self._descriptor, self._at, self._end = descriptor, begin, end

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)[: max(0, self._end - self._at)]
        count = os.preadv(self._descriptor, [view], self._at)
        self._at += count
        return count


def _copied(content: IO[bytes] | None, spool: IO[bytes], *, keep: bool) -> tuple[str, bytes]:
    """The digest and the first piece of a member that is copied to the spool."""
    assert content is not None
    digest, first = hashlib.sha256(), b""
    while data := content.read(_READ):
        first = first or data
        digest.update(data)
        if keep:
            spool.write(data)
    return digest.hexdigest(), first


@contextmanager
def _room(spool: IO[bytes]) -> Iterator[None]:
    try:
        yield
        spool.flush()
    except OSError as error:
        held = f"{size(spool.tell())} of the project lie in {tempfile.gettempdir()}"
        raise StagingError(f"{held}, where no more can be written: {error.strerror or error}") from error


def _said(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(4000).decode(errors="replace").strip()
