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
    board = _Board(workers)
    found = {}
    for job in sorted(jobs, key=lambda job: line_key(job.priority, job.waited_s, job.uid)):
        found[job.uid] = board.place(job)
    return found


class _Board:
    """The workers while jobs are given out to them."""

    def __init__(self, workers: Sequence[WorkerView]) -> None:
        self.standings = [Standing(view, view.room) for view in workers if view.room is not None]
        #: How often something was given of each: what a heap says of it is stale when it was said before that.
        self.changes = [0] * len(self.standings)
        hardware: dict[Any, int] = {}
        #: Workers with the same hardware have the same number.
        self.hardware = [hardware.setdefault(standing.hardware, len(hardware)) for standing in self.standings]
        self._kinds: dict[Any, _Kind] = {}

    def place(self, job: Wanted) -> Assignment:
        key = (job.demand, job.avoid, tuple(job.where.items()), tuple(job.trees.items()))
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind(job, self)
        at = kind.best()
        if at is None:
            return Assignment(uid=job.uid)
        standing = self.standings[at]
        starts = standing.look(kind.needs[self.hardware[at]]).fit == NOW
        gpus = standing.take(kind.demand) if starts else ()
        if not starts:
            standing.line_up(kind.demand)
        self.changes[at] += 1
        kind.put(at)
        taken = tuple(gpu.uuid for gpu in gpus)
        return Assignment(uid=job.uid, worker=standing.view.name, starts=starts, gpus=taken)


class _Kind:
    """Jobs that ask for the same, and how the workers suit them."""

    def __init__(self, job: Wanted, board: _Board) -> None:
        self.demand = wire(job.demand)
        self.needs: dict[int, Needs] = {}
        self._board = board
        self._lasting = [lasting(job, standing.view) for standing in board.standings]
        # Of what others were given since, a worker may suit better than it stands here; it is looked at anew when it
        # comes to the top. It is never promised what is no longer there.
        self._heap: list[tuple[tuple[float, ...], int, int]] = []
        unfit = set()
        for at, standing in enumerate(board.standings):
            number = board.hardware[at]
            if number not in self.needs and number not in unfit:
                needs = standing.needs(self.demand)
                if needs is None:
                    unfit.add(number)
                else:
                    self.needs[number] = needs
            if number in self.needs and refusal(job, standing.view) is None:
                self._heap.append((self._merit(at), at, board.changes[at]))
        heapq.heapify(self._heap)

    def put(self, at: int) -> None:
        """Back into the heap, as it is now."""
        heapq.heappush(self._heap, (self._merit(at), at, self._board.changes[at]))

    def best(self) -> int | None:
        """The best worker, taken out of the heap."""
        while self._heap:
            _, at, changes = heapq.heappop(self._heap)
            if changes == self._board.changes[at]:
                return at
            self.put(at)
        return None

    def _merit(self, at: int) -> tuple[float, ...]:
        standing = self._board.standings[at]
        look = standing.look(self.needs[self._board.hardware[at]])
        return (look.fit != NOW, *weighed(self._lasting[at], look))
