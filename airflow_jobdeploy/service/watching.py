"""Following jobs: one connection a worker, any number of jobs, for a task and for a triggerer alike.

`Watch` drives `Follower`s over one backend, a pass at a time, in whichever thread calls it: a task
calls it in its own; `watcher.Watcher` is a thread that does so for the triggerer's event loop. A pass asks
for changes, reads logs in fair turns, and delivers `Update`s. A worker that cannot be asked is asked
again with a growing, jittered delay; its jobs are UNKNOWN after a while, and back to the truth when it
answers. What it does not do: decide what follows from an end (service, operators), or keep anything
across processes (the caller keeps `Update.offset`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.waker import Waker
from airflow_jobdeploy.core.quotas import Leases
from airflow_jobdeploy.core.status import Reason
from airflow_jobdeploy.errors import WorkerChanged, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.follower import Follower
from airflow_jobdeploy.service.seekers import Seeker, Seekers
from airflow_jobdeploy.service.silence import GivenUp, lost, nobody, unasked

log = logging.getLogger(__name__)

#: A worker that has not answered for this many seconds makes its jobs UNKNOWN.
UNKNOWN_AFTER_S = 60.0

#: How often a worker is told that its jobs are being waited for, in seconds. Also shows that the wire is alive.
RENEW_EVERY_S = 5.0

#: One turn of one job's log, in bytes: on a slow wire turns become small, so that no news waits long for log.
LOG_TURN_MIN, LOG_TURN_MAX = 4 * 1024, 256 * 1024

#: A turn should not take longer than this many seconds.
TURN_S = 0.5

#: How often chores are done, beside once after each connect, in seconds.
CHORES_EVERY_S = 60.0

#: Something to be done on a worker now and then: given the backend and the ids of the jobs that are followed here.
Chore = Callable[[Backend, frozenset[str]], object]


class Budget(Protocol):
    """A share of something that many take from."""

    def allowed(self, now: float) -> int:
        """How many bytes may be taken now."""

    def take(self, count: int) -> None:
        """`count` bytes were taken."""


class Watch:
    """Drives followers over one backend. `run_pass` belongs to one thread; the rest may be called from any."""

    def __init__(
        self,
        connect: Callable[[], Backend],
        *,
        clock: Callable[[], float] = time.monotonic,
        budget: Budget | None = None,
        chores: Sequence[Chore] = (),
        unknown_after_s: float = UNKNOWN_AFTER_S,
        given_up: GivenUp = nobody,
    ) -> None:
        self._connect = connect
        self._clock = clock
        #: A worker that has not answered for so long makes its jobs UNKNOWN.
        self._unknown_after_s = unknown_after_s
        #: Looked at only while the worker is silent.
        self._given_up = given_up
        #: Bounds the log that is read, where one process reads the logs of many.
        self._budget = budget
        self._chores = tuple(chores)
        self._chores_due = 0.0
        self._renew_due = 0.0
        self._turn = LOG_TURN_MAX
        self._lock = threading.Lock()
        self._followers: dict[int, Follower] = {}
        self._seekers = Seekers(clock)
        self._orders: list[tuple[str, str, str]] = []
        self._backend: Backend | None = None
        self._waker = Waker()
        self._failures = 0
        #: When it answered last; None: never.
        self._heard: float | None = None

    def add(self, follower: Follower) -> None:
        with self._lock:
            self._followers[id(follower)] = follower
        self.wake()

    def discard(self, follower: Follower) -> None:
        with self._lock:
            self._followers.pop(id(follower), None)

    def seek(self, seeker: Seeker) -> None:
        """Stand in the worker's line for a job."""
        self._seekers.add(seeker)
        self.wake()

    def leave(self, seeker: Seeker, *, taken: bool = False) -> None:
        """Leave the line. `taken`: what was granted here is going to be used; else it is given back."""
        (self._seekers.settle if taken else self._seekers.discard)(seeker)
        self.wake()

    def renew(self, seeker: Seeker, *, refuses: bool = False) -> None:
        """Put a ticket anew. `refuses`: and give back what it was granted."""
        self._seekers.renew(seeker, refuses=refuses)
        self.wake()

    def look(self, deliver: Callable[[Leases | WorkerError], None], max_age_s: float = 0.0) -> None:
        """Tell all that is held on the worker, as it was `max_age_s` ago or later."""
        if self._seekers.look(deliver, max_age_s):
            self.wake()

    def stop_job(self, job_id: str, *, reason: str, by: str) -> None:
        """Order the end of a job; carried out in the next pass, again until the worker has heard it."""
        with self._lock:
            self._orders.append((job_id, reason, by))
        self.wake()

    def wake(self) -> None:
        """Let a pass that waits return at once. Safe in a signal handler of the thread that waits."""
        self._waker.wake()
        backend = self._backend
        if backend is not None:
            backend.wake()

    def pause(self, timeout_s: float) -> None:
        """Wait, at most `timeout_s`, for `wake`."""
        self._waker.wait(timeout_s)

    def is_busy(self) -> bool:
        """Is there anybody to follow, or in line, or an order to carry out?"""
        return bool(self._followers or self._seekers or self._orders)

    def run_pass(self, timeout_s: float) -> None:
        """Ask once for news, wait for them at most `timeout_s`, deliver them."""
        try:
            self._answered(self._backend or self._open())
            self._pass(timeout_s)
            self._heard = self._clock()
        except WorkerUnreachable as error:
            self._failed(error)
        except WorkerChanged as error:
            self._failed(error, Reason.WORKER_CHANGED)
        except WorkerError as error:
            log.warning("Worker answered with an error; asking again: %s", error)
            self._failed(error)

    def close(self) -> None:
        """The end of this watch: let go of the worker. No job is stopped."""
        self.disconnect()
        self._waker.close()

    def release(self) -> Backend | None:
        """Give the connection out of hand, open, for another use; None when there is none."""
        backend, self._backend = self._backend, None
        return backend

    def disconnect(self) -> None:
        """Drop the connection; the next pass connects anew."""
        backend, self._backend = self._backend, None
        if backend is not None:
            backend.close()

    def _open(self) -> Backend:
        self._backend = self._connect()
        self._backend.facts(quick=True)
        self._heard = self._clock()
        self._chores_due = 0.0
        return self._backend

    def _answered(self, backend: Backend) -> None:
        """Whose machine is it? Jobs of another one are told so; when there are no others, it is asked for anew."""
        facts = backend.facts(quick=True)
        strangers = [f for f in self._all() if not f.over and not f.is_of(facts.machine)]
        given_up = self._given_up() if strangers else {}
        for stranger in strangers:
            error = WorkerChanged(
                f"another machine answers as worker {facts.worker}: {facts.machine}, expected {stranger.machine}"
            )
            if len(strangers) == len(self._all()):
                raise error
            if stranger.job_id in given_up:
                stranger.give_up(lost(stranger, given_up_by=given_up[stranger.job_id]))
            else:
                stranger.tell(unasked(stranger, error, Reason.WORKER_CHANGED))
        self._failures = 0

    def _all(self) -> list[Follower]:
        with self._lock:
            return list(self._followers.values())

    def _pass(self, timeout_s: float) -> None:
        backend = self._backend
        assert backend is not None
        self._carry_out_orders(backend)
        machine = backend.facts(quick=True).machine
        followers = [follower for follower in self._all() if follower.is_of(machine)]
        self._seekers.serve(backend)
        if not followers:
            if self._seekers:
                self._seekers.tell(backend.granted(timeout_s))
            else:
                self._waker.wait(timeout_s)
            return
        self._renew(backend, followers)
        states = backend.watch([f.job_id for f in followers], self._patience_s(followers, timeout_s))
        if self._seekers:
            self._seekers.tell(backend.granted())
        for follower in followers:
            if follower.job_id in states:
                follower.tell(states[follower.job_id])
            elif follower.state is None or follower.state.reason == Reason.UNREACHABLE:
                # A lent connection may have told this state to somebody before us.
                follower.tell(backend.poll([follower.job_id])[follower.job_id])
        self._read_logs(backend, followers)
        for follower in followers:
            follower.settle()
        self._do_chores(backend, followers)

    def _renew(self, backend: Backend, followers: Sequence[Follower]) -> None:
        if self._clock() < self._renew_due:
            return
        self._renew_due = self._clock() + RENEW_EVERY_S
        backend.renew([follower.job_id for follower in followers])

    def _patience_s(self, followers: Sequence[Follower], timeout_s: float) -> float:
        """No waiting for news while log is there to be read, and may be."""
        if not any(follower.backlog for follower in followers):
            return timeout_s
        if self._budget is None or self._budget.allowed(self._clock()) >= LOG_TURN_MIN:
            return 0.0
        return min(timeout_s, 0.05)

    def _read_logs(self, backend: Backend, followers: Sequence[Follower]) -> None:
        """One turn for each job that has log left; the first of this pass will be the last of the next."""
        waiting = [follower for follower in followers if follower.backlog]
        for follower in waiting:
            begun = self._clock()
            limit = self._turn if self._budget is None else min(self._turn, self._budget.allowed(begun))
            if limit < min(LOG_TURN_MIN, follower.backlog):
                break
            count = follower.read(backend, limit, begun)
            if self._budget is not None:
                self._budget.take(count)
            self._pace(count, self._clock() - begun)
            with self._lock:  # to the end of the line
                if self._followers.pop(id(follower), None) is not None:
                    self._followers[id(follower)] = follower

    def _pace(self, count: int, seconds: float) -> None:
        if seconds > TURN_S:
            self._turn = max(LOG_TURN_MIN, self._turn // 2)
        elif count == self._turn and seconds < TURN_S / 4:
            self._turn = min(LOG_TURN_MAX, self._turn * 2)

    def _do_chores(self, backend: Backend, followers: Sequence[Follower]) -> None:
        if not self._chores or self._clock() < self._chores_due:
            return
        self._chores_due = self._clock() + CHORES_EVERY_S
        followed = frozenset(follower.job_id for follower in followers)
        for chore in self._chores:
            chore(backend, followed)

    def _carry_out_orders(self, backend: Backend) -> None:
        while self._orders:
            job_id, reason, by = self._orders[0]
            try:
                backend.stop(job_id, reason=reason, by=by)
            except WorkerUnreachable:
                raise
            except WorkerError as error:
                log.warning("Stop of job %s refused: %s", job_id, error)
            with self._lock:
                self._orders.pop(0)

    def _failed(self, error: WorkerError, reason: Reason = Reason.UNREACHABLE) -> None:
        self.disconnect()
        now = self._clock()
        if self._heard is None:  # nobody knows for how long it has been silent
            self._heard = now
        silent_s, has_news = now - self._heard, False
        is_unknown = silent_s >= self._unknown_after_s or reason is Reason.WORKER_CHANGED
        given_up = self._given_up() if is_unknown else {}
        for follower in self._all():
            is_lost = follower.lost_after_s is not None and silent_s >= follower.lost_after_s
            if (is_lost or follower.job_id in given_up) and not follower.over:
                follower.give_up(lost(follower, silent_s=silent_s, given_up_by=given_up.get(follower.job_id, "")))
                has_news = True
            elif follower.has_ended:
                continue  # an end that is known stays known while its log is being read
            elif is_unknown:
                follower.tell(unasked(follower, error, reason))
        self._seekers.cut_off(error)
        self._failures += 1
        if not has_news:  # the last of somebody's: who drives us has to look at it first
            self._waker.wait(self._pause_s(silent_s))

    def _pause_s(self, silent_s: float) -> float:
        """Until the next attempt, and no longer than until a job counts as lost."""
        bounds = [follower.lost_after_s for follower in self._all() if follower.lost_after_s is not None]
        left_s = [bound - silent_s for bound in bounds if bound > silent_s]
        return min([backoff_s(self._failures, random.random()), *left_s])


def backoff_s(failures: int, chance: float) -> float:
    """Seconds before the next connect: doubling from 0.5 to 30, and between half and all of it by chance (0..1)."""
    return min(30.0, 0.5 * 2 ** min(failures - 1, 10)) * (0.5 + chance / 2)
