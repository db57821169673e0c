"""The sha256 of files that have not changed since they were last read.

A file counts as unchanged while size, time of change, time of the inode's change and inode are as they were. One that
was changed within the last seconds before it was read may change again within the same tick of the clock: it is read
anew the next time ("racily clean", as git has it).
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Lock

from airflow_jobdeploy.packing import caching

#: A file that was changed so short a time before it was read is read again.
RACE_NS = 2_000_000_000
_READ = 1024 * 1024
#: From so many bytes on files are read by several threads: sha256 lets go of the interpreter.
_MUCH = 32 * 1024 * 1024
_THREADS = 4
#: What a file of Git LFS begins with where its content was not fetched; such files are small.
POINTER = b"version https://git-lfs.github.com/spec/v1"
_POINTER_MOST = 1024

#: size, mtime_ns, ctime_ns, inode, sha256, is it a pointer of Git LFS?
Known = list[int | str | bool]

#: Called while files are read, by one thread at a time: files read, files to read, bytes read, bytes to read.
Progress = Callable[[int, int, int, int], None]


class Digests:
    """Those of the files below one folder. `root`: an absolute path, or whatever names the folder for ever."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._name = caching.key(root)
        kept = caching.load("digests", self._name)
        self._known: dict[str, Known] = kept["files"] if _is_of(kept, root) else {}
        self._seen: dict[str, Known] = {}
        self._fresh = 0

    def sha256(self, path: str, found: os.stat_result) -> tuple[str, bool] | None:
        """Digest, and is it a pointer of Git LFS?, of a file that is as it was; None: it has to be read."""
        known = self._known.get(path)
        if known is None or known[:4] != [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]:
            return None
        self._seen[path] = known
        return str(known[4]), bool(known[5])

    def keep(self, path: str, found: os.stat_result, sha256: str, *, pointer: bool, read_at_ns: int) -> None:
        """Remember what was read; `read_at_ns`: the time when reading began."""
        self._fresh += 1
        if max(found.st_mtime_ns, found.st_ctime_ns) < read_at_ns - RACE_NS:
            stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
            self._seen[path] = [*stamp, sha256, pointer]

    def wrote(self, path: str, found: os.stat_result, sha256: str) -> None:
        """Remember a file of our own making: nobody had it open before it got its name."""
        self._fresh += 1
        self._seen[path] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, sha256, False]

    def save(self) -> None:
        """Write down what is known of the files that were asked for; others are gone."""
        if self._fresh or len(self._seen) != len(self._known):
            caching.save("digests", self._name, {"root": self._root, "files": self._seen})


def _is_of(kept: object, root: str) -> bool:
    return isinstance(kept, dict) and kept.get("root") == root and isinstance(kept.get("files"), dict)


def read_all(
    root: str,
    wanted: Sequence[tuple[str, os.stat_result]],
    keep: Callable[[str, os.stat_result, str, bool, int], None],
    progress: Progress | None = None,
) -> list[str]:
    """Read files below `root`, and tell `keep` of each (path, stat, sha256, pointer?, when); problems as sentences."""
    total = sum(found.st_size for _, found in wanted)
    much = total > _MUCH and len(wanted) > 1
    meter = _Meter(len(wanted), total, progress)
    problems: list[str] = []
    with ThreadPoolExecutor(_THREADS if much else 1) as pool:
        read = partial(_read, root, meter.told)
        answers = pool.map(lambda job: read(*job), wanted) if much else (read(*job) for job in wanted)
        for (path, found), answer in zip(wanted, answers, strict=True):
            if isinstance(answer, str):
                problems.append(f"{path!r} {answer}")
            else:
                keep(path, found, *answer)
    return problems


class _Meter:
    """How far the reading is, told from several threads."""

    def __init__(self, files: int, total: int, progress: Progress | None) -> None:
        self._files, self._total, self._progress = files, total, progress
        self._lock = Lock()
        self._read_files = self._read_bytes = 0

    def told(self, files: int, count: int) -> None:
        """So many more files, and bytes, have been read."""
        if self._progress is None:
            return
        with self._lock:
            self._read_files += files
            self._read_bytes += count
            self._progress(self._read_files, self._files, self._read_bytes, self._total)


def _read(root: str, told: Callable[[int, int], None], path: str, found: os.stat_result) -> tuple[str, bool, int] | str:
    """sha256, is it a pointer?, when reading began; or what is wrong."""
    began = time.time_ns()
    try:
        descriptor = open_file(root, path)
        try:
            digest, first, size = hashlib.sha256(), b"", 0
            while data := os.read(descriptor, _READ):
                first = first or data[: len(POINTER)]
                size += len(data)
                digest.update(data)
                told(0, len(data))
            after = os.fstat(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        return unreadable(error)
    told(1, 0)
    if size != found.st_size or after.st_mtime_ns != found.st_mtime_ns:
        return "was changed while it was read: try again when nobody writes to it"
    return digest.hexdigest(), size <= _POINTER_MOST and first.startswith(POINTER), began


def unreadable(error: OSError) -> str:
    """What to say of a file that cannot be read."""
    if isinstance(error, PermissionError):
        return "cannot be read by this account: make it readable, or leave it out"
    return f"cannot be read: {error.strerror or error}"


def open_file(root: str, path: str) -> int:
    """A descriptor of a regular file: a link or pipe that took its place is neither followed nor waited for."""
    descriptor = os.open(f"{root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file any more")
    return descriptor
