"""Many jobs that wait at once, each with the worker that suits it best: what `placement.rank` prefers, without words.

Jobs are taken in the order of their line. One that can start now takes what it needs out of what is free; one that has
to wait makes the line of its worker longer, so that those after it are spread. Jobs that ask for the same are one kind;
each kind keeps the workers in a heap.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.placement import Wanted, lasting, refusal, weighed, wire
from airflow_jobdeploy.core.standing import NOW, Needs, Standing, WorkerView, line_key


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """The worker of one job. `starts`: it has what is needed now; `worker` "": none can take it."""

    uid: str
    worker: str = ""
    starts: bool = False
    #: What it would get, by UUID.
    gpus: tuple[str, ...] = ()


def assign(jobs: Sequence[Wanted], workers: Sequence[WorkerView]) -> dict[str, Assignment]:
    """uid -> the worker of each job.

    Tickets in the rooms of `workers` count as others that wait: leave out those of these jobs. Quotas are not looked
    at: they are bound at the lease.
    """
    board = Board(workers)
    found = {}
    for job in sorted(jobs, key=lambda job: line_key(job.priority, job.waited_s, job.uid)):
        found[job.uid] = board.place(job)
    return found


class Board:
    """The workers of a pool, for many jobs: what one job takes is not there for the next."""

    def __init__(self, workers: Sequence[WorkerView]) -> None:
        self._places = {view.name: at for at, view in enumerate(workers)}
        self.standings = [_standing(view) for view in workers]
        #: How often each has changed: what a heap says of it is stale when it was said before that.
        self.changes = [0] * len(self.standings)
        self._numbers: dict[Any, int] = {}
        #: Workers with the same hardware have the same number.
        self.hardware = [self._number(standing) for standing in self.standings]
        self._kinds: dict[Any, _Kind] = {}

    def place(self, job: Wanted) -> Assignment:
        """The best worker for `job`, which takes its place there, in the line if need be."""
        kind = self._kind(job)
        at = kind.best()
        standing = self.standings[at] if at is not None else None
        if at is None or standing is None:
            return Assignment(uid=job.uid)
        needs = kind.needs(at)
        starts = needs is not None and standing.look(needs).fit == NOW
        gpus = standing.take(kind.demand) if starts else ()
        if not starts:
            standing.line_up(kind.demand)
        self.changes[at] += 1
        kind.put(at)
        taken = tuple(gpu.uuid for gpu in gpus)
        return Assignment(uid=job.uid, worker=standing.view.name, starts=starts, gpus=taken)

    def best(self, job: Wanted, count: int) -> list[str]:
        """The `count` best workers for a job, that changes nothing."""
        kind = self._kind(job)
        found: list[int] = []
        while len(found) < count and (at := kind.best()) is not None:
            found += [at] if at not in found else []
        for at in found:
            kind.put(at)
        return [name for at in found if (name := self._name(at))]

    def update(self, view: WorkerView) -> None:
        """A worker as it is now. KeyError: it is not one of the pool."""
        at = self._places[view.name]
        self.standings[at] = standing = _standing(view)
        self.changes[at] += 1
        self.hardware[at] = self._number(standing)
        for kind in self._kinds.values():
            kind.changed(at)

    def _name(self, at: int) -> str:
        standing = self.standings[at]
        return standing.view.name if standing else ""

    def _number(self, standing: Standing | None) -> int:
        return self._numbers.setdefault(standing.hardware if standing else None, len(self._numbers))

    def _kind(self, job: Wanted) -> _Kind:
        key = (job.demand, job.avoid, tuple(job.where.items()), tuple(job.trees.items()))
        if key not in self._kinds:
            self._kinds[key] = _Kind(job, self)
        return self._kinds[key]


def _standing(view: WorkerView) -> Standing | None:
    return Standing(view, view.room) if view.room is not None else None


class _Kind:
    """Jobs that ask for the same, and how the workers suit them."""

    def __init__(self, job: Wanted, board: Board) -> None:
        self.demand = wire(job.demand)
        #: By hardware; None: it is too small.
        self._needs: dict[int, Needs | None] = {}
        self._job = job
        self._board = board
        self._lasts_of: dict[Any, tuple[int, int, int, int]] = {}
        self._lasting = [self._lasts(at) for at in range(len(board.standings))]
        # A worker of which others were given something may suit better than it stands here; it is looked at anew when
        # it comes to the top. It is never promised what is no longer there.
        self._heap: list[tuple[tuple[float, ...], int, int]] = []
        #: What the newest entry of each worker was made of (`Board.changes`); older ones count for nothing.
        self._newest: dict[int, int] = {}
        self._refill()

    def put(self, at: int) -> None:
        """Into the heap, as it is now."""
        self._newest[at] = self._board.changes[at]
        entry = self._entry(at)
        if entry is not None:
            heapq.heappush(self._heap, entry)
        if len(self._heap) > 4 * len(self._lasting) + 64:
            self._refill()

    def changed(self, at: int) -> None:
        """Another worker than it was, which may be better than what the heap says of it."""
        self._lasting[at] = self._lasts(at)
        self.put(at)

    def best(self) -> int | None:
        """The best worker, taken out of the heap."""
        while self._heap:
            _, at, changes = heapq.heappop(self._heap)
            if changes == self._board.changes[at]:
                return at
            if changes == self._newest[at]:
                self.put(at)
        return None

    def _refill(self) -> None:
        entries = {at: self._entry(at) for at in range(len(self._lasting))}
        self._newest = {at: self._board.changes[at] for at in entries}
        self._heap = [entry for entry in entries.values() if entry is not None]
        heapq.heapify(self._heap)

    def needs(self, at: int) -> Needs | None:
        """What a job of this kind takes of a worker; None: it can never go there."""
        number, standing = self._board.hardware[at], self._board.standings[at]
        if number not in self._needs:
            self._needs[number] = standing.needs(self.demand) if standing else None
        return self._needs[number]

    def _lasts(self, at: int) -> tuple[int, int, int, int] | None:
        standing = self._board.standings[at]
        if standing is None or refusal(self._job, standing.view) is not None:
            return None
        if self._job.avoid:
            return lasting(self._job, standing.view)
        key = (standing.view.holds, self._board.hardware[at])
        if key not in self._lasts_of:
            self._lasts_of[key] = lasting(self._job, standing.view)
        return self._lasts_of[key]

    def _entry(self, at: int) -> tuple[tuple[float, ...], int, int] | None:
        standing, fixed, needs = self._board.standings[at], self._lasting[at], self.needs(at)
        if standing is None or fixed is None or needs is None:
            return None
        look = standing.look(needs)
        aside = bool(standing.view.set_aside)
        return (aside, look.fit != NOW, *weighed(fixed, look)), at, self._board.changes[at]
