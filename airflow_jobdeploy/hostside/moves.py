"""Attempts that others have taken the place of: they say where the job has gone, and never start again."""

from __future__ import annotations

from typing import Any, Dict, Optional

from airflow_jobdeploy.hostside import files, layout
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths


def moved_to(job: Job) -> Optional[Dict[str, Any]]:
    """The attempt that has taken this one's place, if any."""
    return files.read_json(job.paths.moved)


def note(job: Job, successor: Dict[str, Any]) -> None:
    """Write down who takes a job's place; an older successor never replaces a newer one."""
    known = moved_to(job)
    if known is None or known["attempt"] < successor["attempt"]:
        files.write_json(job.paths.moved, successor)


def supersede(host: HostPaths, plan: dict) -> None:
    """A new attempt is claimed here: the earlier ones of its job on this host have moved."""
    successor = {key: plan.get(key) for key in ("job_id", "attempt", "worker")}
    for number in range(1, plan["attempt"]):
        earlier = Job(host, layout.job_id(plan["uid"], number))
        if earlier.exists:
            note(earlier, successor)
