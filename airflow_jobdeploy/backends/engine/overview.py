"""The jobs that an engine has a record of, as a worker lists them."""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing


def live(listing: Listing) -> list[str]:
    """Job ids of all but those whose container has ended."""
    return [job_id for job_id in listing.volumes if not _has_surely_ended(listing, job_id)]


def rows(jobs: Jobs, listing: Listing, *, deployment: str | None, live_only: bool) -> list[dict[str, Any]]:
    """See `Backend.jobs`. The latest first; `deployment`: None for all."""
    wanted = [
        job_id
        for job_id in listing.volumes
        if deployment in (None, listing.labels(job_id).get(names.DEPLOYMENT))
        and not (live_only and _has_surely_ended(listing, job_id))
    ]
    found = []
    for job_id in sorted(wanted, key=lambda job: str(listing.volumes[job].get("CreatedAt")), reverse=True):
        state = jobs.state(job_id, listing, counts_log=False)
        if state is not None and not (live_only and state.phase == "ended"):
            plan = names.plan_of(listing.labels(job_id))
            plan["owner"] = listing.notes.get((names.OWNER, job_id), plan.get("owner", "none"))
            found.append({"plan": plan, "state": state.to_dict()})
    return found


def _has_surely_ended(listing: Listing, job_id: str) -> bool:
    listed = listing.containers.get(job_id)
    return listed is not None and listed["State"] in ("exited", "dead")
