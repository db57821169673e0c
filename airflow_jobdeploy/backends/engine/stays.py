"""Provisional leases whose jobs are on their way: told again and again, so that they do not become void meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, TypeVar

from airflow_jobdeploy.backends.engine.ledger import Ledger
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.core.leases import PROVISIONAL_S
from airflow_jobdeploy.errors import WorkerError

#: How often it is told, in seconds; the first time after so long.
_EVERY_S = PROVISIONAL_S / 3
_Say = TypeVar("_Say", bound=Callable[..., Any])


class Stays:
    """Of the jobs that were claimed by one connection and have not started. Used by one thread at a time."""

    def __init__(self, ledger: Ledger, places: Places) -> None:
        self._ledger = ledger
        self._places = places
        self._due = 0.0
        #: Job -> its lease, and the volume that tells of it.
        self._leases: dict[str, tuple[str, str]] = {}

    def add(self, job_id: str, lease: str) -> None:
        if lease and job_id not in self._leases:
            self._due = self._due if self._leases else time.monotonic() + _EVERY_S
            self._leases[job_id] = (lease, "")

    def remove(self, job_id: str) -> None:
        """It has started, or waits by itself."""
        _, told = self._leases.pop(job_id, ("", ""))
        if told:
            self._places.remove_volume(told)

    def tend(self) -> None:
        """Called often while something is under way."""
        if not self._leases or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _EVERY_S
        for job_id, (lease, before) in list(self._leases.items()):
            self._leases[job_id] = (lease, self._ledger.stay(lease))
            if before:
                self._places.remove_volume(before)

    def beside(self, say: _Say) -> _Say:
        """`say`, which is called now and then, and this with it."""

        def both(*args: Any) -> Any:
            with contextlib.suppress(WorkerError):  # whatever is under way will find out
                self.tend()
            return say(*args)

        return both  # type: ignore[return-value]
