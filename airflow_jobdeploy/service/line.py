"""Waiting for a worker that can take a job: tickets on all that could, until one of them grants a lease.

    Wait -> stand (a task process, the command line)  -> Granted, or None after a while
         -> Seekers of a watch (a triggerer: service/watching.py) -> Granted

A wait keeps its age wherever it goes on: a process that ends takes its tickets with it, and who goes on with the wait
puts new ones, no younger. Nothing of a job lies on a worker before its lease is granted.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.leases import RENEW_S, Lease, SeekAnswer, Ticket
from airflow_jobdeploy.core.quotas import Count, Judgement, Leases
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import JobDeployError, JobTimedOut, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.tally import COUNT_S, NO_BOUNDS, SETTLE_S, Tally
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.workers import Workers

#: How often the workers are asked for news, by a process that waits itself, in seconds.
POLL_S = 0.3
#: How often the place in line is said when it changes, and when it does not, in seconds.
SAY_S, SAY_AGAIN_S = 10.0, 300.0
#: Fields of a ticket that quotas set.
_BOUNDS = ("max_gpus", "team_max_gpus")


class Age:
    """Seconds since a moment by another process's clock: never negative, and no clock that is set moves it any more."""

    def __init__(self, since: float) -> None:
        self._before = max(0.0, time.time() - since)
        self._begun = time.monotonic()

    def __call__(self) -> float:
        return self._before + time.monotonic() - self._begun


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One job's wait, as it is handed from process to process."""

    #: The job's uid.
    uid: str
    worker_pool: str
    #: When it began: seconds since the epoch, by the clocks of Airflow's machines.
    since: float
    #: Worker -> its ticket, the preferred worker first; their age is that of the wait.
    tickets: Mapping[str, Ticket]
    #: What is asked for, in words.
    wanted: str
    schedule_timeout_s: float | None = None
    #: The quotas that count the job together with others on several workers; those workers.
    counts: tuple[Count, ...] = ()
    counted_on: tuple[str, ...] = ()

    def age(self) -> Age:
        """How long it has taken by now, and from now on."""
        return Age(self.since)

    def is_over(self, waited_s: float) -> bool:
        """Has `schedule_timeout` passed?"""
        return self.schedule_timeout_s is not None and waited_s >= self.schedule_timeout_s

    def ticket(self, worker: str, waited_s: float, bounds: Mapping[str, Any] = NO_BOUNDS) -> Ticket:
        """As old as the wait is. `bounds`: what quotas leave there now, where that is known anew."""
        return replace(self.tickets[worker], waited_s=waited_s, **bounds)

    def tally(self) -> Tally:
        """For its quotas."""
        wishes = [wish for ticket in self.tickets.values() for wish in ticket.demand.get("gpus") or ()]
        least = min((int(wish.get("count") or 1) for wish in wishes), default=0)
        return Tally(self.uid, self.counts, self.counted_on, least)

    def granted(self, worker: str, lease: Lease, bounds: Mapping[str, Any] = NO_BOUNDS) -> Granted:
        """One of its tickets got a lease."""
        own = self.ticket(worker, 0.0, bounds)
        left = {key: most for key in _BOUNDS if (most := getattr(own, key)) is not None}
        return Granted(uid=self.uid, worker=worker, lease=lease, since=self.since, bounds=left)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        tickets = [[worker, ticket.to_wire()] for worker, ticket in self.tickets.items()]
        counts = [count.to_dict() for count in self.counts]
        return {**data, "tickets": tickets, "counts": counts, "counted_on": list(self.counted_on)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wait:
        tickets = {str(worker): Ticket.from_wire(ticket) for worker, ticket in data["tickets"]}
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        counts = tuple(Count.from_dict(count) for count in data.get("counts", ()))
        return cls(**{**known, "tickets": tickets, "counts": counts, "counted_on": tuple(data.get("counted_on", ()))})


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A worker's promise, void after two minutes unless a job claims it."""

    uid: str
    worker: str
    lease: Lease
    since: float
    #: What quotas left on that worker (fields of a ticket): the job's ticket there, should the lease become void.
    bounds: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {**data, "lease": self.lease.to_wire(), "bounds": dict(self.bounds)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Granted:
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        return cls(**{**known, "lease": Lease.from_wire(data["lease"])})


def give_back(workers: Workers, granted: Granted | None) -> None:
    """It is not going to be claimed; where its worker cannot be told it becomes void by itself."""
    if granted is not None and granted.lease.id:
        with suppress(WorkerError):
            workers.backend(granted.worker).release(granted.lease.id)


class StillWaiting(JobDeployError):
    """No worker has granted a lease within the time that the caller has. `wait`: for another process to go on with."""

    def __init__(self, wait: Wait) -> None:
        super().__init__(f"still waiting for {wait.wanted}")
        self.wait = wait


def timed_out(wait: Wait, place: str = "") -> JobTimedOut:
    """`schedule_timeout` has passed."""
    text = (
        f"no worker of pool {wait.worker_pool!r} had {wait.wanted} for the job within schedule_timeout "
        f"({duration(wait.schedule_timeout_s or 0.0)}){f': {place}' if place else ''}"
    )
    return JobTimedOut(text, status="FAILED", reason="TimedOut")


# -- in words ---------------------------------------------------------------------------------------------------------


class Places:
    """What the workers have said of one wait; says it in one line, not too often."""

    def __init__(self, wait: Wait, age: Callable[[], float]) -> None:
        self._wait = wait
        self._age = age
        self._answers: dict[str, SeekAnswer] = {}
        #: How old the wait was when each was heard.
        self._heard: dict[str, float] = {}
        self._silent: dict[str, str] = {}
        self._said = ""
        self._said_at = 0.0
        #: Why it has to wait for others of its owner or team; "" when it has not.
        self.quotas: Callable[[], str] = str

    def heard(self, worker: str, answer: SeekAnswer) -> None:
        self._silent.pop(worker, None)
        self._answers[worker], self._heard[worker] = answer, self._age()

    def missed(self, worker: str, error: Exception) -> None:
        """It cannot be asked now."""
        self._answers.pop(worker, None)
        self._silent[worker] = str(error)

    def news(self) -> str:
        """A line when there is something to say, else ""."""
        now, place = self._age(), self.text(ages=False)
        pause_s = SAY_AGAIN_S if place == self._said else SAY_S
        if not place or (self._said and now - self._said_at < pause_s):
            return ""
        self._said, self._said_at = place, now
        waited = f", for {duration(now)} so far" if now >= 1 else ""
        return f"Waiting for {self._wait.wanted}{waited}: {self.text()}"

    def text(self, *, ages: bool = True) -> str:
        """The best place that the job has, and who is ahead there, with `ages` for how long; or why it has none."""
        if over := self.quotas():
            return over
        placed = [(answer.position, worker) for worker, answer in self._answers.items() if answer.position]
        if not placed:
            out = [f"worker {worker}: {answer.why}" for worker, answer in self._answers.items()]
            return "; ".join(
                [*out, *(f"worker {worker} cannot be asked: {why}" for worker, why in self._silent.items())]
            )
        position, worker = min(placed)
        passed_s = self._age() - self._heard[worker] if ages else None
        ahead = [_shown(each, passed_s) for each in self._answers[worker].ahead[:3]]
        behind = f", behind {', '.join(ahead)}" if position > 1 and ahead else ""
        more = f" (in line on {len(placed)} workers)" if len(placed) > 1 else ""
        why = self._answers[worker].why
        return f"number {position} in the line of worker {worker}{behind}{more}{f': {why}' if why else ''}"


def _shown(ahead: Mapping[str, Any], passed_s: float | None) -> str:
    """`passed_s`: since this was heard; None leaves out for how long it waits."""
    waits = "" if passed_s is None else f", waiting for {duration(float(ahead.get('waited_s') or 0.0) + passed_s)}"
    return f"a job of {ahead.get('user') or 'another account'} ({ahead.get('priority') or 'normal'}{waits})"


# -- in this process --------------------------------------------------------------------------------------------------


class Stand:
    """Stands in the lines of a wait, in the thread that calls `until`. `check` is called often, and may raise."""

    def __init__(self, workers: Workers, wait: Wait, *, say: Callable[[str], None], check: Callable[[], None]) -> None:
        self._workers = workers
        self._wait = wait
        self._say = say
        self._check = check
        self._age = wait.age()
        self._places = Places(wait, self._age)
        self._due = dict.fromkeys(wait.tickets, 0.0)
        self._failures = dict.fromkeys(wait.tickets, 0)
        self._tally = wait.tally()
        self._places.quotas = self._tally.why
        self._count_due = 0.0

    def until(self, patience_s: float | None) -> Granted | None:
        """The first lease; None after `patience_s` (None: no bound). JobTimedOut; all tickets are
        taken back, also when `check` raises."""
        begun, granted = time.monotonic(), None
        try:
            while granted is None:
                self._check()
                granted = self._round()
                if granted is not None:
                    break
                if line := self._places.news():
                    self._say(line)
                if self._wait.is_over(self._age()):
                    raise timed_out(self._wait, self._places.text())
                if patience_s is not None and time.monotonic() - begun >= patience_s:
                    return None
                self._workers.pause(POLL_S)
        finally:
            self._leave("" if granted is None else granted.worker)
        return granted

    def _round(self) -> Granted | None:
        """Ask each worker once."""
        if self._wait.counts and time.monotonic() >= self._count_due:
            self._count()
        for worker in self._wait.tickets:
            answer = self._asked(worker)
            if answer is None:
                continue
            self._places.heard(worker, answer)
            if answer.lease is not None and self._is_kept(worker):
                return self._wait.granted(worker, answer.lease, self._tally.bounds(worker))
        return None

    def _asked(self, worker: str) -> SeekAnswer | None:
        """What is new; None: nothing, or it cannot be asked, and will be again later."""
        now = time.monotonic()
        try:
            if now < self._due[worker]:
                if self._failures[worker]:
                    return None
                return self._workers.backend(worker).granted().get(self._wait.uid)
            ticket = self._wait.ticket(worker, self._age(), self._tally.bounds(worker))
            # It is claimed by this process or not at all.
            answer = self._workers.backend(worker).seek(replace(ticket, tied=True))
        except WorkerUnreachable as error:
            self._workers.drop(worker)
            self._failures[worker] += 1
            self._due[worker] = now + backoff_s(self._failures[worker], random.random())
            self._places.missed(worker, error)
            return None
        self._due[worker], self._failures[worker] = now + RENEW_S, 0
        return answer

    # -- quotas over several workers -----------------------------------------------------------------------------------

    def _is_kept(self, worker: str) -> bool:
        """Is what was granted within the quotas, all workers together? Else it is given back."""
        if not self._wait.counts:
            return True
        until = time.monotonic() + SETTLE_S
        while (found := self._tally.judge(worker, self._count())) is not Judgement.KEEP:
            if found is Judgement.GIVE_WAY or time.monotonic() >= until:
                self._say(f"Worker {worker} had {self._wait.wanted}, which others were to have: it is given back.")
                with suppress(WorkerError):
                    self._workers.backend(worker).drop(self._wait.uid)
                self._due[worker] = time.monotonic()
                return False
            self._check()
            self._workers.pause(POLL_S)
        return True

    def _count(self) -> Mapping[str, Leases]:
        """Look at all that is held of the pool; where that leaves less or more than before, the ticket says so."""
        self._count_due = time.monotonic() + COUNT_S
        before = {worker: self._tally.bounds(worker) for worker in self._due}
        found = {}
        for worker in self._tally.to_ask(time.monotonic()):
            self._check()
            try:
                found[worker] = self._workers.backend(worker).room(gpus=False).leases
            except WorkerError:
                self._workers.drop(worker)
                self._tally.missed(worker, time.monotonic())
        self._tally.see(found)
        for worker, bounds in before.items():
            if bounds != self._tally.bounds(worker) and not self._failures[worker]:
                self._due[worker] = min(self._due[worker], time.monotonic())
        return self._tally.leases

    def _leave(self, granted: str) -> None:
        """Take back all other tickets. What cannot be told now hears it when the connection ends."""
        for worker in self._wait.tickets:
            if worker != granted and self._due[worker] and not self._failures[worker]:
                with suppress(WorkerError):
                    self._workers.backend(worker).drop(self._wait.uid)
