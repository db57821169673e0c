"""Jobs that wait on an engine and end when nobody asks for them any more (`on_orphan: stop`).

Process 1 of a container sees to that (init/); of a job whose container was not started nothing runs, so whoever is
about to start it looks: it may be a client that knows nothing of those who asked for it, and have gone on without it.
"""

from __future__ import annotations

from airflow_jobdeploy.backends.engine import enforcing, names
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.times import seconds


class Wanted:
    """As one process has seen them. Used by one thread at a time."""

    def __init__(self, places: Places) -> None:
        self._places = places
        #: Until when each surely is, by the engine's clock: it is asked seldom.
        self._until: dict[str, float] = {}

    def orphaned_s(self, job_id: str, listing: Listing, now: float) -> float | None:
        """For how long nobody has asked for a job that was not started, where that is too long; else None."""
        listed, after_s = listing.containers[job_id], names.plan_of(listing.labels(job_id)).get("orphan_after_s")
        if after_s is None or listed["State"] != "created" or now < self._until.get(job_id, 0.0):
            return None
        heard = seconds(listing.noted_at.get((names.QUEUED, job_id))) or now
        if now - heard >= after_s:
            heard = max(heard, enforcing.renewed(self._places, str(listed["Id"]), job_id))
        self._until[job_id] = heard + after_s
        return now - heard if now - heard >= after_s else None
