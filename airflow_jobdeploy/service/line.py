"""Waiting for a worker that can take a job: tickets on all that could, until one of them grants a lease.

    Wait -> stand (a task process, the command line)  -> Granted, or None after a while
         -> Seekers of a watch (a triggerer: service/watching.py) -> Granted

A wait keeps its age wherever it goes on: a process that ends takes its tickets with it, and who goes on with the wait
puts new ones, no younger. Nothing of a job lies on a worker before its lease is granted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.leases import Lease, SeekAnswer, Ticket
from airflow_jobdeploy.core.quotas import Count
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import JobDeployError, JobTimedOut, WorkerError
from airflow_jobdeploy.service.tally import NO_BOUNDS, Tally
from airflow_jobdeploy.service.workers import Workers

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
    """No worker has granted a lease within the time that the caller has. `wait`: for another process to go on with;
    `best`: the worker on which its place in line was the best."""

    def __init__(self, wait: Wait, best: str) -> None:
        super().__init__(f"still waiting for {wait.wanted}")
        self.wait = wait
        self.best = best


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

    def best(self) -> str:
        """The worker with the best place in line; "" when there is none."""
        placed = [(answer.position, worker) for worker, answer in self._answers.items() if answer.position]
        order = list(self._wait.tickets)
        return min(placed, key=lambda each: (each[0], order.index(each[1])))[1] if placed else ""

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
