"""Those of a triggerer who stand in one worker's line: their tickets, on the connection that the worker's watch has.

They are added and discarded from any thread; all else belongs to the thread of the watch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.leases import RENEW_S, SeekAnswer, Ticket
from airflow_jobdeploy.core.quotas import Leases
from airflow_jobdeploy.errors import WorkerChanged, WorkerError, WorkerUnreachable


class Seeker:
    """One job's place in this worker's line. `ticket`: as old as the wait is when it is called; `deliver`: told what
    the worker answers, or why it cannot be asked."""

    def __init__(
        self, uid: str, *, ticket: Callable[[], Ticket], deliver: Callable[[SeekAnswer | WorkerError], None]
    ) -> None:
        self.uid = uid
        self.ticket = ticket
        self.deliver = deliver
        #: When the ticket is to be renewed, by a monotonic clock.
        self.due = 0.0
        #: What it was granted is not for it: given back before the ticket is put anew.
        self.refuses = False


class Seekers:
    """All of one worker."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: dict[int, Seeker] = {}
        self._left: list[str] = []
        self._looks: list[Callable[[Leases | WorkerError], None]] = []
        #: All that was held here at the last look, and when that was.
        self._seen: tuple[float, Leases] | None = None

    def __bool__(self) -> bool:
        """Is there anything to do?"""
        return bool(self._waiting or self._left or self._looks)

    def add(self, seeker: Seeker) -> None:
        with self._lock:
            self._waiting[id(seeker)] = seeker

    def discard(self, seeker: Seeker) -> None:
        """Its ticket is taken back, and a lease that nobody was told of."""
        with self._lock:
            if self._waiting.pop(id(seeker), None) is not None:
                self._left.append(seeker.uid)

    def settle(self, seeker: Seeker) -> None:
        """It has taken what it was granted here: nothing is to be taken back."""
        with self._lock:
            self._waiting.pop(id(seeker), None)

    def renew(self, seeker: Seeker, *, refuses: bool = False) -> None:
        """Put its ticket anew, as it is by now. `refuses`: and give back what it was granted here."""
        seeker.refuses = seeker.refuses or refuses
        seeker.due = 0.0

    def look(self, deliver: Callable[[Leases | WorkerError], None], max_age_s: float) -> bool:
        """Tell all that is held here, as it was `max_age_s` ago or later; 0: after this call. Must the watch look?"""
        seen = self._seen
        if seen is not None and self._clock() - seen[0] < max_age_s:
            deliver(seen[1])
            return False
        with self._lock:
            self._looks.append(deliver)
        return True

    # -- of the watch -------------------------------------------------------------------------------------------------

    def serve(self, backend: Backend) -> None:
        """Take back the tickets of those who have left, put and renew those of the others."""
        while self._left:
            uid = self._left[0]
            if all(seeker.uid != uid for seeker in self._all()):  # the same wait goes on, with another trigger
                backend.drop(uid)
            with self._lock:
                self._left.pop(0)
        for seeker in self._all():
            if seeker.refuses:
                seeker.refuses = False
                backend.drop(seeker.uid)
            if seeker.due <= self._clock():
                seeker.due = self._clock() + RENEW_S
                seeker.deliver(_answer(backend, seeker))
        self._look_now(backend)

    def _look_now(self, backend: Backend) -> None:
        with self._lock:
            looks, self._looks = self._looks, []
        if not looks:
            return
        begun = self._clock()
        found: Leases | WorkerError
        try:
            found = backend.room(gpus=False).leases
            self._seen = begun, found
        except WorkerError as error:
            found = error
        for deliver in looks:
            deliver(found)
        if isinstance(found, (WorkerUnreachable, WorkerChanged)):
            raise found

    def tell(self, answers: Mapping[str, SeekAnswer]) -> None:
        """What the worker has told meanwhile."""
        for seeker in self._all():
            if seeker.uid in answers:
                seeker.deliver(answers[seeker.uid])

    def cut_off(self, error: WorkerError) -> None:
        """The connection is gone, and all tickets with it: they are put anew as soon as there is another."""
        with self._lock:
            self._left.clear()
            looks, self._looks, self._seen = self._looks, [], None
        for deliver in looks:
            deliver(error)
        for seeker in self._all():
            seeker.due = 0.0
            seeker.deliver(error)

    def _all(self) -> list[Seeker]:
        with self._lock:
            return list(self._waiting.values())


def _answer(backend: Backend, seeker: Seeker) -> SeekAnswer | WorkerError:
    """What the worker says to a ticket; a no to this one is told to who waits, and breaks nothing for the others."""
    try:
        return backend.seek(seeker.ticket())
    except (WorkerUnreachable, WorkerChanged):
        raise
    except WorkerError as error:
        return error
