"""A worker as placement sees it: what it has, what of it is free, who is in its line."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.words import duration, size
from airflow_jobdeploy.hostside import fitting
from airflow_jobdeploy.hostside.fitting import Demand, Gpu
from airflow_jobdeploy.hostside.queueing import PRIORITIES, read_ticket
from airflow_jobdeploy.hostside.sums import Held, Sums, gpus_lack, gpus_text, models_text, read_lease


@dataclass(frozen=True, kw_only=True)
class WorkerView:
    """What is known of one worker of a pool at one moment."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    #: What it said of itself; None: it could not be asked, `trouble` says why.
    room: Room | None = None
    trouble: str = ""
    #: What the pool declares of it: {"cpu", "memory", "disk", "gpus", "slots"}, where that is less than there is.
    within: Mapping[str, Any] = field(default_factory=dict)
    #: By whom and why it takes no new jobs; "": it takes them.
    cordoned: str = ""
    #: The failures for which it is left alone for a while; "": it is not.
    set_aside: str = ""
    #: The trees that it has, by name.
    holds: frozenset[str] = frozenset()
    #: Jobs under supervision there, those without a lease included.
    live_jobs: int = 0
    #: Which machine it is, for ever, and which kernel it runs under (core.sharing); "": not known.
    machine: str = ""
    kernel: str = ""


#: How a job stands to a worker. ASIDE: it goes there only where there is no other, for it has failed several in a row;
#: PASSING: not at all, for a reason that may pass; NEVER: for one that will not.
NOW, WAITS, ASIDE, PASSING, NEVER = "now", "waits", "aside", "passing", "never"


class Look(NamedTuple):
    """What one worker has for one demand."""

    fit: str
    #: Which of its alternatives of GPUs the job would get, and how much of a waste that is (bytes of a GPU's memory).
    alternative: int = 0
    waste: int = 0
    #: Of NOW: what remains free; of WAITS: how many wait for a share of it, 1 being all of the worker.
    rest: float = 0.0


class Needs(NamedTuple):
    """A demand, made out for workers with the same hardware."""

    demand: Demand
    #: Of each alternative of GPUs: those that would do, as bits of `Standing.usable`; how many; the least of a memory.
    wishes: tuple[tuple[int, int, int], ...] = ()


