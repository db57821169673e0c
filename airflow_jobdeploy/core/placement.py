"""Where a job goes, with an answer for every worker: why, why not, what is to be sent, what it waits for. Pure.

A worker that has what the job asks for now comes first, then those where it would have to wait. Among either kind:

1. workers on which the job has just failed come last;
2. of the job's alternatives of GPUs an earlier one is better;
3. code and data that are there need not be sent, where they are large (a tenth of a gigabyte is sent while one looks);
4. jobs without GPUs stay away from GPUs, small GPUs go before large ones;
5. the fuller worker goes first: small jobs are packed, whole machines stay whole for those that need them;
6. of those where it has to wait, the one with the least waiting before it.

The worker decides (hostside.queueing): this says on which to ask, in which order, and on which to reserve.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.capacity import UNBOUNDED, Allowance
from airflow_jobdeploy.core.demand import NOTHING, Demand
from airflow_jobdeploy.core.labels import WORKER, mismatch
from airflow_jobdeploy.core.quotas import Left
from airflow_jobdeploy.core.standing import (
    ASIDE,
    NEVER,
    NOW,
    PASSING,
    WAITS,
    Look,
    Needs,
    Standing,
    WorkerView,
    holders,
    line_key,
)
from airflow_jobdeploy.core.words import counted
from airflow_jobdeploy.hostside import fitting

#: Less than this is sent before anybody notices, in bytes; each step of the preference is sixteen times more.
_SOON = 128 << 20
_ORDER = (NOW, WAITS, ASIDE, PASSING, NEVER)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A job that looks for a worker."""

    uid: str = ""
    demand: Demand = NOTHING
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: Workers on which it has just failed.
    avoid: frozenset[str] = frozenset()
    #: The trees that it needs -> their bytes.
    trees: Mapping[str, int] = field(default_factory=dict)
    priority: str = "normal"
    waited_s: float = 0.0
    deployment: str = ""
    #: What its owner may have.
    allowance: Allowance = UNBOUNDED


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One worker's part of a placement."""

    worker: str
    #: NOW, WAITS, ASIDE, PASSING or NEVER.
    fit: str
    why: str
    #: What it waits for: who holds what it needs, how many are before it.
    waits_for: str = ""
    #: Of code and data.
    send_bytes: int = 0
    #: What it would get now, by UUID.
    gpus: tuple[str, ...] = ()
    #: The most GPUs that its owner, and its team, may hold on this worker (for the ticket); None: no bound.
    max_gpus: int | None = None
    team_max_gpus: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**{key: getattr(self, key) for key in self.__dataclass_fields__}, "gpus": list(self.gpus)}

    @property
    def bounds(self) -> dict[str, int | None]:
        """Fields of its ticket."""
        return {"max_gpus": self.max_gpus, "team_max_gpus": self.team_max_gpus}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """All workers of a pool, best first."""

    choices: tuple[Choice, ...]

    @property
    def candidates(self) -> tuple[Choice, ...]:
        """Those to put a ticket on, best first; those that are set aside only where there are no others."""
        found = tuple(choice for choice in self.choices if choice.fit in (NOW, WAITS))
        return found or tuple(choice for choice in self.choices if choice.fit == ASIDE)

    @property
    def preferred(self) -> str:
        """The worker on which the job reserves; "" when there is none."""
        return next((choice.worker for choice in self.candidates), "")

    @property
    def is_impossible(self) -> bool:
        """Can no worker ever take it, whatever ends and whoever comes back?"""
        return all(choice.fit == NEVER for choice in self.choices)

    def to_dict(self) -> dict[str, Any]:
        return {"preferred": self.preferred, "workers": [choice.to_dict() for choice in self.choices]}


def rank(wanted: Wanted, workers: Sequence[WorkerView]) -> Placement:
    """All workers, best first; equal ones in the pool's order."""
    bounded, left = _bounded(wanted, workers)
    demand = wire(bounded.demand)
    found: list[tuple[tuple[Any, ...], Choice]] = []
    for order, view in enumerate(workers):
        look, choice = _looked(bounded, demand, view, left)
        found.append(((_ORDER.index(look.fit), *merit(bounded, view, look), order), choice))
    found.sort(key=lambda each: each[0])
    return Placement(choices=tuple(choice for _, choice in found))


def wire(demand: Demand) -> fitting.Demand:
    """A demand as hosts read it."""
    return fitting.read_demand(demand.to_wire()) or fitting.Demand()


