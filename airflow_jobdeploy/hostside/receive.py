"""A tree arrives: its manifest first, then the contents of the files that are not here, as one stream.

    incoming/<name>/lock            held by the session that receives; says who, and how much has come
    incoming/<name>/manifest.json   what it will be
    incoming/<name>/tree/...        whole files have the time of all trees (store.MTIME_S), others are still to come

Cut at any point, all of that stays, and is gone on with by whoever offers the same tree next. Whole, it is renamed to
trees/<name>. A file is verified by its sha256 while it is written, before it gets its time.
"""

from __future__ import annotations

import errno
import json
import os
import stat
import time
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

from airflow_jobdeploy.hostside import evict, evidence, files, given, manifest, store
from airflow_jobdeploy.hostside.layout import StorePaths, TreePaths
from airflow_jobdeploy.hostside.protocol import OpError
from airflow_jobdeploy.hostside.walk import Walk, encoded

_READ = 1024 * 1024
#: Pieces of less are not worth a look at the clock; of so many files one is.
_TOLD_FROM, _TOLD_FILES = 32 * 1024, 64
#: What a session says of itself is always as long, so that no rest of an earlier word stands behind it.
_TOLD_BYTES = 512
#: How often who receives says how much has come, in seconds.
_TELL_S = 1.0
#: What a file takes on a disk beside its bytes, at most.
_ROOM_A_FILE = 4096
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_GO_ON = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_MODES = {manifest.FILE: 0o444, manifest.EXECUTABLE: 0o555}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_TIMES = (store.MTIME_NS, store.MTIME_NS)

MakeRoom = Callable[[int], int]


class Busy(Exception):
    """Another session receives the same tree; `told`: what it says of itself."""

    def __init__(self, told: dict) -> None:
        super().__init__(told)
        self.told = told


def busy(paths: TreePaths) -> Optional[dict]:
    """What the session says that receives this tree now; None: there is none."""
    if not files.is_locked(paths.lock):
        return None
    try:
        told = files.read_json(paths.lock)
    except files.Damaged:  # it writes just now
        told = None
    return told or {}


