"""The workers of a pool as they are now, ranked for a job: where tickets are put."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from airflow_jobdeploy.core.placement import Choice, Placement, rank
from airflow_jobdeploy.core.pool import Worker
from airflow_jobdeploy.core.sharing import twice
from airflow_jobdeploy.core.standing import PASSING, WorkerView
from airflow_jobdeploy.errors import PlacementError, PoolError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.repeating import Repeating
from airflow_jobdeploy.service.survey import silent, view_of, wanted
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.work import Work
from airflow_jobdeploy.service.workers import Workers

#: How long a pool is asked of which no worker answers, unless `schedule_timeout` says otherwise.
PATIENCE_S = 120.0
#: Where less is to be sent, nobody is asked whether it is there, in bytes.
_MUCH = 128 << 20


@dataclass(frozen=True)
class Looking:
    """For one piece of work. `check` is called often, and may raise to end it."""

    workers: Workers
    work: Work
    say: Callable[[str], None]
    check: Callable[[], None] = lambda: None

    def until_answered(self, names: Sequence[str], *, avoid: Collection[str] = ()) -> list[Choice]:
        """The workers to put tickets on, the best first; those that take no new jobs now, or are silent, come last.

        PlacementError when none could ever take the job, or none answers for long.
        """
        limit = min(PATIENCE_S, self.work.schedule_timeout_s or PATIENCE_S)
        begun, failures, say = time.monotonic(), 0, Repeating(self.say)
        while True:
            placement, refusals = self.ranked(names, avoid=avoid)
            mute = [choice for choice in placement.choices if choice.worker in refusals and choice.fit == PASSING]
            later = [choice for choice in placement.choices if choice.worker not in refusals and choice.fit == PASSING]
            if placement.candidates or later:
                return [*placement.candidates, *later, *mute]
            passing = [e for e in refusals.values() if isinstance(e, WorkerUnreachable) and not e.lasting]
            if placement.is_impossible or not passing or time.monotonic() - begun >= limit:
                raise PlacementError(self._none(placement))
            failures += 1
            say(f"{self._none(placement)}; trying again.")
            self.workers.pause(backoff_s(failures, random.random()))

    def ranked(self, names: Sequence[str], *, avoid: Collection[str] = ()) -> tuple[Placement, dict[str, WorkerError]]:
        """All of these workers, ranked, and why some cannot be asked. PoolError when two of them are one machine."""
        refusals: dict[str, WorkerError] = {}
        job = wanted(self.work, avoid=avoid)
        large = [name for name, size in job.trees.items() if size >= _MUCH]
        views = []
        for worker in self.workers.pool.workers:
            if worker.name in names:
                self.check()
                views.append(self._view(worker, large, refusals))
        if problems := twice(self.workers.pool, views):
            raise PoolError(problems)
        return rank(job, views), refusals

    def _none(self, placement: Placement) -> str:
        alike: dict[str, list[str]] = {}
        for choice in placement.choices:
            alike.setdefault(choice.why, []).append(choice.worker)
        whys = "; ".join(f"{', '.join(those)}: {why}" for why, those in alike.items()) or "it has no worker"
        asked = f" can take {self.work.need.demand}" if self.work.need.demand else " can take the job"
        return f"no worker of pool {self.workers.pool.name!r}{asked}: {whys}"

    def _view(self, worker: Worker, trees: Sequence[str], refusals: dict[str, WorkerError]) -> WorkerView:
        try:
            backend = self.workers.backend(worker.name)
            return view_of(worker, backend, trees, gpus=bool(self.work.need.demand.gpus))
        except WorkerError as error:
            refusals[worker.name] = error
            self.workers.drop(worker.name)
            return silent(worker, error)
