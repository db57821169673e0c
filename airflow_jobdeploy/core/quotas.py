"""Quotas over several workers: whose GPUs count together, what that leaves on each, and which of two gives way. Pure.

A worker bounds what is held on itself under its own mutex (hostside.queueing); of the others it knows nothing. Whoever
waits for a job sees all of them: it says in each ticket what the others leave (`bounds`). Two that are granted on two
workers at the same moment may still come to too much, so whoever was granted something looks once more at all workers,
and asks `judge`. All that look come to the same order, so of two one gives way, never both for good: what jobs hold
counts first, then what was granted, in the order of the line. Nobody keeps a lease who has not seen, after it was
granted, that all together stay within the quota; of several the last one to be granted sees all the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from airflow_jobdeploy.core.leases import PRIORITIES, hashed
from airflow_jobdeploy.core.words import counted

#: Leases as `Room.leases` tells of them.
Leases = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Count:
    """What one quota counts: the GPUs of an owner's or a team's jobs, on all workers of a pool."""

    #: "owner" or "team".
    kind: str
    name: str
    #: GPUs held at once.
    most: int
    deployment: str = ""

    def __str__(self) -> str:
        return f"its {self.kind} {self.name or '(none)'}"

    @property
    def bound(self) -> str:
        """The field of a ticket that says what this leaves."""
        return "max_gpus" if self.kind == "owner" else "team_max_gpus"

    @cached_property
    def _hashes(self) -> tuple[str, str]:
        return hashed("deployment", self.deployment), hashed(self.kind, self.name)

    def of(self, leases: Leases) -> Leases:
        """Those that it counts. What another account says of itself is not believed."""
        return [
            each
            for each in leases
            if each.get("ours", True) and (each.get("deployment") or "", each.get(self.kind) or "") == self._hashes
        ]

    def held(self, leases: Leases) -> int:
        """GPUs of these."""
        return sum(_gpus(each) for each in self.of(leases))

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Count:
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


# -- what is left ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Left:
    """What the quotas of a job leave of a pool at one moment."""

    counts: tuple[Count, ...] = ()
    #: worker -> the leases there.
    leases: Mapping[str, Leases] = field(default_factory=dict)

    def held(self, count: Count) -> int:
        """GPUs on all workers."""
        return sum(map(count.held, self.leases.values()))

    def bounds(self, worker: str) -> dict[str, Any]:
        """For a ticket on `worker`: the most GPUs that may be held there, since others are held elsewhere."""
        there = self.leases.get(worker, ())
        return {each.bound: max(each.most - self.held(each) + each.held(there), 0) for each in self.counts}

    def allows(self, gpus: int) -> bool:
        """May so many more be held now?"""
        return all(self.held(each) + gpus <= each.most for each in self.counts)

    def why_not(self, gpus: int) -> str:
        """Why a job with so many GPUs has to wait for others, in words; "" when it has not."""
        over = next((each for each in self.counts if self.held(each) + gpus > each.most), None)
        return "" if over is None else f"{over} holds {self.held(over)} of the {counted(over.most, 'GPU')} that it may"

    def never(self, gpus: Iterable[int]) -> str:
        """Why none of several alternatives can ever be had, in words; "" when one can."""
        least = min(gpus, default=0)
        over = next((each for each in self.counts if least > each.most), None)
        return "" if over is None else f"{over} may hold {counted(over.most, 'GPU')} of this pool"


# -- after a grant -----------------------------------------------------------------------------------------------------


class Judgement(Enum):
    """What becomes of a lease that was just granted."""

    KEEP = "keep"  #: all together stay within the quotas
    LOOK_AGAIN = "look again"  #: others are to give way: it is kept once they have
    GIVE_WAY = "give way"  #: it is over a quota, or is there no more


def judge(uid: str, worker: str, counts: Sequence[Count], leases: Mapping[str, Leases]) -> Judgement:
    """What becomes of the lease that the job `uid` was granted on `worker`.

    `leases`: those of all workers of the pool, as they were seen after the grant.
    """
    who = hashed("who", uid)
    found = [_judged(who, worker, count, leases) for count in counts]
    if Judgement.GIVE_WAY in found:
        return Judgement.GIVE_WAY
    return Judgement.LOOK_AGAIN if Judgement.LOOK_AGAIN in found else Judgement.KEEP


def _judged(who: str, worker: str, count: Count, leases: Mapping[str, Leases]) -> Judgement:
    settled, waiting = 0, []
    for name, each in ((name, each) for name, held in leases.items() for each in count.of(held)):
        if each.get("job"):
            settled += _gpus(each)
        elif each.get("who") != who or name == worker:  # what it was granted elsewhere, too, it gives back
            waiting.append(each)
    mine = next((each for each in waiting if each.get("who") == who), None)
    if mine is None:
        return Judgement.GIVE_WAY
    if settled + sum(map(_gpus, waiting)) <= count.most:
        return Judgement.KEEP
    for each in sorted(waiting, key=_place):
        if settled + _gpus(each) <= count.most:
            settled += _gpus(each)
            if each is mine:
                return Judgement.LOOK_AGAIN
    return Judgement.GIVE_WAY


def _place(lease: Mapping[str, Any]) -> tuple[int, float, str]:
    """In the line, when it was granted: that does not change, and is the same for whoever looks."""
    priority = lease.get("priority")
    rank = PRIORITIES.index(priority if priority in PRIORITIES else "normal")
    return rank, -float(lease.get("waited_s") or 0.0), str(lease.get("who") or "")


def _gpus(lease: Mapping[str, Any]) -> int:
    return len(lease.get("gpus") or ())
