"""A pool's places on this host: at most so many of its jobs run here at once."""

from __future__ import annotations

import os
from typing import Any, Dict, Optional, Sequence

from airflow_jobdeploy.hostside import files
from airflow_jobdeploy.hostside.jobdir import Job

_TICK_S = 0.25


class Slots:
    """The pool's places on this host, a lock file each. Builds of a standing resource need none: its `up` holds one."""

    def __init__(self, job: Job) -> None:
        plan = job.plan()
        builds_on = plan.get("resource_id") and not plan.get("resource")
        #: 0: no bound.
        self.count = 0 if builds_on else int(plan.get("slots") or 0)
        self._folder = job.host.pool_slots(plan.get("worker_pool") or "local")
        self._cordon = job.host.cordon
        self._held: Optional[files.Lock] = None

    # What a job holds of its host beside a slot: nothing, where its plan has no lease (holding.py).

    @property
    def groups(self) -> Sequence[str]:
        return ()

    def facts(self) -> Dict[str, Any]:
        return {}

    def fds(self) -> Sequence[int]:
        return ()

    def tick_s(self) -> float:
        """The longest pause between two looks at the slots, whose end nothing tells."""
        return _TICK_S

    def tidy(self) -> None:
        pass

    join = leave = tidy

    def look_at(self, pid: int) -> bool:
        return False

    def shortage(self, memory: Optional[dict]) -> Optional[dict]:
        return memory

    environment = facts

    def take(self) -> bool:
        """Take a free slot, to be held until we end; True also where none is needed."""
        if self._held is not None or not self.count:
            return True
        if not self._may_begin():
            return False
        files.private_dir(self._folder)
        for number in range(self.count):
            lock = files.Lock(os.path.join(self._folder, str(number)))
            if lock.take():
                self._held = lock
                return True
        return False

    def _may_begin(self) -> bool:
        """Does the host take jobs? One that has to wait for a slot begins when it does again."""
        return not os.path.lexists(self._cordon)
