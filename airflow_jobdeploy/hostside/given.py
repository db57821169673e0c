"""What jobs use of the store: who was given what, and the locks that keep it from eviction. Supervisors import this."""

from __future__ import annotations

import fcntl
import os
import time
from typing import Dict, Optional

from airflow_jobdeploy.hostside import files
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import StorePaths, TreePaths

#: What a job can be given a tree as.
ROLES = ("work", "dataset")
#: How long to wait for the store's lock, and for that of a tree that is just being published, in seconds.
_WAIT_S = 30.0


class NoTree(Exception):
    """There is no such tree, or no longer; the text names it."""


class Locked:
    """The store's lock, within a `with`: nobody else gives trees to jobs, publishes or evicts."""

    def __init__(self, store: StorePaths) -> None:
        self._store = store
        self._lock = files.Lock(store.lock)

    def __enter__(self) -> None:
        files.private_dir(self._store.dir)
        if not self._lock.take(_WAIT_S):
            raise files.Damaged("%s is held for more than %d s: by whom?" % (self._store.lock, _WAIT_S))

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def locks_work(store: StorePaths) -> bool:
    """Can somebody who holds a lock here be seen by others?"""
    files.private_dir(store.dir)
    lock = files.Lock(store.lock)
    try:
        return not lock.take() or files.is_locked(store.lock) is not None
    finally:
        lock.release()


def touch(paths: TreePaths) -> None:
    """Used now."""
    try:
        fd = os.open(paths.lock, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:  # read-only: nobody evicts there, either
        return
    try:
        os.utime(fd)
    finally:
        os.close(fd)


def give(job: Job, role: str, name: str) -> None:
    """A claimed job shall use this tree; it stays until the job has ended. NoTree."""
    store = job.host.store
    with Locked(store):
        if not os.path.isdir(store.tree(name).dir):
            raise NoTree("there is no tree %s in %s, or no longer" % (name, store.trees))
        touch(store.tree(name))
        files.write_json(job.paths.trees, {**given(job), role: name})


def given(job: Job) -> Dict[str, str]:
    """What of the store the job was given, by role. files.Damaged."""
    return {str(role): str(name) for role, name in (files.read_json(job.paths.trees) or {}).items()}


def place(job: Job, role: str) -> Optional[str]:
    """Where the files of the tree lie that the job was given as `role`."""
    name = given(job).get(role)
    return None if name is None else job.host.store.tree(name).tree


def hold(paths: TreePaths, what: str) -> int:
    """Use something of the store: a descriptor whose lock keeps it from eviction while it is open. NoTree."""
    until = time.monotonic() + _WAIT_S
    while True:
        fd = _opened(paths.lock)
        if fd < 0:
            raise NoTree("%s has gone from %s: start the job again" % (what, os.path.dirname(paths.dir)))
        is_ours, is_current = _shared(fd), _is_at(fd, paths.lock)
        if is_ours and is_current:
            return fd
        os.close(fd)
        if time.monotonic() > until:
            raise NoTree("%s is being brought or removed, for more than %d s" % (paths.dir, _WAIT_S))
        time.sleep(0.02)  # a blocking flock could not be bounded


def _opened(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1


def _shared(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # no locks here: trees.json keeps it while the job lives
    return True


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False
