"""A job that stops itself when nobody asks for it any more (`on_orphan: stop`).

Whoever waits for the job says so now and then, through `serve`; the supervisor looks how long ago that was. The stamp
is overwritten in place, so that a full disk does not make an orphan. (Leases of GPUs, cores and memory: keeper.py.)
"""

from __future__ import annotations

import os
from typing import Optional

from airflow_jobdeploy.hostside import kernel
from airflow_jobdeploy.hostside.jobdir import Job

_FORMAT = "%020.3f\n"


def after_s(job: Job) -> Optional[float]:
    """How long the job lives without being asked for; None: for ever."""
    bound = job.plan().get("orphan_after_s")
    return float(bound) if isinstance(bound, (int, float)) else None


def asked(job: Job) -> None:
    """Somebody waits for the job. Nothing where that does not matter to it, or when it has ended."""
    if after_s(job) is None or job.has_ended:
        return
    fd = os.open(job.paths.asked, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, (_FORMAT % kernel.boottime_s()).encode(), 0)
    finally:
        os.close(fd)


def silence_s(job: Job, since: float) -> float:
    """Seconds since it was last asked for, or since `since` (CLOCK_BOOTTIME) when that is later."""
    try:
        with open(job.paths.asked, "rb") as file:
            heard = float(file.read(64))
    except (OSError, ValueError):
        heard = 0.0
    return kernel.boottime_s() - max(heard, since)
