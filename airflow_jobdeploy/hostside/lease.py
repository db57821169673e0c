"""The lease of a job that stops itself when nobody asks for it any more (`on_orphan: stop`).

Whoever waits for the job renews it now and then, through `serve`; the supervisor looks how long ago that
was. The stamp is overwritten in place, so that a full disk does not end a lease.
"""

from __future__ import annotations

import os
from typing import Optional

from airflow_jobdeploy.hostside import kernel
from airflow_jobdeploy.hostside.jobdir import Job

_FORMAT = "%020.3f\n"


def bound_s(job: Job) -> Optional[float]:
    """How long the job lives without being asked for; None: for ever."""
    bound = job.plan().get("orphan_after_s")
    return float(bound) if isinstance(bound, (int, float)) else None


def renew(job: Job) -> None:
    """Somebody waits for the job. Nothing where it has no lease, or has ended."""
    if bound_s(job) is None or job.has_ended:
        return
    fd = os.open(job.paths.lease, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(fd, (_FORMAT % kernel.boottime_s()).encode(), 0)
    finally:
        os.close(fd)


def silence_s(job: Job, since: float) -> float:
    """Seconds since the last renewal, or since `since` (CLOCK_BOOTTIME) when that is later."""
    try:
        with open(job.paths.lease, "rb") as file:
            renewed = float(file.read(64))
    except (OSError, ValueError):
        renewed = 0.0
    return kernel.boottime_s() - max(renewed, since)
