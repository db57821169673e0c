"""Who of those that wait for this host gets something of it now, and what. Pure: the same answer for whoever asks.

Jobs wait in one line: by priority, then by how long they wait, then by uid. The first gets what it needs as soon as it
is free. While the first that *reserves* here (a job reserves on one worker only) has to wait, a later one may pass it
as a filler only: with all fillers that are here staying for ever, the host must still be able to hold the first. So the
first starts once those have ended that ran before it became first, whatever arrives meanwhile.

Lines of other accounts are read with the same eyes: what is malformed, or more than this host could ever give, is not
in the line at all. A lie can make us wait as long as a true ticket could, and can never give away what is held.

    lease     {"id", "gpus": [uuid], "cpu", "memory", "disk", "deployment", "owner", "team", "past"}
              `past`: see a grant
    ticket    {"uid", "priority": "high" | "normal" | "low", "waited_s", "demand", "reserves": bool,
               "within": what the pool declares of the host (fitting.narrowed), "stalled": bool,
               "deployment", "owner", "team", "max_gpus", "team_max_gpus": the most that the owner, and the team, may
               hold here}
    verdict   {"uid", "granted": bool, "gpus": [uuid], "past": uid, "position": n, "ahead": [uid], "why": text}

`position` is 1 for the first in line, 0 for who is not in it; `ahead` names the first few only. A granted one's `past`
is the job that it passed as a filler, else "": it must stand in its lease. A ticket is `stalled` when it was granted
and nobody took it for long: it is left out until it moves.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Set, Tuple

from airflow_jobdeploy.hostside import fitting
from airflow_jobdeploy.hostside.fitting import Demand, Gpu, Limits, read_amount
from airflow_jobdeploy.hostside.sums import Held, Sums, gpus_lack, gpus_text, models_text, owner_of, read_lease

PRIORITIES = ("high", "normal", "low")
#: Waiting longer than this moves nobody further up.
_LONGEST_S = 30 * 86400.0
_SHOWN = 5


class Ticket(NamedTuple):
    """A ticket that can be read."""

    uid: str
    key: Tuple[int, float, str]
    demand: Demand
    limits: Limits
    reserves: bool
    #: (deployment, owner) and the most GPUs that it may hold here.
    owner: Tuple[str, str]
    max_gpus: Optional[int]
    #: The same of its team.
    team: Tuple[str, str]
    team_max_gpus: Optional[int]
    #: Which of those given.
    at: int


def decide(
    capacity: Dict[str, Any],
    leases: Iterable[Dict[str, Any]],
    tickets: Sequence[Dict[str, Any]],
    outsiders: Iterable[str] = (),
) -> List[Dict[str, Any]]:
    """A verdict for each ticket, in the order given. `outsiders`: UUIDs of GPUs that processes without a lease use.

    (GPUs whose facts name `outsiders` count as such, too.) A host that is `cordoned` (by whom, why) gives out nothing.
    Leases that the verdicts ask for are counted as held: of
    several granted ones each may take its own, whoever comes first.
    """
    if capacity.get("cordoned"):
        return [_out(ticket, "takes no new jobs: %s" % capacity["cordoned"]) for ticket in tickets]
    foreign = {str(gpu["uuid"]) for gpu in capacity.get("gpus") or () if gpu.get("outsiders") and gpu.get("uuid")}
    room = _Room([read_lease(lease) for lease in leases], foreign.union(outsiders))
    verdicts, line = _lined_up(fitting.read_limits(capacity), tickets)
    passed: List[str] = []
    for ticket in line:
        verdict = _verdict(ticket, room, len(passed))
        verdict["ahead"] = passed[:_SHOWN] if verdict["position"] else []
        verdicts[ticket.at] = verdict
        if verdict["position"]:
            passed.append(ticket.uid)
    return [verdict or _out(ticket, "its ticket cannot be read") for verdict, ticket in zip(verdicts, tickets)]


# -- the line ----------------------------------------------------------------------------------------------------------


def _lined_up(limits: Limits, tickets: Sequence[Dict[str, Any]]) -> Tuple[List[Optional[Dict[str, Any]]], List[Ticket]]:
    verdicts: List[Optional[Dict[str, Any]]] = [None] * len(tickets)
    line: List[Ticket] = []
    for index, data in enumerate(tickets):
        ticket = read_ticket(limits, data, index)
        if ticket is not None:
            line.append(ticket)
    line.sort(key=lambda ticket: ticket.key)
    seen: Set[str] = set()
    once: List[Ticket] = []
    for ticket in line:
        if ticket.uid in seen:
            verdicts[ticket.at] = _out(tickets[ticket.at], "the same job has another ticket here")
        elif tickets[ticket.at].get("stalled"):
            verdicts[ticket.at] = _out(tickets[ticket.at], "it was its turn, and nobody took what was granted")
        else:
            once.append(ticket)
            seen.add(ticket.uid)
    return verdicts, once


def read_ticket(limits: Limits, data: Any, index: int = 0) -> Optional[Ticket]:
    """A ticket as it came, on a host with these limits; None where it is none."""
    if not isinstance(data, dict):
        return None
    uid, priority, waited_s = data.get("uid"), data.get("priority", "normal"), read_amount(data.get("waited_s", 0))
    demand, within = fitting.read_demand(data.get("demand")), fitting.narrowed(limits, data.get("within"))
    if not isinstance(uid, str) or not 1 <= len(uid) <= 100 or priority not in PRIORITIES:
        return None
    if demand is None or within is None or waited_s is None:
        return None
    bounds = [data.get(name) for name in ("max_gpus", "team_max_gpus")]
    if any(most is not None and (isinstance(most, bool) or not isinstance(most, int)) for most in bounds):
        return None
    owner, team = owner_of(data), owner_of(data, "team")
    key = (PRIORITIES.index(priority), -min(waited_s, _LONGEST_S), uid)
    return Ticket(uid, key, demand, within, data.get("reserves") is True, owner, bounds[0], team, bounds[1], index)


# -- what is free ------------------------------------------------------------------------------------------------------


class _Room:
    """The host while its verdicts are made."""

    def __init__(self, held: Sequence[Held], foreign: Set[str]) -> None:
        self.foreign = foreign
        self.used = Sums()
        self._all: List[Held] = []
        self.head: Optional[_Head] = None
        # Many wait for the same: what is found for one holds for all, until something is taken.
        self._never: Dict[Any, str] = {}
        self._now: Dict[Any, Tuple[str, Optional[Tuple[Gpu, ...]]]] = {}
        for each in held:
            self.take(each)

    def take(self, held: Held) -> None:
        self._all.append(held)
        self.used.add(held)
        self._now.clear()
        if self.head is not None and held.past == self.head.ticket.uid:
            self.head.add(held)

    def reserve(self, ticket: Ticket) -> None:
        """From here on whoever passes must leave room for `ticket`."""
        self.head = _Head(ticket, self.usable(ticket.limits), self.used.gpus)
        for held in self._all:
            if held.past == ticket.uid:
                self.head.add(held)

    def usable(self, limits: Limits) -> Tuple[Gpu, ...]:
        """The GPUs that no outsider uses."""
        return fitting.without(limits.gpus, self.foreign)

    def free(self, limits: Limits) -> Tuple[Gpu, ...]:
        """Those of them that nobody holds."""
        return fitting.without(self.usable(limits), self.used.gpus)

    def never(self, ticket: Ticket) -> str:
        """Why this host cannot hold the job even when all who run have ended; "" when it can."""
        key = (ticket.demand, id(ticket.limits))
        if key not in self._never:
            self._never[key] = _never(ticket.demand, ticket.limits, self.usable(ticket.limits))
        return self._never[key]

    def now(self, ticket: Ticket) -> Tuple[str, Optional[Tuple[Gpu, ...]]]:
        """What is too little now, in words; or "" and GPUs that would do."""
        key = (ticket.demand, id(ticket.limits))
        found = self._now.get(key)
        if found is None:
            lack, free = self.used.lack(ticket.demand, ticket.limits), self.free(ticket.limits)
            gpus = None if lack else fitting.choose(ticket.demand.wishes, free)
            if gpus is None:
                lack = lack or gpus_lack(ticket.demand, free, self.usable(ticket.limits))
            found = self._now[key] = (lack, gpus)
        return found

    def quotas(self, ticket: Ticket) -> List[Tuple[str, int, int]]:
        """Those that count the job: whose, how many GPUs are held of it here, and how many may be."""
        found = []
        if ticket.max_gpus is not None:
            held = sum(len(held.gpus) for held in self._all if held.owner == ticket.owner)
            found.append(("owner " + (ticket.owner[1] or "(none)"), held, ticket.max_gpus))
        if ticket.team_max_gpus is not None:
            held = sum(len(held.gpus) for held in self._all if held.team == ticket.team)
            found.append(("team " + ticket.team[1], held, ticket.team_max_gpus))
        return found


class _Head:
    """The first that waits and reserves: what fillers leave it of the whole host."""

    def __init__(self, ticket: Ticket, usable: Sequence[Gpu], busy: Iterable[str]) -> None:
        self.ticket = ticket
        self._usable = usable
        self._busy = frozenset(busy)
        self._fillers = Sums()
        #: Demands (and the limits of who asks) that would delay it: fillers that come only make that truer.
        self._refused: Set[Tuple[Demand, int]] = set()

    def add(self, filler: Held) -> None:
        self._fillers.add(filler)

    def spare(self, ticket: Ticket, free: Sequence[Gpu]) -> Optional[Tuple[Gpu, ...]]:
        """GPUs out of `free` for a filler; None: the first would wait longer for it."""
        key = (ticket.demand, id(ticket.limits))
        if key in self._refused:
            return None
        found = self._spare(ticket.demand, free)
        if found is None:
            self._refused.add(key)
        return found

    def _spare(self, demand: Demand, free: Sequence[Gpu]) -> Optional[Tuple[Gpu, ...]]:
        ours = self.ticket.demand
        together = Demand(ours.cpu + demand.cpu, ours.memory + demand.memory, ours.disk + demand.disk)
        limits = self.ticket.limits
        if self._fillers.lack(together, limits._replace(slots=limits.slots - 1)):
            return None
        left = fitting.without(self._usable, self._fillers.gpus)
        # What is busy becomes free by the time that the first starts: it had better take that.
        busy_first = sorted(left, key=lambda gpu: gpu.uuid not in self._busy)
        for wish in ours.wishes:
            kept = [gpu for gpu in busy_first if wish.takes(gpu)][: wish.many]
            if len(kept) == wish.many:
                found = fitting.choose(demand.wishes, fitting.without(free, fitting.uuids(kept)))
                if found is not None:
                    return found
        return None if ours.wishes else fitting.choose(demand.wishes, free)


# -- one verdict -------------------------------------------------------------------------------------------------------


def _verdict(ticket: Ticket, room: _Room, passed: int) -> Dict[str, Any]:
    for whose, held, most in room.quotas(ticket) if ticket.demand.wishes else ():
        wishes = tuple(wish for wish in ticket.demand.wishes if held + wish.many <= most)
        if not wishes:
            return _waits(ticket.uid, 0, "its %s holds %d of the %d GPUs that it may" % (whose, held, max(most, 0)))
        ticket = ticket._replace(demand=ticket.demand._replace(wishes=wishes))
    never = room.never(ticket)
    if never:
        return _waits(ticket.uid, 0, never)
    lack, gpus = room.now(ticket)
    if gpus is None:
        if ticket.reserves and room.head is None:
            room.reserve(ticket)
        return _waits(ticket.uid, passed + 1, lack)
    past = ""
    if room.head is not None:
        past = room.head.ticket.uid
        gpus = room.head.spare(ticket, room.free(ticket.limits))
        if gpus is None:
            return _waits(ticket.uid, passed + 1, "would delay %s, which is first in line" % past)
    demand = ticket.demand
    chosen = tuple(gpu.uuid for gpu in gpus)
    room.take(Held(chosen, demand.cpu, demand.memory, demand.disk, ticket.owner, past, ticket.team))
    return {**_waits(ticket.uid, 0, ""), "granted": True, "gpus": list(chosen), "past": past}


def _never(demand: Demand, limits: Limits, usable: Sequence[Gpu]) -> str:
    lack = Sums().lack(demand, limits)
    if lack:
        return "more than is here: " + lack
    if fitting.choose(demand.wishes, usable) is not None:
        return ""
    if fitting.choose(demand.wishes, limits.gpus) is not None:
        taken = [str(gpu.number) for gpu in limits.gpus if gpu not in usable]
        return "needs %s; processes without a lease use GPU %s" % (gpus_text(demand), ", ".join(taken))
    return "more than is here: needs %s, has %s" % (gpus_text(demand), models_text(limits.gpus))


def _waits(uid: str, position: int, why: str) -> Dict[str, Any]:
    return {"uid": uid, "granted": False, "gpus": [], "past": "", "position": position, "ahead": [], "why": why}


def _out(data: Any, why: str) -> Dict[str, Any]:
    uid = data.get("uid") if isinstance(data, dict) else None
    return _waits(uid if isinstance(uid, str) else "", 0, why)
