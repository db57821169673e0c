"""Is a job that has taken a lease over? One that never started, and has lost its container, must long be seen so."""

from __future__ import annotations

import time

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.core.leases import PROVISIONAL_S


class Holders:
    """As one process has seen them. Used by one thread at a time."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        #: Since when there was no container, by a monotonic clock.
        self._missing: dict[str, float] = {}

    def has_ended(self, job_id: str, listing: Listing) -> bool:
        """Is it over, or gone?"""
        listed = listing.containers.get(job_id)
        if listed is not None:
            self._missing.pop(job_id, None)
            return listed["State"] in ("exited", "dead") or self._jobs.output(job_id) is not None
        if job_id not in listing.volumes:
            return True
        if names.fit_name(job_id) in listing.containers:
            return False  # it is just being replaced
        self._jobs.forget(job_id)
        state = self._jobs.state(job_id, listing, counts_log=False)
        if state is None or state.phase == "ended":
            return True
        # Whoever replaces a container takes no second for that.
        return time.monotonic() - self._missing.setdefault(job_id, time.monotonic()) > PROVISIONAL_S
