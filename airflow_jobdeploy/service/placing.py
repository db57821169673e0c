"""On which worker of a pool a job goes: the first that answers and has room, later attempts by what they need."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from airflow_jobdeploy.core import policy
from airflow_jobdeploy.core.policy import Candidate, Intent, Sequel
from airflow_jobdeploy.errors import PlacementError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.work import Work
from airflow_jobdeploy.service.workers import Workers

#: How long a first attempt asks a pool of which no worker answers, unless `schedule_timeout` says otherwise.
FIRST_PATIENCE_S = 120.0


@dataclass(frozen=True)
class Placing:
    """For one piece of work. `check` is called often, and may raise to end it."""

    workers: Workers
    work: Work
    say: Callable[[str], None]
    check: Callable[[], None]

    def next(self, last: Intent, sequel: Sequel) -> str:
        """Where its checkpoint is, unless that worker is lost or full; a lost one only when there is no other."""
        if self.work.worker:
            return self.work.worker
        if self.work.stays:
            return self.stay(last)
        if not sequel.elsewhere:
            found = self._candidate(last.worker)
            if isinstance(found, Candidate) and found.has_room:
                return last.worker
        try:
            return self.place(avoid=last.worker, patience_s=0)
        except PlacementError:
            return last.worker

    def stay(self, last: Intent) -> str:
        """Where the attempt before was, since what it needs is only there; says so."""
        if len(self.workers.pool.workers) > 1:
            self.say(f"The next attempt stays on worker {last.worker}: {self.work.stays}.")
        return last.worker

    def place(self, avoid: str = "", *, patience_s: float = FIRST_PATIENCE_S) -> str:
        """The first reachable worker with a free slot; `avoid` is not asked. PlacementError when none answers."""
        limit = min(patience_s, self.work.schedule_timeout_s or patience_s)
        begun, failures = time.monotonic(), 0
        while True:
            answers, refusals = self._candidates(avoid)
            if answers:
                for name, error in refusals.items():
                    self.say(f"Passed over worker {name}: {error}")
                return policy.place(answers)
            failures += 1
            passing = [e for e in refusals.values() if isinstance(e, WorkerUnreachable) and not e.lasting]
            text = "; ".join(f"{name}: {error}" for name, error in refusals.items()) or "it has no other worker"
            if not passing or time.monotonic() - begun >= limit:
                raise PlacementError(f"no worker of pool {self.workers.pool.name!r} answers: {text}")
            self.say(f"No worker of pool {self.workers.pool.name!r} answers, trying again: {text}")
            self.workers.pause(backoff_s(failures, random.random()))

    def _candidates(self, avoid: str) -> tuple[list[Candidate], dict[str, WorkerError]]:
        """The workers that answer, up to the first with room; and why others do not."""
        answers: list[Candidate] = []
        refusals: dict[str, WorkerError] = {}
        for worker in self.workers.pool.workers:
            if worker.name == avoid:
                continue
            self.check()
            found = self._candidate(worker.name)
            if isinstance(found, WorkerError):
                refusals[worker.name] = found
                self.workers.drop(worker.name)
                continue
            answers.append(found)
            if found.has_room:
                break
        return answers, refusals

    def _candidate(self, name: str) -> Candidate | WorkerError:
        """A worker as it answers now, or why it does not."""
        slots = next((worker.slots for worker in self.workers.pool.workers if worker.name == name), None)
        try:
            facts = self.workers.backend(name).facts()
        except WorkerError as error:
            return error
        return Candidate(worker=name, slots=slots, live_jobs=facts.live_jobs)