class Arrival:
    """One tree on its way, whose lock is ours from `begin` until `drop` or its end."""

    def __init__(self, places: StorePaths, text: bytes, version: str, who: str, pulse: Callable[[], None]) -> None:
        """BadManifest."""
        self._store = places
        self._text = text
        self._entries = manifest.read(text)
        self._pulse = pulse
        #: Files that nobody had read when the tree was offered.
        self._unread = [index for index, entry in enumerate(self._entries) if entry[1] in _MODES and not entry[3]]
        self.is_known = not self._unread
        #: May who offers it next go on with it?
        self._is_kept = self.is_known or bool(version)
        salt = b"" if self.is_known else version.encode("utf-8", "surrogateescape") or os.urandom(16)
        self.name = manifest.name_of(text + salt)
        if not self.is_known:
            self.name = "u" + self.name[1:]  # it gets its own when all has come
        self._paths = places.arriving(self.name)
        self._lock = files.Lock(self._paths.lock)
        self._is_new = False
        #: Indexes of the entries whose bytes are to be sent, and how much of them is here: (bytes, their sha256).
        self.lacks: List[int] = []
        self._begun: Dict[int, Tuple[int, Any]] = {}
        self._told: Dict[str, Any] = {"by": who, "bytes": 0}
        self._told_at = 0.0

    # -- the offer ------------------------------------------------------------------------------------------------

    def is_here(self) -> bool:
        return self.is_known and store.has(self._store, self.name)

    def begin(self, make_room: MakeRoom) -> bool:
        """Take it on, and find out what is lacking; False: it is here meanwhile. Busy; OSError, OpError: no room."""
        self._take()
        try:
            if self.is_here():
                self._discard()
                return False
            self._find(make_room)
        except BaseException as error:
            if self._is_new or _is_full(error):
                self._discard()
            self.drop()
            raise
        return True

    def _take(self) -> None:
        while True:
            files.private_dir(self._store.incoming)
            try:
                os.mkdir(self._paths.dir, 0o700)
                self._is_new = True
            except FileExistsError:
                self._is_new = False
            try:
                if not self._lock.take():
                    raise Busy(busy(self._paths) or {})
            except FileNotFoundError:
                continue  # published or removed in this moment
            if self._lock.is_current:
                return
            self._lock.release()

    def _find(self, make_room: MakeRoom) -> None:
        self._tell()
        files.private_dir(self._paths.tree)
        _write(self._paths.manifest, self._text)
        self._look(self._is_new)
        wanted = [self._entries[index] for index in self.lacks if index not in self._begun]
        known = store.elsewhere(self._store, wanted, self.name)
        self._check_room(known, make_room)
        self._place(known)
        self._told["of"] = self.todo_bytes
        self._tell()

    def _look(self, nothing_here: bool) -> None:
        """Which files are not here whole?"""
        files_of_it = [index for index, entry in enumerate(self._entries) if entry[1] in _MODES]
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
        fd = os.open(name, _GO_ON, dir_fd=folder)
        try:
            digest = self._digest(fd)
            if found.st_size < entry[2]:
                self._begun[index] = found.st_size, digest
                return False
            if self._is_right(entry, digest):
                _seal(fd, entry)
                return True
        finally:
            os.close(fd)
        os.unlink(name, dir_fd=folder)
        return False

    def _digest(self, fd: int) -> Any:
        """sha256 of what there is of a file."""
        digest = _sha256()
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
                wanted += size - self._begun.get(index, (0,))[0] + _ROOM_A_FILE
        free = evidence.free_bytes(self._paths.dir)
        if free is not None and wanted > free:
            make_room(wanted)
            free = evidence.free_bytes(self._paths.dir)
        if free is not None and wanted > free:
            text = "the disk of %s is full: %.1f MiB are to come, %.1f MiB are free. Free some space there"
            raise OpError("disk-full", text % (self._store.dir, wanted / 2**20, free / 2**20))

    def _place(self, known: store.Known) -> None:
        """Everything that needs no bytes: links, empty folders and files, files that another tree has."""
        lacking = set(self.lacks)
        self.lacks = []
        walk = Walk(self._paths.tree, make=True)
        before = os.umask(0o022)
        try:
            for index, entry in enumerate(self._entries):
                self._pulse()
                kind = entry[1]
                if kind in _MODES and index not in lacking:
                    continue
                folder, name = walk.at(encoded(entry[0]))
                if kind == manifest.LINK:
                    _make_link(folder, name, encoded(entry[3]))
                elif kind == manifest.FOLDER:
                    _make_folder(folder, name)
                elif index in self._begun or not _is_linked(known, folder, name, entry):
                    if entry[2]:
                        self.lacks.append(index)
                    else:
                        self._make_empty(index, folder, name)
        finally:
            os.umask(before)
            walk.close()

    def _make_empty(self, index: int, folder: int, name: bytes) -> None:
        entry = self._entries[index]
        if not self._is_right(entry, _sha256()):
            raise OpError("damaged", "%r has no bytes, but another sha256" % entry[0])
        fd = os.open(name, _CREATE, _MODES[entry[1]], dir_fd=folder)
        try:
            _seal(fd, entry)
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
        stream = _Stream(blobs)
        walk = Walk(self._paths.tree, make=True)
        before = os.umask(0o022)
        try:
            for index in self.lacks:
                folder, name = walk.at(encoded(self._entries[index][0]))
                self._receive(index, folder, name, stream)
                if not index % _TOLD_FILES:
                    self._tell_seldom()
            stream.check_end()
        except OSError as error:
            if _is_full(error):
                self._discard()  # what did not fit must not keep the disk full
            raise
        finally:
            os.umask(before)
            walk.close()

    def _receive(self, index: int, folder: int, name: bytes, stream: _Stream) -> None:
        entry = self._entries[index]
        offset, digest = self._begun.pop(index, (0, None))
        if digest is None:
            digest = _sha256()
            fd = os.open(name, _CREATE, _MODES[entry[1]], dir_fd=folder)
        else:
            fd = os.open(name, _GO_ON, dir_fd=folder)
            os.lseek(fd, offset, os.SEEK_SET)
        try:
            left = entry[2] - offset
            while left:
                piece = stream.some(left)
                if not piece:
                    raise OpError("bad-request", "the bytes ended %d before the end of %r" % (left, entry[0]))
                digest.update(piece)
                _write_all(fd, piece)
                left -= len(piece)
                self._told["bytes"] += len(piece)
                if len(piece) >= _TOLD_FROM:
                    self._tell_seldom()
            if not self._is_right(entry, digest):
                os.unlink(name, dir_fd=folder)
                text = "%r arrived damaged, or was changed while it was sent: its sha256 differs. Send it again"
                raise OpError("damaged", text % entry[0])
            _seal(fd, entry)
        finally:
            os.close(fd)

    def _is_right(self, entry: list, digest: Any) -> bool:
        """Is this the content that was announced? One that was not is noted."""
        if not entry[3]:
            entry[3] = digest.hexdigest()
        return bool(entry[3] == digest.hexdigest())

    # -- the end --------------------------------------------------------------------------------------------------

    def publish(self) -> TreePaths:
        """Give the whole tree its name."""
        self._close_folders()
        if not self.is_known:
            self._text = manifest.written(self._entries)
            self.name = manifest.name_of(self._text)
            _write(self._paths.manifest, self._text)
        count = sum(entry[1] != manifest.FOLDER for entry in self._entries)
        files.write_json(self._paths.facts, {"files": count, "bytes": sum(entry[2] for entry in self._entries)})
        target = self._store.tree(self.name)
        files.private_dir(self._store.trees)
        with given.Locked(self._store):
            old = self._set_aside(target)
            if old is None:
                self._discard()
            else:
                os.rename(self._paths.dir, target.dir)
                given.touch(target)
        self.drop()
        if old:
            files.remove_tree(old)
        return target

    def _set_aside(self, target: TreePaths) -> Optional[str]:
        """Make place for it: where a damaged one went, or ""; None: a whole one is there."""
        if not os.path.isdir(target.dir):
            return ""
        if not store.trouble(target):
            given.touch(target)
            return None
        return evict.retired(self._store, target.dir)

    def _close_folders(self) -> None:
        top = os.open(self._paths.tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for path in reversed(manifest.folders_of(self._entries)):
                self._pulse()
                name = encoded(path)
                os.chmod(name, 0o555, dir_fd=top)
                os.utime(name, ns=_TIMES, dir_fd=top, follow_symlinks=False)
            os.fchmod(top, 0o555)
            os.utime(top, ns=_TIMES)
        finally:
            os.close(top)

    def contents(self) -> List[str]:
        """The sha256 of the files that came without one, in order."""
        return [self._entries[index][3] for index in self._unread]

    def drop(self) -> None:
        """Let somebody else go on with it."""
        if self._lock.is_current and not self._is_kept:
            self._discard()
        self._lock.release()

    def _discard(self) -> None:
        if os.path.isdir(self._paths.dir):
            files.remove_tree(evict.retired(self._store, self._paths.dir))

    def _tell_seldom(self) -> None:
        now = time.monotonic()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            self._tell()

    def _tell(self) -> None:
        """Say who we are and how much has come, to whoever waits for the lock."""
        self._lock.write(json.dumps(self._told).encode().ljust(_TOLD_BYTES))


class _Stream:
    """Pieces of bytes, cut where files end."""

    def __init__(self, blobs: Iterator[bytes]) -> None:
        self._blobs = blobs
        self._rest = memoryview(b"")

    def some(self, most: int) -> memoryview:
        """At most so many of the next bytes; none at the end."""
        if not self._rest:
            blob = next(self._blobs, b"")
            self._rest = memoryview(blob)
        found, self._rest = self._rest[:most], self._rest[most:]
        return found

    def check_end(self) -> None:
        blob = next(self._blobs, b"")
        if blob or self._rest:
            raise OpError("bad-request", "more bytes came than the files of the tree have")


def _sha256() -> Any:
    import hashlib  # here: most sessions receive nothing, and it is 10 ms of their start

    return hashlib.sha256()


def _seal(fd: int, entry: list) -> None:
    """The file is whole: from now on it is not written to."""
    if os.fstat(fd).st_mode & 0o777 != _MODES[entry[1]]:
        os.fchmod(fd, _MODES[entry[1]])
    os.utime(fd, ns=_TIMES)


def _is_linked(known: store.Known, folder: int, name: bytes, entry: list) -> bool:
    """Has another tree this file, unharmed? Then it is a link to that one."""
    source = known.get((entry[3], entry[1]))
    if source is None:
        return False
    try:
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # gone meanwhile, too many links, another filesystem
        return False
    if store.is_same(folder, name, entry):
        return True
    os.unlink(name, dir_fd=folder)
    return False


def _make_link(folder: int, name: bytes, target: bytes) -> None:
    try:
        os.symlink(target, name, dir_fd=folder)
    except FileExistsError:
        os.unlink(name, dir_fd=folder)
        os.symlink(target, name, dir_fd=folder)


def _make_folder(folder: int, name: bytes) -> None:
    try:
        os.mkdir(name, 0o700, dir_fd=folder)
    except FileExistsError:
        pass


def _write(path: str, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)


def _write_all(fd: int, piece: memoryview) -> None:
    while piece:
        piece = piece[os.write(fd, piece) :]


def _is_full(error: BaseException) -> bool:
    if isinstance(error, OpError):
        return error.code == "disk-full"
    return isinstance(error, OSError) and error.errno in _FULL
