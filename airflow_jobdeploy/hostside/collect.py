"""What is old goes: jobs, resources, runners of other releases, and what the store holds above its limit (evict.py).

A job's directory is removed when it has ended longer ago than its own `keep_for`. Never one that is active, or whose
resource is: a resource is active until a `down` of it has succeeded. Never one of a newer layout, of another machine
(each has its own folder), or that cannot be read. Done at most once an hour, in a process of its own, by whichever
session comes along.
"""

from __future__ import annotations

import fcntl
import os
import time
from typing import Callable, List, Optional

from airflow_jobdeploy.hostside import evict, files, layout, resources
from airflow_jobdeploy.hostside.jobdir import Job, NewerLayout, age_s, retire
from airflow_jobdeploy.hostside.layout import HostPaths

#: Between two looks, in seconds.
EVERY_S = 3600.0
#: How long a runner is kept that nobody uses, in seconds: to send it again costs a moment.
RUNNER_S = 7 * 86400.0


def in_background(host: HostPaths, cache_limit: Optional[int] = None) -> None:
    """Collect in a process of its own, if it is time. The session does not wait for it."""
    if _is_time(os.path.join(host.host, "collected")):
        _apart(lambda: collect(host, cache_limit))


def room_in_background(host: HostPaths, cache_limit: Optional[int]) -> None:
    """Keep the store below its limit, in bytes, after something has come. The session does not wait for it."""
    if cache_limit is not None:
        _apart(lambda: evict.keep_below(host, cache_limit))


def _apart(work: Callable[[], object]) -> None:
    child = os.fork()
    if child == 0:
        try:
            if os.fork() == 0:  # of no concern to the session: it need not reap it
                _without_session()
                work()
        finally:
            os._exit(0)
    os.waitpid(child, 0)


def _is_time(mark: str) -> bool:
    """Has nobody collected for an hour? Then it is us: the mark is set first, so that two sessions do not both."""
    try:
        if abs(time.time() - os.stat(mark).st_mtime) < EVERY_S:
            return False
    except OSError:
        pass  # never collected before
    try:
        with open(mark, "w"):
            os.utime(mark)
    except OSError:
        return False
    return True


def _without_session() -> None:
    """Let go of the client's channel, which would stay open until we are done."""
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    os.setsid()


def collect(host: HostPaths, cache_limit: Optional[int] = None) -> int:
    """Remove what is old enough; the number of job directories removed. `cache_limit`: of the store, in bytes."""
    return sum(item["kind"] == "job" for item in sweep(host, cache_limit))


def sweep(
    host: HostPaths,
    cache_limit: Optional[int] = None,
    dry_run: bool = False,
    pulse: Callable[[], None] = lambda: None,
) -> List[dict]:
    """Remove what is old enough, or with `dry_run` only say so: {"kind", "name", "why", "bytes", "age_s"} of each.

    `pulse` is called now and then: this may take long.
    """
    looks = [(_job, name) for name in _names(host.jobs) if layout.is_name(name)]
    looks += [(_resource, name) for name in _names(host.resources) if layout.is_name(name)]
    looks += [(_runner, name) for name in _names(host.runners)]
    going = []
    for look, name in looks:
        pulse()
        going.append(look(host, name, dry_run))
    found = [item for item in going if item is not None]
    if not dry_run:
        evict.tidy(host)
    if cache_limit is not None:
        found += evict.over(host, cache_limit, dry_run, pulse)
    return found


def _item(kind: str, name: str, why: str, age: float, size: int = 0) -> dict:
    return {"kind": kind, "name": name, "why": why, "age_s": max(0.0, age), "bytes": size}


def _names(folder: str) -> list:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _job(host: HostPaths, name: str, dry_run: bool) -> Optional[dict]:
    job = Job(host, name)
    try:
        keep_s = job.plan().get("limits", {}).get("keep_for_s")
        record = job.exit()
        if record is None or keep_s is None or age_s(record["ended"]) <= keep_s or _is_of_active(job):
            return None
        item = _item("job", name, "ended longer ago than its keep_for", age_s(record["ended"]), _size(job.paths.dir))
        if dry_run:
            return item
        lock = job.lock()
        if not lock.take():
            return None
        try:
            retire(host, job.paths.dir)
        finally:
            lock.release()
        forget_uid(host, job.plan())
    except (files.Damaged, NewerLayout, KeyError, TypeError, ValueError, OSError):
        return None  # what we do not understand is not ours to remove
    return item


def _size(path: str) -> int:
    """What a folder takes of the disk, in bytes."""
    total, todo = 0, [path]
    while todo:
        try:
            for entry in os.scandir(todo.pop()):
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                if entry.is_dir(follow_symlinks=False):
                    todo.append(entry.path)
        except OSError:  # going, or closed to us
            continue
    return total


def _is_of_active(job: Job) -> bool:
    resource: Optional[str] = job.plan().get("resource_id")
    if not resource:
        return False
    record = resources.record(job.host, resource)
    return record is not None and not record.get("stopped")


def _resource(host: HostPaths, name: str, dry_run: bool) -> Optional[dict]:
    """A resource that was taken down goes with the last of its jobs."""
    try:
        record = resources.record(host, name)
        if record is None or not record.get("stopped"):
            return None
        if any(host_has(host, job) for job in record.get("jobs", [])):
            return None
        folder = host.resource(name).dir
        item = _item("resource", name, "taken down, and its jobs are gone", time.time() - os.stat(folder).st_mtime)
        if not dry_run:
            retire(host, folder)
    except (files.Damaged, NewerLayout, KeyError, TypeError, ValueError, OSError):
        return None
    return item


def _runner(host: HostPaths, name: str, dry_run: bool) -> Optional[dict]:
    """Sessions and supervisors hold a lock on the runner that they import from (bootstrap.hold)."""
    path = os.path.join(host.runners, name)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        age = time.time() - os.fstat(fd).st_mtime
        if age <= RUNNER_S:
            return None
        item = _item("runner", name, "no session has used it for a week", age, _size(path))
        if not dry_run:
            retire(host, path)
    except OSError:
        return None  # in use, perhaps by another machine, or on a filesystem that cannot tell: it stays
    finally:
        os.close(fd)
    return item


def host_has(host: HostPaths, job: str) -> bool:
    """Is there a record of this job?"""
    return os.path.isdir(host.job(job).dir)


def forget_uid(host: HostPaths, plan: dict) -> None:
    """Remove what all attempts of a job shared, when none of them is left."""
    attempts = (layout.job_id(plan["uid"], number) for number in range(1, plan["attempt"] + 8))
    if not any(host_has(host, name) for name in attempts):
        files.remove_tree(host.uid(plan["uid"]))
