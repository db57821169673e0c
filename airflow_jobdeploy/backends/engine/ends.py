"""How the last jobs of an engine ended: what it says of its own health, by its records of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.backends.engine.jobs import Jobs, Listing
from airflow_jobdeploy.backends.engine.judging import seconds
from airflow_jobdeploy.core.health import settles

#: Without a container it is dear to ask how a job ended; older ones than this are not, in seconds.
_GONE_S = 7200.0
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}


def last(jobs: Jobs, listing: Listing, most: int = 8) -> list[dict[str, Any]]:
    """{"job", "status", "reason", "ago_s"} of the last, newest first, as far back as it matters (core.health)."""
    found: list[dict[str, Any]] = []
    for job_id in _latest(jobs, listing)[:most]:
        state = jobs.state(job_id, listing, counts_log=False)
        if state is None or state.phase != "ended":
            continue
        ago_s = float(state.history[-1].get("ago_s") or 0) if state.history else 0.0
        found.append({"job": job_id, "status": state.status.value, "reason": state.reason, "ago_s": ago_s})
        if settles(found[-1]):
            break
    return sorted(found, key=lambda end: float(end["ago_s"]))


def _latest(jobs: Jobs, listing: Listing) -> list[str]:
    """The jobs that may have ended, about in the order of that."""
    ages = []
    for job_id, volume in listing.volumes.items():
        listed = listing.containers.get(job_id)
        if listed is None:
            age_s = jobs.now - (seconds(volume.get("CreatedAt")) or jobs.now)
            if age_s > _GONE_S:
                continue
        elif listed["State"] in ("exited", "dead"):
            age_s = about(listed)
        else:
            continue
        ages.append((age_s, job_id))
    return [job_id for _, job_id in sorted(ages)]


def about(listed: Mapping[str, Any]) -> float:
    """Seconds since a container ended, as roughly as its listing has it: "Exited (137) 5 minutes ago"."""
    told = re.search(r"(\d+|an?) (second|minute|hour|day|week|month|year)s? ago", str(listed.get("Status") or ""))
    if told is None:
        return 0.0  # less than a second
    count = int(told.group(1)) if told.group(1).isdigit() else 1
    return float(count * _UNITS[told.group(2)])
