"""A tree arrives: its manifest first, then the contents of the files that are not here, as one stream.

Cut at any point, what has come stays (incoming.py), and is gone on with by whoever offers the same tree next. A file is
verified by its sha256 while it is written, and only then gets the time by which whole ones are known.
"""

from __future__ import annotations

import os
import stat
from typing import Any, Callable, Dict, Iterator, List, Tuple

from airflow_jobdeploy.hostside import evidence, files, manifest, parts, store
from airflow_jobdeploy.hostside.incoming import Incoming, is_full
from airflow_jobdeploy.hostside.layout import StorePaths
from airflow_jobdeploy.hostside.protocol import OpError
from airflow_jobdeploy.hostside.walk import Walk, encoded

_READ = 1024 * 1024
#: Pieces of less are not worth a look at the clock; of so many files one is.
_TOLD_FROM, _TOLD_FILES = 32 * 1024, 64
#: Files take whole blocks of a disk.
_BLOCK = 4096
MakeRoom = Callable[[int], int]


class Arrival:
    """One tree on its way, whose lock is ours from `begin` until `drop` or its end."""

    def __init__(self, places: StorePaths, text: bytes, version: str, who: str, pulse: Callable[[], None]) -> None:
        """BadManifest."""
        self._store = places
        self._text = text
        self._entries = manifest.read(text)
        self._pulse = pulse
        #: Files that nobody had read when the tree was offered.
        self._unread = [index for index, entry in enumerate(self._entries) if entry[1] in parts.MODES and not entry[3]]
        self.is_known = not self._unread
        #: May who offers it next go on with it?
        self._is_kept = self.is_known or bool(version)
        salt = b"" if self.is_known else version.encode("utf-8", "surrogateescape") or os.urandom(16)
        self.name = manifest.name_of(text + salt)
        if not self.is_known:
            self.name = "u" + self.name[1:]  # it gets its own when all has come
        self._place = Incoming(places, self.name, who)
        self._paths = self._place.paths
        #: Indexes of the entries whose bytes are to be sent, and how much of them is here: (bytes, their sha256).
        self.lacks: List[int] = []
        self._begun: Dict[int, Tuple[int, Any]] = {}

    # -- the offer ------------------------------------------------------------------------------------------------

    def is_here(self) -> bool:
        return self.is_known and store.has(self._store, self.name)

    def begin(self, make_room: MakeRoom) -> bool:
        """Take it on, and find out what is lacking; False: it is here meanwhile. Busy; OSError, OpError: no room."""
        self._place.take()
        try:
            if self.is_here():
                self._place.discard()
                return False
            self._find(make_room)
        except BaseException as error:
            if self._place.is_new or is_full(error):
                self._place.discard()
            self.drop()
            raise
        return True

    def _find(self, make_room: MakeRoom) -> None:
        files.private_dir(self._paths.tree)
        parts.write(self._paths.manifest, self._text)
        self._look(self._place.is_new)
        wanted = [self._entries[index] for index in self.lacks if index not in self._begun]
        known = store.elsewhere(self._store, wanted, self.name)
        self._check_room(known, make_room)
        self._put(known)
        self._place.expect(self.todo_bytes)

    def _look(self, nothing_here: bool) -> None:
        """Which files are not here whole?"""
        files_of_it = [index for index, entry in enumerate(self._entries) if entry[1] in parts.MODES]
        if nothing_here:
            self.lacks = files_of_it
            return
        walk = Walk(self._paths.tree, make=True)
        try:
            for index in files_of_it:
                folder, name = walk.at(encoded(self._entries[index][0]))
                if not self._is_whole(index, folder, name):
                    self.lacks.append(index)
        finally:
            walk.close()

    def _is_whole(self, index: int, folder: int, name: bytes) -> bool:
        """Is this file here? What there is of it is noted, what is of no use removed."""
        entry = self._entries[index]
        try:
            if store.is_same(folder, name, entry) and entry[3]:
                return True
            found = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_size > entry[2]:
            os.unlink(name, dir_fd=folder)
            return False
        os.chmod(name, 0o600, dir_fd=folder)
        fd = os.open(name, parts.GO_ON, dir_fd=folder)
        try:
            digest = self._digest(fd)
            if found.st_size < entry[2]:
                self._begun[index] = found.st_size, digest
                return False
            if self._is_right(entry, digest):
                parts.seal(fd, entry)
                return True
        finally:
            os.close(fd)
        os.unlink(name, dir_fd=folder)
        return False

    def _digest(self, fd: int) -> Any:
        """sha256 of what there is of a file."""
        digest = parts.sha256()
        for piece in iter(lambda: os.read(fd, _READ), b""):
            digest.update(piece)
            self._pulse()
        return digest

    def _check_room(self, known: store.Known, make_room: MakeRoom) -> None:
        """A disk that cannot hold it is not filled first."""
        wanted = 0
        for index in self.lacks:
            _, kind, size, content = self._entries[index]
            if (content, kind) not in known:
                wanted += -(-size // _BLOCK) * _BLOCK - self._begun.get(index, (0,))[0]
        free = evidence.free_bytes(self._paths.dir)
        if free is not None and wanted > free:
            make_room(wanted)
            free = evidence.free_bytes(self._paths.dir)
        if free is not None and wanted > free:
            text = "the disk of %s is full: %.1f MiB are to come, %.1f MiB are free. Free some space there"
            raise OpError("disk-full", text % (self._store.dir, wanted / 2**20, free / 2**20))

    def _put(self, known: store.Known) -> None:
        """Everything that needs no bytes: links, empty folders and files, files that another tree has."""
        lacking = set(self.lacks)
        self.lacks = []
        walk = Walk(self._paths.tree, make=True)
        before = os.umask(0o022)
        try:
            for index, entry in enumerate(self._entries):
                self._pulse()
                kind = entry[1]
                if kind in parts.MODES and index not in lacking:
                    continue
                folder, name = walk.at(encoded(entry[0]))
                if kind == manifest.LINK:
                    parts.make_link(folder, name, encoded(entry[3]))
                elif kind == manifest.FOLDER:
                    parts.make_folder(folder, name)
                elif index in self._begun or not parts.is_linked(known, folder, name, entry):
                    if entry[2]:
                        self.lacks.append(index)
                    else:
                        self._make_empty(index, folder, name)
        finally:
            os.umask(before)
            walk.close()

    def _make_empty(self, index: int, folder: int, name: bytes) -> None:
        entry = self._entries[index]
        if not self._is_right(entry, parts.sha256()):
            raise OpError("damaged", "%r has no bytes, but another sha256" % entry[0])
        fd = os.open(name, parts.CREATE, parts.MODES[entry[1]], dir_fd=folder)
        try:
            parts.seal(fd, entry)
        finally:
            os.close(fd)

    @property
    def todo_bytes(self) -> int:
        return sum(self._entries[index][2] - self._begun.get(index, (0,))[0] for index in self.lacks)

    def wanted(self) -> Dict[str, Any]:
        """The answer to the offer: runs of entries, [first, count], and what is here of some."""
        runs: List[List[int]] = []
        for index in self.lacks:
            if runs and runs[-1][0] + runs[-1][1] == index:
                runs[-1][1] += 1
            else:
                runs.append([index, 1])
        offsets = [[index, begun[0]] for index, begun in self._begun.items()]
        return {"lacks": runs, "offsets": offsets, "bytes": self.todo_bytes}

    # -- the bytes ------------------------------------------------------------------------------------------------

    def fill(self, blobs: Iterator[bytes]) -> None:
        """Write what comes to the files that lack it. OpError: too much or too little came, or something else."""
        stream = parts.Stream(blobs)
        walk = Walk(self._paths.tree, make=True)
        before = os.umask(0o022)
        try:
            for index in self.lacks:
                folder, name = walk.at(encoded(self._entries[index][0]))
                self._receive(index, folder, name, stream)
                if not index % _TOLD_FILES:
                    self._place.tell()
            stream.check_end()
        except OSError as error:
            if is_full(error):
                self._place.discard()  # what did not fit must not keep the disk full
            raise
        finally:
            os.umask(before)
            walk.close()

    def _receive(self, index: int, folder: int, name: bytes, stream: parts.Stream) -> None:
        entry = self._entries[index]
        offset, digest = self._begun.pop(index, (0, None))
        if digest is None:
            digest = parts.sha256()
            fd = os.open(name, parts.CREATE, parts.MODES[entry[1]], dir_fd=folder)
        else:
            fd = os.open(name, parts.GO_ON, dir_fd=folder)
            os.lseek(fd, offset, os.SEEK_SET)
        try:
            left = entry[2] - offset
            while left:
                piece = stream.some(left)
                if not piece:
                    raise OpError("bad-request", "the bytes ended %d before the end of %r" % (left, entry[0]))
                digest.update(piece)
                parts.write_all(fd, piece)
                left -= len(piece)
                self._place.came(len(piece))
                if len(piece) >= _TOLD_FROM:
                    self._place.tell()
            if not self._is_right(entry, digest):
                os.unlink(name, dir_fd=folder)
                text = "%r arrived damaged, or was changed while it was sent: its sha256 differs. Send it again"
                raise OpError("damaged", text % entry[0])
            parts.seal(fd, entry)
        finally:
            os.close(fd)

    def _is_right(self, entry: list, digest: Any) -> bool:
        """Is this the content that was announced? One that was not is noted."""
        if not entry[3]:
            entry[3] = digest.hexdigest()
        return bool(entry[3] == digest.hexdigest())

    # -- the end --------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Give the whole tree its name. OSError."""
        try:
            self._close_folders()
            if not self.is_known:
                self._text = manifest.written(self._entries)
                self.name = manifest.name_of(self._text)
                parts.write(self._paths.manifest, self._text)
            count = sum(entry[1] != manifest.FOLDER for entry in self._entries)
            files.write_json(self._paths.facts, {"files": count, "bytes": sum(entry[2] for entry in self._entries)})
        except OSError as error:
            if is_full(error):
                self._place.discard()
            raise
        self._place.publish(self.name)

    def _close_folders(self) -> None:
        top = os.open(self._paths.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for path in reversed(manifest.folders_of(self._entries)):
                self._pulse()
                name = encoded(path)
                os.chmod(name, 0o555, dir_fd=top)
                os.utime(name, ns=parts.TIMES, dir_fd=top, follow_symlinks=False)
            os.fchmod(top, 0o555)
            os.utime(top, ns=parts.TIMES)
        finally:
            os.close(top)

    def contents(self) -> List[str]:
        """The sha256 of the files that came without one, in order."""
        return [self._entries[index][3] for index in self._unread]

    def drop(self) -> None:
        """Let somebody else go on with it."""
        if not self._is_kept:
            self._place.discard()
        self._place.release()
