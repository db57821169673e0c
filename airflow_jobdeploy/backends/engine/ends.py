"""How the last jobs of an engine ended: what it says of its own health, by its records of them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.backends.engine.jobs import Jobs, Listing
from airflow_jobdeploy.backends.engine.judging import seconds
from airflow_jobdeploy.core.health import settles

#: Without a container it is dear to ask how a job ended: older ones than this, in seconds, and more are not asked.
_GONE_S, _GONE = 7200.0, 4
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}


def last(jobs: Jobs, listing: Listing, most: int = 8) -> list[dict[str, Any]]:
    """{"job", "status", "reason", "ago_s"} of the last, newest first, as far back as it matters (core.health)."""
    found = [end for job_id in _gone(jobs, listing)[:_GONE] if (end := _end(jobs, listing, job_id))]
    settled_s = math.inf
    for about_s, job_id in _exited(listing)[:most]:
        if about_s > 2 * settled_s + 60:  # whatever it was exactly: it ended before one that settles the matter
            break
        end = _end(jobs, listing, job_id)
        if end is not None:
            found.append(end)
            settled_s = min(settled_s, end["ago_s"] if settles(end) else math.inf)
    return sorted(found, key=lambda end: float(end["ago_s"]))[:most]


def _end(jobs: Jobs, listing: Listing, job_id: str) -> dict[str, Any] | None:
    state = jobs.state(job_id, listing, counts_log=False)
    if state is None or state.phase != "ended":
        return None
    ago_s = float(state.history[-1].get("ago_s") or 0) if state.history else 0.0
    return {"job": job_id, "status": state.status.value, "reason": state.reason, "ago_s": ago_s}


def _gone(jobs: Jobs, listing: Listing) -> list[str]:
    """Jobs without a container, those first that were claimed the latest."""
    claimed = ((jobs.now - (seconds(volume.get("CreatedAt")) or 0.0), job) for job, volume in listing.volumes.items())
    return [job for age_s, job in sorted(claimed) if age_s < _GONE_S and job not in listing.containers]


def _exited(listing: Listing) -> list[tuple[float, str]]:
    """(about how long ago, job) of those whose container has ended, the latest first."""
    ended = (job for job, listed in listing.containers.items() if listed["State"] in ("exited", "dead"))
    return sorted((about(listing.containers[job]), job) for job in ended if job in listing.volumes)


def about(listed: Mapping[str, Any]) -> float:
    """Seconds since a container ended, as roughly as its listing has it: "Exited (137) 5 minutes ago"."""
    told = re.search(r"(\d+|an?) (second|minute|hour|day|week|month|year)s? ago", str(listed.get("Status") or ""))
    if told is None:
        return 0.0  # less than a second
    count = int(told.group(1)) if told.group(1).isdigit() else 1
    return float(count * _UNITS[told.group(2)])