class Standing:
    """What of a worker is free; `take` and `line_up` change it, for those that are placed one after the other."""

    def __init__(self, view: WorkerView, room: Room) -> None:
        self.view = view
        whole = fitting.read_limits(dict(room.capacity))
        self.limits = fitting.narrowed(whole, dict(view.within)) or whole
        self.gpus_unknown = str(room.capacity.get("gpus_unknown") or "")
        self.foreign = {str(each.get("gpu")) for each in room.outsiders}
        self.usable = fitting.without(self.limits.gpus, self.foreign)
        self.used = Sums()
        for lease in room.leases:
            self.used.add(read_lease(lease))
        self.used.jobs = max(self.used.jobs, view.live_jobs)  # some have no lease
        self._free = _bits(gpu.uuid not in self.used.gpus for gpu in self.usable)
        self._line = [ticket for data in room.tickets if (ticket := _ticket(whole, data)) is not None]
        self.backlog = sum(self._share(ticket.demand) for ticket in self._line)
        #: Workers that are equal in this need the same of a demand (`needs`).
        self.hardware = (self.limits[:4], tuple(gpu[1:] for gpu in self.usable))

    @property
    def free(self) -> tuple[Gpu, ...]:
        """The GPUs that nobody has."""
        return fitting.without(self.usable, self.used.gpus)

    # -- can it be had? ----------------------------------------------------------------------------------------------

    def needs(self, demand: Demand) -> Needs | None:
        """What `look` takes; None: the worker cannot hold it, even when all have ended who are there."""
        if Sums().lack(demand, self.limits):
            return None
        wishes = []
        for wish in demand.wishes:
            fit = [gpu for gpu in self.usable if wish.takes(gpu)]
            least = min((gpu.memory_bytes for gpu in fit), default=0)
            wishes.append((_bits(gpu in fit for gpu in self.usable), wish.many, least))
        possible = not wishes or any(bits.bit_count() >= many for bits, many, _ in wishes)
        return Needs(demand, tuple(wishes)) if possible else None

    def look(self, needs: Needs) -> Look:
        """Whether it can be had now: what is free, whoever waits."""
        demand, limits, used = needs.demand, self.limits, self.used
        if (
            used.jobs + 1 > limits.slots
            or (demand.cpu and demand.cpu > limits.cpu - used.cpu + 1e-9)
            or (demand.memory and demand.memory > limits.memory - used.memory)
            or (demand.disk and demand.disk > limits.disk - used.disk)
        ):
            return Look(WAITS, rest=self.backlog)
        if not needs.wishes:
            return Look(NOW, rest=self._left(demand))
        for number, (bits, many, least) in enumerate(needs.wishes):
            if (self._free & bits).bit_count() >= many:
                return Look(NOW, number, least, self._free.bit_count() - many)
        return Look(WAITS, rest=self.backlog)

    def is_behind(self, key: tuple[int, float, str], demand: Demand) -> bool:
        """Does somebody reserve here who is before one with this key in the line, and would wait longer for it?"""
        ours = {gpu.uuid for gpu in fitting.choose(demand.wishes, self.free) or ()}
        beside = Sums()
        beside.add(Held(tuple(ours), demand.cpu, demand.memory, demand.disk, ("", ""), ""))
        left = fitting.without(self.usable, ours)
        return any(
            beside.lack(ticket.demand, self.limits) or fitting.choose(ticket.demand.wishes, left) is None
            for ticket in self._line
            if ticket.reserves and ticket.key < key
        )

    def ahead(self, key: tuple[int, float, str]) -> int:
        """How many are in line before one with this key."""
        return sum(1 for ticket in self._line if ticket.key < key)

    # -- giving it out -----------------------------------------------------------------------------------------------

    def take(self, demand: Demand) -> tuple[Gpu, ...]:
        """A job starts here; the GPUs that it gets."""
        gpus = fitting.choose(demand.wishes, self.free) or ()
        self.used.add(Held(tuple(gpu.uuid for gpu in gpus), demand.cpu, demand.memory, demand.disk, ("", ""), ""))
        self._free = _bits(gpu.uuid not in self.used.gpus for gpu in self.usable)
        return gpus

    def line_up(self, demand: Demand) -> None:
        """A job waits here."""
        self.backlog += self._share(demand)

    def _share(self, demand: Demand) -> float:
        gpus = max((wish.many for wish in demand.wishes), default=0) / max(len(self.usable), 1)
        cpu = demand.cpu / self.limits.cpu if self.limits.cpu else 0.0
        return max(gpus, cpu, 0.01)

    def _left(self, demand: Demand) -> float:
        """Of a demand without GPUs: the share of cores or memory that remains."""
        limits, used = self.limits, self.used
        if demand.cpu and limits.cpu < math.inf:
            return (limits.cpu - used.cpu - demand.cpu) / limits.cpu
        if demand.memory and limits.memory < math.inf:
            return (limits.memory - used.memory - demand.memory) / limits.memory
        return used.jobs  # nothing to pack by: jobs are spread

    # -- in words ----------------------------------------------------------------------------------------------------

    def impossible(self, demand: Demand) -> tuple[str, str]:
        """PASSING or NEVER, and why the worker cannot hold `demand`."""
        lack = Sums().lack(demand, self.limits)
        if lack:
            return NEVER, f"more than is here: {lack}"
        if self.gpus_unknown:
            return PASSING, f"needs {gpus_text(demand)}; its GPUs are not known: {self.gpus_unknown}"
        if fitting.choose(demand.wishes, self.limits.gpus) is not None:
            which = ", ".join(str(gpu.number) for gpu in self.limits.gpus if gpu.uuid in self.foreign)
            return PASSING, f"needs {gpus_text(demand)}; processes without a lease use GPU {which}"
        return NEVER, f"more than is here: needs {gpus_text(demand)}, has {models_text(self.limits.gpus)}"

    def lack(self, demand: Demand) -> str:
        """What is too little now."""
        return self.used.lack(demand, self.limits) or gpus_lack(demand, self.free, self.usable)

    def offer(self, demand: Demand) -> str:
        """What it would get now, out of what."""
        gpus = fitting.choose(demand.wishes, self.free)
        if gpus:
            numbers = ", ".join(str(gpu.number) for gpu in gpus)
            return f"gets GPU {numbers} ({gpus[0].model}); {len(self.free)} of {len(self.usable)} free"
        if demand.cpu and self.limits.cpu < math.inf:
            return f"{self.limits.cpu - self.used.cpu:g} of {self.limits.cpu:g} cores free"
        if demand.memory and self.limits.memory < math.inf:
            return f"{size(self.limits.memory - self.used.memory)} memory free"
        jobs = self.used.jobs
        return f"{jobs} {'job runs' if jobs == 1 else 'jobs run'} there"


def _bits(flags: Iterable[bool]) -> int:
    return sum(1 << at for at, flag in enumerate(flags) if flag)


def holders(room: Room, count: int = 2) -> str:
    """Who holds GPUs of a worker, the longest first, in words; "" when none does."""
    held = sorted((lease for lease in room.leases if lease.get("gpus")), key=lambda lease: -_seconds(lease))
    told = [_holder(lease) for lease in held[:count]]
    more = [f"{len(held) - count} more"] if len(held) > count else []
    return "; ".join([*told, *more])


def _holder(lease: Mapping[str, Any]) -> str:
    who = lease.get("job") or "one that is about to start"
    gpus = len(lease["gpus"])
    what = "a GPU" if gpus == 1 else f"{gpus} GPUs"
    return f"{who} ({lease.get('user') or 'unknown user'}) has held {what} for {duration(_seconds(lease))}"


def _seconds(data: Mapping[str, Any]) -> float:
    value = data.get("since_s")
    return float(value) if isinstance(value, (int, float)) else 0.0


def _ticket(limits: fitting.Limits, data: Mapping[str, Any]) -> Any:
    """A ticket of the room's listing, if it is in the line; it names its job by a hash."""
    if not data.get("position"):
        return None
    return read_ticket(limits, {**data, "uid": str(data.get("who") or "?"), "within": None})


def line_key(priority: str, waited_s: float, uid: str) -> tuple[int, float, str]:
    """A job's place among those that wait, as hostside.queueing sorts them."""
    return (PRIORITIES.index(priority), -waited_s, uid)
