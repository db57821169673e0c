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
from dataclasses import dataclass, replace
from typing import Any

from airflow_jobdeploy.core.leases import RENEW_S, Lease, SeekAnswer, Ticket
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import JobDeployError, JobTimedOut, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.workers import Workers

#: How often the workers are asked for news, by a process that waits itself, in seconds.
POLL_S = 0.3
#: How often the place in line is said when it changes, and when it does not, in seconds.
SAY_S, SAY_AGAIN_S = 10.0, 300.0


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

    def age(self) -> Age:
        """How long it has taken by now, and from now on."""
        return Age(self.since)

    def is_over(self, waited_s: float) -> bool:
        """Has `schedule_timeout` passed?"""
        return self.schedule_timeout_s is not None and waited_s >= self.schedule_timeout_s

    def ticket(self, worker: str, waited_s: float) -> Ticket:
        """As old as the wait is."""
        return replace(self.tickets[worker], waited_s=waited_s)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        data = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**data, "tickets": [[worker, ticket.to_wire()] for worker, ticket in self.tickets.items()]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Wait:
        tickets = {str(worker): Ticket.from_wire(ticket) for worker, ticket in data["tickets"]}
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**known, "tickets": tickets})


@dataclass(frozen=True, kw_only=True)
class Granted:
    """A worker's promise, void after two minutes unless a job claims it."""

    uid: str
    worker: str
    lease: Lease
    since: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"uid": self.uid, "worker": self.worker, "lease": self.lease.to_wire(), "since": self.since}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Granted:
        return cls(uid=data["uid"], worker=data["worker"], lease=Lease.from_wire(data["lease"]), since=data["since"])


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
        for worker in self._wait.tickets:
            answer = self._asked(worker)
            if answer is None:
                continue
            self._places.heard(worker, answer)
            if answer.lease is not None:
                return Granted(uid=self._wait.uid, worker=worker, lease=answer.lease, since=self._wait.since)
        return None

    def _asked(self, worker: str) -> SeekAnswer | None:
        """What is new; None: nothing, or it cannot be asked, and will be again later."""
        now = time.monotonic()
        try:
            if now < self._due[worker]:
                if self._failures[worker]:
                    return None
                return self._workers.backend(worker).granted().get(self._wait.uid)
            answer = self._workers.backend(worker).seek(self._wait.ticket(worker, self._age()))
        except WorkerUnreachable as error:
            self._workers.drop(worker)
            self._failures[worker] += 1
            self._due[worker] = now + backoff_s(self._failures[worker], random.random())
            self._places.missed(worker, error)
            return None
        self._due[worker], self._failures[worker] = now + RENEW_S, 0
        return answer

    def _leave(self, granted: str) -> None:
        """Take back all other tickets. What cannot be told now hears it when the connection ends."""
        for worker in self._wait.tickets:
            if worker != granted and self._due[worker] and not self._failures[worker]:
                with suppress(WorkerError):
                    self._workers.backend(worker).drop(self._wait.uid)
