"""The store is kept below a limit: what was used last longest ago goes first, and never what is in use.

In use is what somebody holds a lock on (a supervisor for its life, a session that receives), what a job was given that
has not ended, on whichever machine shares the root, and what came or was asked for in the last minutes: its job is
just about to be started.
"""

from __future__ import annotations

import os
import stat
import time
from typing import Callable, List, Optional, Protocol, Set, Tuple

from airflow_jobdeploy.hostside import envs, evidence, files, given, layout
from airflow_jobdeploy.hostside.layout import HostPaths, StorePaths, TreePaths

#: What was used so lately is as good as in use, in seconds.
RECENT_S = 600.0
#: What came of a transfer is kept so long for somebody who goes on with it, in seconds.
INCOMING_S = 2 * 86400.0


class _Thing(Protocol):
    """What could go."""

    name: str
    #: How long nobody has used it, in seconds.
    unused_s: float

    def most_bytes(self) -> int:
        """What it measures by itself; less where it shares files with others."""

    def taken(self) -> Tuple[int, int]:
        """(what it takes of the disk, of a file that n trees share the n-th part; what is free when it goes)"""

    def set_aside(self) -> str:
        """Take it out of sight, unless somebody holds it; where it lies now, "" when it stays."""


class _Env:
    """A virtual environment."""

    def __init__(self, host: HostPaths, name: str) -> None:
        self._host = host
        self.name = name
        self.unused_s = time.time() - envs.last_used(host, name)

    def most_bytes(self) -> int:
        return envs.size_bytes(self._host, self.name)

    def taken(self) -> Tuple[int, int]:
        size = self.most_bytes()
        return size, size

    def set_aside(self) -> str:
        return self._host.trash if envs.evict(self._host, self.name) else ""


class _Tree:
    """A tree, or what has come of one."""

    def __init__(self, store: StorePaths, paths: TreePaths) -> None:
        self._store = store
        self.paths = paths
        self.name = os.path.basename(paths.dir)
        found = _stat(paths.lock) or _stat(paths.dir)
        self.unused_s = time.time() - found.st_mtime if found else 0.0

    def most_bytes(self) -> int:
        try:
            known = files.read_json(self.paths.facts)
        except files.Damaged:
            known = None
        return int(known["bytes"]) if known and isinstance(known.get("bytes"), int) else self.taken()[0]

    def taken(self) -> Tuple[int, int]:
        share, alone, todo = 0.0, 0, [self.paths.dir]
        while todo:
            try:
                for entry in os.scandir(todo.pop()):
                    found = entry.stat(follow_symlinks=False)
                    size, is_folder = found.st_blocks * 512, stat.S_ISDIR(found.st_mode)
                    if is_folder:
                        todo.append(entry.path)
                    share += size if is_folder else size / found.st_nlink
                    alone += size if is_folder or found.st_nlink == 1 else 0
            except OSError:  # going, or closed to us
                continue
        return int(share), alone

    def set_aside(self) -> str:
        lock = files.Lock(self.paths.lock)
        try:
            return retired(self._store, self.paths.dir) if lock.take() else ""
        except OSError:  # gone, or read-only
            return ""
        finally:
            lock.release()


def _stat(path: str) -> Optional[os.stat_result]:
    try:
        return os.stat(path)
    except OSError:
        return None


def keep_below(host: HostPaths, limit_bytes: int) -> int:
    """Evict until what is left measures at most `limit_bytes`, or is in use; how many went."""
    things = _things(host)
    if sum(thing.most_bytes() for thing in things) <= limit_bytes:
        return 0
    total = sum(thing.taken()[0] for thing in things)

    def is_enough(gone_bytes: int) -> bool:
        return total - gone_bytes <= limit_bytes

    return _evict(host, things, is_enough)


def over(host: HostPaths, limit_bytes: int, dry_run: bool, pulse: Callable[[], None] = lambda: None) -> List[dict]:
    """As keep_below, or with `dry_run` only said: {"kind", "name", "why", "bytes", "age_s"} of what goes."""
    things, found = _things(host), []
    if sum(thing.most_bytes() for thing in things) <= limit_bytes:
        return []
    left = sum(thing.taken()[0] for thing in things)
    used = _used(host)
    for thing in things:
        pulse()
        if left <= limit_bytes:
            break
        if thing.unused_s < RECENT_S or thing.name in used:
            continue
        share, alone = thing.taken()
        if dry_run or _removed(host, thing):
            left -= share
            kind = "environment" if isinstance(thing, _Env) else "tree"
            why = "over the pool's cache_limit, unused the longest"
            found.append({"kind": kind, "name": thing.name, "why": why, "age_s": thing.unused_s, "bytes": alone})
    return found


def make_room(host: HostPaths, wanted_bytes: int) -> int:
    """Evict until the disk has so much free, or nothing is left that may go; how many went."""

    def is_enough(_: int) -> bool:
        free = evidence.free_bytes(host.store.dir)
        return free is None or free >= wanted_bytes

    return _evict(host, _things(host), is_enough)


def tidy(host: HostPaths) -> None:
    """Remove what nobody has gone on with, and what somebody was removing when he was killed."""
    for name in _names(host.store.incoming):
        half = _Tree(host.store, TreePaths(os.path.join(host.store.incoming, name)))
        if half.unused_s > INCOMING_S:
            _removed(host, half)
    for name in _names(host.store.trash):
        files.remove_tree(os.path.join(host.store.trash, name))


def _things(host: HostPaths) -> List[_Thing]:
    """What could go, that which was not used for the longest time first."""
    found: List[_Thing] = [_Env(host, name) for name in envs.names(host)]
    for folder in (host.store.trees, host.store.incoming):
        found += [_Tree(host.store, TreePaths(os.path.join(folder, name))) for name in _names(folder)]
    return sorted(found, key=lambda thing: -thing.unused_s)


def _evict(host: HostPaths, things: List[_Thing], is_enough: Callable[[int], bool]) -> int:
    gone_bytes, count = 0, 0
    for thing in things:
        if is_enough(gone_bytes):
            break
        if thing.unused_s < RECENT_S:
            continue
        size = thing.taken()[1]
        if _removed(host, thing):
            gone_bytes, count = gone_bytes + size, count + 1
    return count


def _removed(host: HostPaths, thing: _Thing) -> bool:
    """Remove it, unless it is in use."""
    with given.Locked(host.store):
        went = "" if thing.name in _used(host) else thing.set_aside()
    if went.startswith(host.store.trash):
        files.remove_tree(went)
    return bool(went)


def _used(host: HostPaths) -> Set[str]:
    """What jobs of any machine were given that have not ended."""
    found: Set[str] = set()
    machines = os.path.dirname(host.host)
    for machine in _names(machines):
        jobs = os.path.join(machines, machine, "jobs")
        for name in _names(jobs):
            paths = layout.JobPaths(os.path.join(jobs, name))
            if os.path.exists(paths.exit):
                continue
            try:
                found.update(str(value) for value in (files.read_json(paths.trees) or {}).values())
            except files.Damaged:
                continue
    return found


def retired(store: StorePaths, path: str) -> str:
    """Take something of the store out of sight; where it lies now, to be removed."""
    trash = os.path.join(files.private_dir(store.trash), os.urandom(16).hex())
    os.rename(path, trash)
    return trash


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []
