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
from typing import Callable, Optional

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
    names = _names(host.jobs)
    removed = sum(_collect_job(host, name) for name in names if layout.is_name(name))
    for name in _names(host.resources):
        if layout.is_name(name):
            _collect_resource(host, name)
    for name in _names(host.runners):
        _collect_runner(host, os.path.join(host.runners, name))
    evict.tidy(host)
    if cache_limit is not None:
        evict.keep_below(host, cache_limit)
    return removed


def _names(folder: str) -> list:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _collect_job(host: HostPaths, name: str) -> bool:
    job = Job(host, name)
    try:
        keep_s = job.plan().get("limits", {}).get("keep_for_s")
        record = job.exit()
        if record is None or keep_s is None or age_s(record["ended"]) <= keep_s or _is_of_active(job):
            return False
        lock = job.lock()
        if not lock.take():
            return False
        try:
            retire(host, job.paths.dir)
        finally:
            lock.release()
        forget_uid(host, job.plan())
    except (files.Damaged, NewerLayout, KeyError, TypeError, ValueError, OSError):
        return False  # what we do not understand is not ours to remove
    return True


def _is_of_active(job: Job) -> bool:
    resource: Optional[str] = job.plan().get("resource_id")
    if not resource:
        return False
    record = resources.record(job.host, resource)
    return record is not None and not record.get("stopped")


def _collect_resource(host: HostPaths, name: str) -> None:
    """A resource that was taken down goes with the last of its jobs."""
    try:
        record = resources.record(host, name)
        if record is None or not record.get("stopped"):
            return
        if not any(host_has(host, job) for job in record.get("jobs", [])):
            retire(host, host.resource(name).dir)
    except (files.Damaged, NewerLayout, KeyError, TypeError, ValueError, OSError):
        return


def _collect_runner(host: HostPaths, path: str) -> None:
    """Sessions and supervisors hold a lock on the runner that they import from (bootstrap.hold)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if time.time() - os.fstat(fd).st_mtime > RUNNER_S:
            retire(host, path)
    except OSError:
        return  # in use, perhaps by another machine, or on a filesystem that cannot tell: it stays
    finally:
        os.close(fd)


def host_has(host: HostPaths, job: str) -> bool:
    """Is there a record of this job?"""
    return os.path.isdir(host.job(job).dir)


def forget_uid(host: HostPaths, plan: dict) -> None:
    """Remove what all attempts of a job shared, when none of them is left."""
    attempts = (layout.job_id(plan["uid"], number) for number in range(1, plan["attempt"] + 8))
    if not any(host_has(host, name) for name in attempts):
        files.remove_tree(host.uid(plan["uid"]))
