"""What may end an attempt before its command does: an order (a file and SIGTERM), a limit of time, being forgotten."""

from __future__ import annotations

import os
from typing import Any, Dict, Optional, Sequence

from airflow_jobdeploy.hostside import files, house, kernel, life, orphan
from airflow_jobdeploy.hostside.jobdir import Job


class Cut(Exception):
    """The attempt ends now: by an order (`stop`, `preempt`), a limit, or because nobody asks for it (`orphan`)."""

    def __init__(
        self,
        stop: Optional[dict] = None,
        limit: Optional[dict] = None,
        preempt: Optional[dict] = None,
        orphan: Optional[dict] = None,
    ) -> None:
        super().__init__(stop or limit or preempt or orphan)
        self.stop = stop
        self.limit = limit
        self.preempt = preempt
        self.orphan = orphan


class Bounds:
    """The limits of one attempt, counted on a clock that no change of the wall clock moves."""

    def __init__(self, job: Job, home: house.House) -> None:
        self._job = job
        self._home = home
        self._limits: Dict[str, Any] = job.plan().get("limits") or {}
        self._until: Optional[float] = None
        #: When the command began, and until when its life lasts as far as we have looked.
        self._started = 0.0
        self._life_until: Optional[float] = None
        self._begun = kernel.boottime_s()
        self._orphan_after_s = orphan.after_s(job)

    def command_starts(self) -> None:
        """From now on the attempt's timeout and its life run."""
        bound = self._limits.get("timeout_s")
        self._started = kernel.boottime_s()
        self._until = self._started + bound if bound else None
        lasts = life.bound_s(self._job)
        self._life_until = None if lasts is None else self._started + lasts

    def wait(self, seconds: float, until: Optional[float] = None, also: Sequence[int] = ()) -> None:
        """Wait for a signal, news on `also`, a deadline or `seconds`; does not judge (see `check`)."""
        known = [time for time in (until, self._until, self._life_until) if time is not None]
        left = min(known) - kernel.boottime_s() if known else seconds
        self._home.wait(min(seconds, left), also)

    def check(self, until: Optional[float] = None, limit: Optional[dict] = None) -> None:
        """Cut when an order has come, or the attempt's deadline or `until` (whose name is `limit`) has passed."""
        order = self.order()
        if order is not None:
            raise Cut(stop=order)
        preempt = self.preempt()
        if preempt is not None:
            raise Cut(preempt=preempt)
        now = kernel.boottime_s()
        if self._until is not None and now >= self._until:
            raise Cut(limit={"limit": "timeout", "limit_s": self._limits["timeout_s"]})
        if self._life_until is not None and now >= self._life_until:
            self._check_life(now)
        if until is not None and now >= until:
            raise Cut(limit=limit)
        self._check_orphan()

    def _check_life(self, now: float) -> None:
        """It may have been lengthened since we looked."""
        lasts = life.bound_s(self._job) or 0.0
        self._life_until = self._started + lasts
        if now >= self._life_until:
            raise Cut(limit={"limit": "life_span", "limit_s": lasts})

    def _check_orphan(self) -> None:
        if self._orphan_after_s is None:
            return
        silent = orphan.silence_s(self._job, self._begun)
        if silent > self._orphan_after_s:
            raise Cut(orphan={"orphaned_s": round(silent, 1)})

    def preempt(self) -> Optional[dict]:
        """The order to make room, when there is one."""
        try:
            return files.read_json(self._job.paths.preempt)
        except files.Damaged:
            return {}

    def order(self) -> Optional[dict]:
        """The order to stop, when there is one. SIGTERM without a file (full disk, a shutdown) is one, too."""
        was_told = self._home.terminated and not os.path.exists(self._job.paths.preempt)
        if not was_told and not os.path.exists(self._job.paths.stop):
            return None
        try:
            order = files.read_json(self._job.paths.stop)
        except files.Damaged:
            order = {}
        return order if order is not None else {"reason": "its supervisor received SIGTERM", "by": ""}

    def grace_s(self) -> float:
        """Between signal and KILL: the order's, else the plan's."""
        given = (self.order() or self.preempt() or {}).get("grace_s")
        return float(given if isinstance(given, (int, float)) else self._limits.get("grace_s", 10.0))
