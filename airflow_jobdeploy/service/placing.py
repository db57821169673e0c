"""On which worker of a pool a job goes: that which grants what it asks for (line.py); for a job that asks for nothing
the first that answers and has room. Later attempts go by what they need of the one before."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.core import policy
from airflow_jobdeploy.core.health import set_aside
from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.labels import mismatch
from airflow_jobdeploy.core.leases import Ticket, lease_of
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.core.policy import Candidate
from airflow_jobdeploy.core.quotas import Count
from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.core.status import JobState, Reason
from airflow_jobdeploy.errors import PlacementError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.line import Age, Granted, StillWaiting, Wait, give_back
from airflow_jobdeploy.service.ranking import Looking
from airflow_jobdeploy.service.repeating import Repeating
from airflow_jobdeploy.service.stand import Stand
from airflow_jobdeploy.service.survey import declared
from airflow_jobdeploy.service.tally import Tally
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.work import Work
from airflow_jobdeploy.service.workers import Workers

#: How long a first attempt asks a pool of which no worker answers, unless `schedule_timeout` says otherwise.
FIRST_PATIENCE_S = 120.0


class Cordoned(WorkerUnreachable):
    """The worker takes no new jobs now."""


class Placing:
    """For one submission. `check` is called often, and may raise to end it.

    `granted`: what another process has waited for; `line_s`: how long to stand in line here (None: without end).
    """

    def __init__(
        self,
        workers: Workers,
        work: Work,
        say: Callable[[str], None],
        *,
        check: Callable[[], None] = lambda: None,
        granted: Granted | None = None,
        line_s: float | None = None,
    ) -> None:
        self.workers = workers
        self.work = work
        self.say = say
        self.check = check
        self._granted = granted
        self._line_s = line_s
        #: Has a job what was granted?
        self.is_claimed = False
        #: Of a job that has none yet: the one that its wait began with.
        self.uid = granted.uid if granted else new_uid()

    # -- first and later attempts --------------------------------------------------------------------------------------

    def first(self) -> str:
        """Where a new job goes."""
        if self.work.worker:
            return self.work.worker
        return self._stood(self.uid) if self.takes_turns else self.place()

    def next(self, last: Intent, sequel: Sequel) -> str:
        """Where its checkpoint is, unless that worker is lost or full; a lost one only when there is no other."""
        if self.work.worker:
            return self.work.worker
        if self.work.stays:
            return self._stayed(last)
        if self.takes_turns:
            return self._stood(last.uid, last.worker, avoid=sequel.elsewhere)
        if not sequel.elsewhere:
            found = self._candidate(last.worker)
            if isinstance(found, Candidate) and found.has_room:
                return last.worker
        return self._elsewhere(last)

    def anew(self, last: Intent, *, is_silent: bool) -> str:
        """Where a new try goes: to the worker of the attempt before, unless that one was given up as silent."""
        if self.work.stays:
            return self._stayed(last)
        if self.work.worker or not (is_silent or self.takes_turns):
            return last.worker
        if self.takes_turns:
            return self._stood(last.uid, last.worker, avoid=is_silent)
        return self.place(avoid=last.worker)

    def same(self, last: Intent, state: JobState | None) -> None:
        """The attempt of an intent, in `state`: if it was never claimed it has its turn there, as a new one."""
        if self.takes_turns and state is not None and state.reason == Reason.RECORD_MISSING:
            self._stood(last.uid, only=last.worker)

    def _elsewhere(self, last: Intent) -> str:
        try:
            return self.place(avoid=last.worker, patience_s=0)
        except PlacementError:
            found = self._candidate(last.worker)
            return self.place() if isinstance(found, Cordoned) else last.worker

    # -- in line -------------------------------------------------------------------------------------------------------

    @property
    def takes_turns(self) -> bool:
        """Does the job ask for something that its workers give out in turn?"""
        if not self.work.need.demand:
            return False
        return self.workers.backend(self.workers.pool.workers[0].name).capabilities.leases

    def lease(self, uid: str, worker: str) -> dict[str, Any]:
        """For the plan: what was granted, or nothing, and then the job stands in line on its worker."""
        if not self.takes_turns:
            return {}
        mine = self._granted if self._granted and (self._granted.uid, self._granted.worker) == (uid, worker) else None
        waited_s = Age(mine.since)() if mine else 0.0
        bounds = mine.bounds if mine else self._bounds(uid, worker)
        ticket = self._ticket(uid, worker, bounds, reserves=True)
        return lease_of(replace(ticket, waited_s=waited_s), mine.lease if mine else None)

    @contextmanager
    def giving_back(self) -> Iterator[None]:
        """What was granted by the end, and no job has claimed, is given back."""
        try:
            yield
        except Exception as error:  # a timeout is none: after that no connection is to be used
            if not self.is_claimed and not isinstance(error, WorkerUnreachable):
                give_back(self.workers, self._granted)
            raise
        if not self.is_claimed:
            give_back(self.workers, self._granted)

    def _stayed(self, last: Intent) -> str:
        worker = self.stay(last)
        return self._stood(last.uid, only=worker) if self.takes_turns else worker

    def _stood(self, uid: str, last: str = "", *, avoid: bool = False, only: str = "") -> str:
        """Stand in line until a worker grants a lease; StillWaiting after `line_s`.

        `last`: where the attempt before was, and is preferred, or to `avoid`; `only`: on this one worker.
        """
        names = [worker.name for worker in self.workers.pool.workers if only in ("", worker.name)]
        if self._granted is not None and self._granted.uid == uid and self._granted.worker in names:
            return self._granted.worker
        looking = Looking(self.workers, self.work, self.say, self.check)
        found = looking.until_answered(names, avoid={last} - {""} if avoid else set())
        chosen = sorted(found, key=lambda choice: choice.worker != last) if last and not avoid else found
        wait = Wait(
            uid=uid,
            worker_pool=self.workers.pool.name,
            since=time.time(),
            tickets={
                choice.worker: self._ticket(uid, choice.worker, choice.bounds, reserves=not index)
                for index, choice in enumerate(chosen)
            },
            wanted=str(self.work.need.demand),
            schedule_timeout_s=self.work.schedule_timeout_s,
            counts=self._counts if len(self.workers.pool.workers) > 1 else (),  # one alone sees to it itself
            counted_on=tuple(worker.name for worker in self.workers.pool.workers) if self._counts else (),
        )
        stand = Stand(self.workers, wait, say=self.say, check=self.check)
        self._granted = stand.until(self._line_s)
        if self._granted is None:
            raise StillWaiting(wait, stand.best())
        return self._granted.worker

    def _bounds(self, uid: str, worker: str) -> Mapping[str, Any]:
        """What quotas leave on a worker, of a job that was granted nothing: its supervisor sees no other worker."""
        tally = Tally(uid, self._counts, [other.name for other in self.workers.pool.workers])
        tally.see({worker: ()})
        for name in tally.to_ask(0.0) if self._counts else ():
            with suppress(WorkerError):
                tally.see({name: self.workers.backend(name).room(gpus=False).leases})
        return tally.bounds(worker)

    @property
    def _counts(self) -> tuple[Count, ...]:
        """The quotas that bound its GPUs."""
        need = self.work.need
        return need.allowance.counts(self.work.key.deployment) if need.demand.gpus else ()

    def _ticket(self, uid: str, name: str, bounds: Mapping[str, Any], *, reserves: bool) -> Ticket:
        need = self.work.need
        return Ticket(
            uid=uid,
            demand=need.demand.to_wire(),
            priority=need.priority,
            reserves=reserves,
            within=declared(self.workers.pool.worker(name)),
            deployment=self.work.key.deployment,
            owner=need.allowance.owner,
            team=need.allowance.team,
            **bounds,
        )

    # -- first come, first served --------------------------------------------------------------------------------------

    def stay(self, last: Intent) -> str:
        """Where the attempt before was, since what it needs is only there; says so."""
        if len(self.workers.pool.workers) > 1:
            self.say(f"The next attempt stays on worker {last.worker}: {self.work.stays}.")
        return last.worker

    def place(self, avoid: str = "", *, patience_s: float = FIRST_PATIENCE_S) -> str:
        """The first reachable worker with a free slot; `avoid` is not asked. PlacementError when none answers in time:
        one that is cordoned is waited for until `schedule_timeout`."""
        limit = min(patience_s, self.work.schedule_timeout_s or patience_s)
        begun, failures, say = time.monotonic(), 0, Repeating(self.say)
        while True:
            answers, refusals = self._candidates(avoid)
            if answers:
                chosen = policy.place(answers)
                aside = {each.worker: f"set aside: {each.set_aside}" for each in answers if each.set_aside}
                for name, why in {**refusals, **aside}.items():
                    if name != chosen:
                        self.say(f"Passed over worker {name}: {why}")
                return chosen
            failures += 1
            passing = [e for e in refusals.values() if isinstance(e, WorkerUnreachable) and not e.lasting]
            text = "; ".join(f"{name}: {error}" for name, error in refusals.items()) or "it has no other worker"
            # Whoever looks after a worker takes as long as it takes; in line one waits for that, too.
            stays = limit > 0 and any(isinstance(e, Cordoned) for e in passing) and not self.work.schedule_timeout_s
            if not passing or (time.monotonic() - begun >= limit and not stays):
                raise PlacementError(f"no worker of pool {self.workers.pool.name!r} answers: {text}")
            say(f"No worker of pool {self.workers.pool.name!r} answers, trying again: {text}")
            self.workers.pause(backoff_s(failures, random.random()))

    def _candidates(self, avoid: str) -> tuple[list[Candidate], dict[str, WorkerError]]:
        """The workers that answer, up to the first that is well and has room; and why others do not."""
        answers: list[Candidate] = []
        refusals: dict[str, WorkerError] = {}
        where = self.work.need.where
        names = [each.name for each in self.workers.pool.workers if not mismatch(where, each.all_labels)]
        for name in names:
            if name == avoid:
                continue
            self.check()
            found = self._candidate(name, looks=len(names) > 1)
            if isinstance(found, WorkerError):
                refusals[name] = found
                self.workers.drop(name)
                continue
            answers.append(found)
            if found.has_room and not found.set_aside:
                break
        return answers, refusals

    def _candidate(self, name: str, *, looks: bool = False) -> Candidate | WorkerError:
        """A worker as it answers now, or why it does not.

        `looks`: also at how its last jobs ended: one question more, for who has a choice.
        """
        slots = next((worker.slots for worker in self.workers.pool.workers if worker.name == name), None)
        try:
            backend = self.workers.backend(name)
            facts = backend.facts(quick=slots is None)  # live jobs count for slots only
            ends = backend.room(gpus=False).ends if looks and backend.capabilities.leases else ()
        except WorkerError as error:
            return error
        if facts.cordoned:  # for a new job that is as good as not there, and passes, too
            return Cordoned(f"it takes no new jobs: {facts.cordoned}")
        return Candidate(worker=name, slots=slots, live_jobs=facts.live_jobs, set_aside=set_aside(ends))
