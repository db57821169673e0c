"""How a process becomes the supervisor of a job: under its lock, written down before anything starts."""

from __future__ import annotations

import os
import signal
from typing import Callable

from airflow_jobdeploy.hostside import house, identity, kernel, process, stage, supervise
from airflow_jobdeploy.hostside.jobdir import Job, enter


def begin(job: Job, state: dict) -> None:
    """Write down who supervises, before anything is started. OSError when that is impossible: nothing may start."""
    mine = process.look(os.getpid())
    state.update(pid=os.getpid(), pid_start=mine.start if mine else None, boot=identity.boot())
    enter(state, "starting", "PENDING", "Staging")
    job.write_state(state)


def run(job: Job, tell: Callable[[str], None]) -> None:
    """Supervise a claimed job whose lock we try to take; returns at its end, or at once when it is not ours to run.

    `tell` is called with "held" once the job is ours and written down as such, with "lost" otherwise.
    """
    lock = job.lock()
    if not lock.take(wait_s=1.0):
        tell("lost")
        return
    state = job.state()
    if job.has_ended or state.get("pid") is not None:
        tell("lost")
        return
    home = house.House()
    kernel.become_subreaper()
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    begin(job, state)
    tell("held")
    supervise.Supervisor(job, state, home, _holding(job)).run()


def _holding(job: Job) -> stage.Slots:
    """What the job holds of its host while it runs, to be taken."""
    if not job.plan().get("lease"):
        return stage.Slots(job)
    from airflow_jobdeploy.hostside.holding import Holding  # not in the memory of those who hold no more than a slot

    return Holding(job)
