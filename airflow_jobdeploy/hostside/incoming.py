"""The place where a tree arrives: one session at a time, and what was left there by one that was cut.

incoming/<name>/lock            held by the session that receives; says who, and how much has come
incoming/<name>/manifest.json   what it will be
incoming/<name>/tree/...        whole files have the time of all trees (store.MTIME_S), others are still to come
"""

from __future__ import annotations

import errno
import json
import os
import time
from typing import Any, Dict, Optional

from airflow_jobdeploy.hostside import evict, files, given, store
from airflow_jobdeploy.hostside.layout import StorePaths, TreePaths
from airflow_jobdeploy.hostside.protocol import OpError

#: What a session says of itself is always as long, so that no rest of an earlier word stands behind it.
_TOLD_BYTES = 512
#: How often who receives says how much has come, in seconds.
_TELL_S = 1.0


class Busy(Exception):
    """Another session receives the same tree; `told`: what it says of itself."""

    def __init__(self, told: dict) -> None:
        super().__init__(told)
        self.told = told


def busy(paths: TreePaths) -> Optional[dict]:
    """What the session says that receives this tree now, {"by", "bytes", "of"}; None: there is none."""
    if not files.is_locked(paths.lock):
        return None
    try:
        told = files.read_json(paths.lock)
    except files.Damaged:  # it writes just now
        told = None
    return told or {"by": ""}


class Incoming:
    """Ours from `take` until `release`, or until the tree is published or discarded."""

    def __init__(self, places: StorePaths, name: str, who: str) -> None:
        self._store = places
        if not given.locks_work(places):  # nobody could tell who is at it: each brings his own, none goes on
            name = "%s-%s" % (name, os.urandom(3).hex())
        self.paths = places.arriving(name)
        self._lock = files.Lock(self.paths.lock)
        #: Was nothing here?
        self.is_new = False
        self._told: Dict[str, Any] = {"by": who, "bytes": 0, "of": 0}
        self._told_at = 0.0

    def take(self) -> None:
        """Nobody else may receive it now. Busy; OSError."""
        while True:
            files.private_dir(self._store.incoming)
            try:
                os.mkdir(self.paths.dir, 0o700)
                self.is_new = True
            except FileExistsError:
                self.is_new = False
            try:
                if not self._lock.take():
                    raise Busy(busy(self.paths) or {"by": ""})
            except FileNotFoundError:
                continue  # published or removed in this moment
            if self._lock.is_current:
                self._tell()
                return
            self._lock.release()

    def release(self) -> None:
        """Let somebody else go on with it."""
        self._lock.release()

    def discard(self) -> None:
        """Nobody shall go on with it."""
        if self._lock.is_current:
            files.remove_tree(evict.retired(self._store, self.paths.dir))
        self._lock.release()

    def publish(self, name: str) -> None:
        """Give the whole tree its name, unless it is there already."""
        target, old = self._store.tree(name), ""
        files.private_dir(self._store.trees)
        with given.Locked(self._store):
            is_there = os.path.isdir(target.dir)
            if is_there and store.trouble(target):
                old = evict.retired(self._store, target.dir)
                is_there = False
            if not is_there:
                os.rename(self.paths.dir, target.dir)
            given.touch(target)
        if is_there:
            self.discard()
        self.release()
        if old:
            files.remove_tree(old)

    # -- what others are told ---------------------------------------------------------------------------------------

    def expect(self, size: int) -> None:
        """So many bytes are to come."""
        self._told["of"] = size
        self._tell()

    def came(self, size: int) -> None:
        """So many bytes have come."""
        self._told["bytes"] += size

    def tell(self) -> None:
        """Say how far it is, not too often."""
        now = time.monotonic()
        if now - self._told_at >= _TELL_S:
            self._told_at = now
            self._tell()

    def _tell(self) -> None:
        self._lock.write(json.dumps(self._told).encode().ljust(_TOLD_BYTES))


def is_full(error: BaseException) -> bool:
    """Has the disk no more room?"""
    if isinstance(error, OpError):
        return error.code == "disk-full"
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