def _looked(wanted: Wanted, demand: fitting.Demand, view: WorkerView, left: Left) -> tuple[Look, Choice]:
    sent = to_send(wanted, view)
    choice = Choice(worker=view.name, fit=NEVER, why="", send_bytes=sent, **left.bounds(view.name))
    refused = refusal(wanted, view)
    if refused is not None:
        return _cannot(choice, *refused)
    if view.room is None:
        return _cannot(choice, PASSING, f"cannot be asked: {view.trouble}" if view.trouble else "was not asked")
    standing = Standing(view, view.room)
    needs = standing.needs(demand)
    if needs is None:
        return _cannot(choice, *standing.impossible(demand))
    counts = [wish.count for wish in wanted.demand.gpus]
    if never := left.never(counts):
        return _cannot(choice, NEVER, never)
    return _can(wanted, choice, standing, needs, left.why_not(min(counts, default=0)))


def _cannot(choice: Choice, fit: str, why: str) -> tuple[Look, Choice]:
    return Look(fit), replace(choice, fit=fit, why=why)


def _can(wanted: Wanted, choice: Choice, standing: Standing, needs: Needs, held_back: str) -> tuple[Look, Choice]:
    key = line_key(wanted.priority, wanted.waited_s, wanted.uid)
    look = standing.look(needs)
    why = standing.offer(needs.demand) if look.fit == NOW else standing.lack(needs.demand)
    behind = "others are in line before it" if standing.is_behind(key, needs.demand) else ""
    if look.fit == NOW and (held_back or behind):
        look, why = Look(WAITS, rest=standing.backlog), held_back or behind
    if choice.worker in wanted.avoid:
        why += "; it has just failed there"
    if standing.view.set_aside:
        return look._replace(fit=ASIDE), replace(choice, fit=ASIDE, why=f"set aside: {standing.view.set_aside}; {why}")
    if look.fit == WAITS:
        waits_for = _waits_for(wanted, standing, standing.ahead(key))
        return look, replace(choice, fit=WAITS, why=why, waits_for=waits_for)
    gpus = tuple(gpu.uuid for gpu in fitting.choose(needs.demand.wishes, standing.free) or ())
    return look, replace(choice, fit=NOW, why=why, gpus=gpus)


def _waits_for(wanted: Wanted, standing: Standing, ahead: int) -> str:
    told = [f"{counted(ahead, 'job')} before it" if ahead else ""]
    if wanted.demand.gpus and standing.view.room is not None:
        told.append(holders(standing.view.room))
    return "; ".join(filter(None, told))


def refusal(wanted: Wanted, view: WorkerView) -> tuple[str, str] | None:
    """Why a worker is out of the question, whatever it has: PASSING or NEVER, and the reason; None when it is not."""
    misfit = mismatch(wanted.where, {**view.labels, WORKER: view.name})
    if misfit:
        return NEVER, misfit
    if view.cordoned:
        return PASSING, f"takes no new jobs: {view.cordoned}"
    return None


def merit(wanted: Wanted, view: WorkerView, look: Look) -> tuple[float, ...]:
    """How good a worker is among those of the same fit; less is better."""
    return (0.0,) if look.fit in (PASSING, NEVER) else weighed(lasting(wanted, view), look)


def lasting(wanted: Wanted, view: WorkerView) -> tuple[int, int, int, int]:
    """What of a worker's merit does not change with what is free: has it failed, how far the data, has it GPUs."""
    sent = to_send(wanted, view)
    far = 0 if sent < _SOON else 1 + int(math.log2(sent / _SOON) / 4)
    return (view.name in wanted.avoid, far, has_gpus(view), sent)


def weighed(fixed: tuple[int, int, int, int], look: Look) -> tuple[float, ...]:
    """The merit of a worker: what lasts, and what it has now."""
    failed, far, gpus, sent = fixed
    # Of those that a job with GPUs may go to all have some: that says nothing, and does no harm.
    return (failed, look.alternative, far, look.waste + gpus, look.rest, sent)


def has_gpus(view: WorkerView) -> bool:
    return view.room is not None and bool(view.room.capacity.get("gpus"))


def to_send(wanted: Wanted, view: WorkerView) -> int:
    """Bytes of code and data that a worker lacks."""
    return sum(count for name, count in wanted.trees.items() if name not in view.holds)


# -- quotas ------------------------------------------------------------------------------------------------------------


def _bounded(wanted: Wanted, workers: Sequence[WorkerView]) -> tuple[Wanted, Left]:
    """The job with those of its alternatives that its quotas allow now, else that they ever do; what they leave."""
    counts, gpus = wanted.allowance.counts(wanted.deployment), wanted.demand.gpus
    if not counts or not gpus:
        return wanted, Left()
    left = Left(counts=counts, leases={view.name: view.room.leases if view.room else () for view in workers})
    ever = tuple(wish for wish in gpus if not left.never([wish.count])) or gpus
    now = tuple(wish for wish in ever if left.allows(wish.count))
    return replace(wanted, demand=replace(wanted.demand, gpus=now or ever)), left
