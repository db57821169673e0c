"""The triggerer's side of watching: one thread a worker, shared by all triggers of an event loop.

The thread owns the connection; triggers hand in `Follower`s and get their news by `deliver`. It lives as long
as somebody follows a job, and a little longer. Its `connect` reads the Airflow connection anew each time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import ClassVar

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.quotas import Leases
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.service.follower import Follower
from airflow_jobdeploy.service.seekers import Seeker
from airflow_jobdeploy.service.silence import GivenUp, nobody
from airflow_jobdeploy.service.watching import Chore, Watch

log = logging.getLogger(__name__)

#: How long a pass waits for news, in seconds. News, new followers and orders end the wait at once.
PASS_S = 5.0

#: A watcher without jobs keeps its connection for this many seconds.
LINGER_S = 15.0

#: Log that all watchers of a process take together, in bytes a second; the rest waits on the hosts.
LOG_RATE = 5 * 1024 * 1024


class Allowance:
    """A rate that many threads share: what is not taken within a second is not saved up."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._left = float(rate)
        self._filled: float | None = None
        self._lock = threading.Lock()

    def allowed(self, now: float) -> int:
        """How many bytes may be taken now. `now`: a monotonic clock, in seconds."""
        with self._lock:
            if self._filled is not None:
                self._left = min(float(self._rate), self._left + (now - self._filled) * self._rate)
            self._filled = now
            return max(0, int(self._left))

    def take(self, count: int) -> None:
        """`count` bytes were taken."""
        with self._lock:
            self._left -= count


class Watcher:
    """A daemon thread that owns one `Watch`; one for each (event loop, worker), shared by all triggers."""

    _all: ClassVar[dict[Hashable, Watcher]] = {}
    _all_lock: ClassVar[threading.Lock] = threading.Lock()

    #: Of the whole process.
    allowance: ClassVar[Allowance] = Allowance(LOG_RATE)

    def __init__(
        self,
        key: Hashable,
        connect: Callable[[], Backend],
        chores: Sequence[Chore] = (),
        given_up: GivenUp = nobody,
    ) -> None:
        self._key = key
        self._connect = connect
        self._chores = chores
        self._given_up = given_up
        self._watch = Watch(connect, budget=self.allowance, chores=chores, given_up=given_up)
        self._idle_since: float | None = None
        self._thread = threading.Thread(target=self._run, name=f"jobdeploy-watcher-{key}", daemon=True)

    @classmethod
    def get(
        cls,
        key: Hashable,
        connect: Callable[[], Backend],
        chores: Sequence[Chore] = (),
        given_up: GivenUp = nobody,
    ) -> Watcher:
        """The watcher of `key`, started when there is none."""
        with cls._all_lock:
            watcher = cls._all.get(key)
            if watcher is None:
                watcher = cls._all[key] = cls(key, connect, chores, given_up)
                watcher._thread.start()
            return watcher

    def follow(self, follower: Follower) -> Subscription:
        """Follow a job; `follower`'s `deliver` is called in the watcher's thread."""
        watch = self._handed(lambda watch: watch.add(follower))
        return Subscription(watch, follower)

    def seek(self, seeker: Seeker) -> Place:
        """Stand in the worker's line; `seeker`'s `deliver` is called in the watcher's thread."""
        watch = self._handed(lambda watch: watch.seek(seeker))
        return Place(watch, seeker)

    def look(self, deliver: Callable[[Leases | WorkerError], None], max_age_s: float = 0.0) -> None:
        """Tell all that is held on the worker, as it was `max_age_s` ago or later; `deliver` may be called at once."""
        self._handed(lambda watch: watch.look(deliver, max_age_s))

    def stop_job(self, job_id: str, *, reason: str, by: str) -> None:
        """Hand a stop to the thread; returns at once."""
        self._handed(lambda watch: watch.stop_job(job_id, reason=reason, by=by))

    def _handed(self, action: Callable[[Watch], None]) -> Watch:
        """Hand something to the thread; the watch that has it."""
        with self._all_lock:
            # a thread that was about to end for want of jobs sees this one, or another has taken its place
            if self._all.get(self._key) is self:
                action(self._watch)
                return self._watch
        return Watcher.get(self._key, self._connect, self._chores, self._given_up)._handed(action)

    def _run(self) -> None:
        while not self._retired():
            try:
                self._watch.run_pass(PASS_S)
            except Exception:
                # The thread serves every job of the worker: one bad answer must not end it for all.
                log.exception("The watcher of %s met an error; it goes on", self._key)
                self._watch.disconnect()
                time.sleep(1.0)  # bounds the log of an error that comes back at once
        self._watch.close()

    def _retired(self) -> bool:
        """Nothing to do for LINGER_S: leave the registry, under its lock, so that nobody is added meanwhile."""
        if self._watch.is_busy():
            self._idle_since = None
            return False
        now = time.monotonic()
        self._idle_since = self._idle_since or now
        if now - self._idle_since < LINGER_S:
            return False
        with self._all_lock:
            if self._watch.is_busy():
                return False
            self._all.pop(self._key, None)
            return True


class Subscription:
    """One followed job; `close` ends the following, not the job."""

    def __init__(self, watch: Watch, follower: Follower) -> None:
        self._watch = watch
        self.follower = follower

    def close(self) -> None:
        self._watch.discard(self.follower)


class Place:
    """One place in a worker's line; `close` leaves it."""

    def __init__(self, watch: Watch, seeker: Seeker) -> None:
        self._watch = watch
        self.seeker = seeker

    def renew(self, *, refuses: bool = False) -> None:
        """Put the ticket anew. `refuses`: and give back what was granted here."""
        self._watch.renew(self.seeker, refuses=refuses)

    def close(self, *, taken: bool = False) -> None:
        """`taken`: what was granted here is going to be used; else it is given back."""
        self._watch.leave(self.seeker, taken=taken)
