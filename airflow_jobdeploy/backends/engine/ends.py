"""How the last jobs of an engine ended: what it says of its own health, by its records of them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.core.health import FAILURES, is_its_own, settles

#: Without a container it is dear to ask how a job ended: older ones than this, in seconds, and more are not asked.
_GONE_S, _GONE = 7200.0, 4
#: So roughly a listing says how long ago a container has ended, beside a factor of two.
_ROUGH_S = 60.0
_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000, "year": 31536000}


def last(jobs: Jobs, listing: Listing, most: int = 8) -> list[dict[str, Any]]:
    """{"job", "status", "reason", "ago_s"} of the last, newest first, as far as they matter (core.health).

    An engine is asked for each, so only those are at first that may have failed by its own fault: whose container was
    removed, or has not ended with 0. The others are where that comes to something.
    """
    gone = _gone(jobs, listing)
    lost = [job for job in gone if (names.UNRUN, job) not in listing.notes][:_GONE]
    failed = [(about_s, job) for about_s, job, code in _exited(listing)[:most] if code != "0"]
    if len(lost) + len(failed) < FAILURES:
        return []
    found = [*_ends(jobs, listing, ((0.0, job) for job in lost)), *_ends(jobs, listing, failed)]
    own = [float(end["ago_s"]) for end in found if is_its_own(end)]
    if len(own) >= FAILURES:
        until_s = 2 * max(own) + _ROUGH_S
        ended = [(about_s, job) for about_s, job, code in _exited(listing) if code == "0" and about_s <= until_s]
        unrun = [(0.0, job) for job in gone if job not in lost]
        found += _ends(jobs, listing, [*unrun[:most], *ended[:most]])
    return sorted(found, key=lambda end: float(end["ago_s"]))


def _ends(jobs: Jobs, listing: Listing, asked: Iterable[tuple[float, str]]) -> Iterator[dict[str, Any]]:
    """Those of (about how long ago, job), to the first that settles the matter."""
    settled_s = math.inf
    for about_s, job_id in asked:
        if about_s > 2 * settled_s + _ROUGH_S:  # whatever it was exactly: it ended before that one
            return
        end = _end(jobs, listing, job_id)
        if end is not None:
            yield end
            settled_s = min(settled_s, end["ago_s"] if settles(end) else math.inf)


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


def _exited(listing: Listing) -> list[tuple[float, str, str]]:
    """(about how long ago, job, exit code) of those whose container has ended, the latest first."""
    ended = ((job, each) for job, each in listing.containers.items() if each["State"] in ("exited", "dead"))
    return sorted((about(each), job, _code(each)) for job, each in ended if job in listing.volumes)


def _code(listed: Mapping[str, Any]) -> str:
    told = re.search(r"\((\d+)\)", str(listed.get("Status") or ""))
    return told.group(1) if told else ""


def about(listed: Mapping[str, Any]) -> float:
    """Seconds since a container ended, as roughly as its listing has it: "Exited (137) 5 minutes ago"."""
    told = re.search(r"(\d+|an?) (second|minute|hour|day|week|month|year)s? ago", str(listed.get("Status") or ""))
    if told is None:
        return 0.0  # less than a second
    count = int(told.group(1)) if told.group(1).isdigit() else 1
    return float(count * _UNITS[told.group(2)])
