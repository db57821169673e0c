"""What the workers of a pool come to, for the quotas of a job that waits. Looking at them is the caller's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.core.leases import hashed
from airflow_jobdeploy.core.quotas import Count, Judgement, Leases, Left, judge

#: How often a waiter counts anew what quotas leave, in seconds.
COUNT_S = 5.0
#: For how long it keeps what it was granted while others are to give way, in seconds.
SETTLE_S = 5.0
#: How long a worker is not asked that was silent, in seconds: it counts as it was seen last.
_SILENT_S = 30.0

#: No quota counts the job, or none has been looked at yet.
NO_BOUNDS: Mapping[str, Any] = {}


class Tally:
    """Of one wait, for `gpus` at least. `counted_on`: all workers of the pool, wherever the job may go."""

    def __init__(self, uid: str, counts: Sequence[Count], counted_on: Sequence[str], gpus: int = 0) -> None:
        self._uid = uid
        self._counts = tuple(counts)
        self._workers = tuple(counted_on)
        self._gpus = gpus
        self._silent_until: dict[str, float] = {}
        #: As they were seen last. Replaced, never changed: tickets are written in the threads of watchers.
        self.leases: Mapping[str, Leases] = {}

    def to_ask(self, now: float) -> list[str]:
        """The workers to look at."""
        return [worker for worker in self._workers if self._silent_until.get(worker, 0.0) <= now]

    def missed(self, worker: str, now: float) -> None:
        """It cannot be asked."""
        self._silent_until[worker] = now + _SILENT_S

    def see(self, found: Mapping[str, Leases]) -> None:
        """What these workers have said."""
        self.leases = {**self.leases, **found}

    def bounds(self, worker: str) -> Mapping[str, Any]:
        """For the ticket there; what the job itself was granted elsewhere is on its way back."""
        return self._left().bounds(worker) if self.leases else NO_BOUNDS

    def why(self) -> str:
        """Why the job has to wait for others, whatever is free; "" when it has not."""
        return self._left().why_not(self._gpus)

    def _left(self) -> Left:
        who = hashed("who", self._uid)
        others = {
            name: [each for each in found if each.get("job") or each.get("who") != who]
            for name, found in self.leases.items()
        }
        return Left(counts=self._counts, leases=others)

    def judge(self, worker: str, leases: Mapping[str, Leases]) -> Judgement:
        """What becomes of a lease that was granted there before `leases` were looked at."""
        return judge(self._uid, worker, self._counts, leases)
