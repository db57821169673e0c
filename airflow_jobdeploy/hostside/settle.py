"""Before a GPU goes to the next job: what a killed supervisor has left of the last one must be gone.

Its claims ended with it, its job's processes perhaps not: those that are not its own children live until they are
swept. A job that holds a lease, has not ended and has no living supervisor is such a one; whoever is about to give out
GPUs of this host sweeps it first. (Of other accounts and roots nothing can be swept: a new look at the GPUs shows who
is there.)
"""

from __future__ import annotations

import os
import signal
from typing import Iterator

from airflow_jobdeploy.hostside import facts, files, identity, process
from airflow_jobdeploy.hostside.jobdir import Job, NewerLayout
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.tree import Tree


def settled(host: HostPaths) -> bool:
    """Is nothing left of dead holders? Else it has been sent SIGKILL: ask again soon."""
    return sum(_left(job) for job in _dead(host)) == 0  # all of them are looked at


def _dead(host: HostPaths) -> Iterator[Job]:
    for name in facts.job_names(host):
        job = Job(host, name)
        if not os.path.exists(job.paths.exit) and _is_dead_holder(job):
            yield job


def _is_dead_holder(job: Job) -> bool:
    try:
        state = job.state()
        if state.get("pid") is None or state.get("boot") != identity.boot() or not job.plan().get("lease"):
            return False
    except (files.Damaged, NewerLayout):
        return False
    return not process.is_alive(state["pid"], state.get("pid_start"))


def _left(job: Job) -> bool:
    """Sweep it, under its lock. Whoever has that is at it already."""
    tree = Tree(job.id, None)
    members = tree.members()
    if not members:
        return False
    lock = job.lock()
    if lock.take():
        try:
            if not job.has_ended:
                tree.send(signal.SIGKILL, members)
        finally:
            lock.release()
    return True
