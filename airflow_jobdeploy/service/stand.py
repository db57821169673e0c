"""A process that waits itself, a task or the command line, in the lines of all workers that could take its job."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from airflow_jobdeploy.core.leases import RENEW_S, SeekAnswer
from airflow_jobdeploy.core.quotas import Judgement, Leases
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.line import Granted, Places, Wait, timed_out
from airflow_jobdeploy.service.tally import COUNT_S, SETTLE_S
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.workers import Workers

#: How often the workers are asked for news, in seconds.
POLL_S = 0.3
#: How long the first worker that could grant something now is given before others are asked, too, in seconds.
SOON_S = 2.0


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
        #: Until when a worker may take to grant what is there.
        self._soon: dict[str, float] = {}
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
        for worker in self._wait.tickets:
            answer = self._asked(worker)
            if self._is_soon(worker, answer):
                return None  # the others are not asked meanwhile: two would grant
            if answer is None:
                continue
            self._places.heard(worker, answer)
            if answer.lease is not None and self._is_kept(worker):
                return self._wait.granted(worker, answer.lease, self._tally.bounds(worker))
        if self._wait.counts and time.monotonic() >= self._count_due:
            self._count()
        return None

    def _is_soon(self, worker: str, answer: SeekAnswer | None) -> bool:
        """Is it this worker's to grant in a moment? It is believed once, and for two seconds."""
        if answer is None:
            return time.monotonic() < self._soon.get(worker, 0.0)
        if not answer.soon:
            self._soon[worker] = 0.0
            return False
        return time.monotonic() < self._soon.setdefault(worker, time.monotonic() + SOON_S)

    def best(self) -> str:
        """The worker where the job comes to its turn first, by its place in line; of equal ones the preferred."""
        return self._places.best() or next(iter(self._wait.tickets))

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
            if self._failures.get(worker):  # it is asked for its ticket again, by and by
                continue
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
