"""The line and the leases of a MemoryHost: the same decisions as on real hosts, in a dictionary instead of sockets."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.leases import PROVISIONAL_S, Lease, Room, SeekAnswer, Ticket, hashed
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside import fitting, queueing
from airflow_jobdeploy.testing.site import Site

_USER = "memory"


@dataclass
class _Place:
    """A ticket in line. `holder`: the session or the job that it ends with; `until` None: as long as that lasts."""

    ticket: Ticket
    holder: object
    since: float
    until: float | None


@dataclass
class _Held:
    """What one job, or nobody yet (`job` ""), holds until `until`."""

    lease: Lease
    ticket: Ticket
    since: float
    past: str
    #: For how long it had waited.
    waited_s: float
    #: The session that it ends with while no job is claimed.
    tied_to: object = None
    job: str = ""


@dataclass
class MemoryLine:
    """Of one host; used while holding `host.changed`. `capacity`: as hostside/fitting.py has it."""

    host: Site
    capacity: dict[str, Any]
    #: How the host's last jobs ended, newest first.
    ends: Callable[[], list[dict[str, Any]]]
    #: GPUs (UUIDs) that a process without a lease uses.
    outsiders: dict[str, dict[str, Any]] = field(default_factory=dict)
    _places: dict[str, _Place] = field(default_factory=dict)
    _held: dict[str, _Held] = field(default_factory=dict)
    #: What holders have not been told yet: holder -> uid -> answer.
    _news: dict[int, dict[str, SeekAnswer]] = field(default_factory=dict)

    # -- tickets -----------------------------------------------------------------------------------------------

    def seek(self, ticket: Ticket, holder: object, *, lasting: bool = False) -> SeekAnswer:
        """Put or renew a ticket. WorkerError when it is none."""
        wire = ticket.to_wire()
        if queueing.read_ticket(fitting.Limits(), wire) is None:
            raise WorkerError(f"{self.host.name}: bad-request: the ticket of {ticket.uid!r} cannot be read")
        now = self.host.clock.now()
        self._forget_void()
        held = next((held for held in self._held.values() if held.ticket.uid == ticket.uid and not held.job), None)
        if held is not None:
            return self._given(held)
        since = now - ticket.waited_s
        if ticket.uid in self._places:
            since = min(since, self._places[ticket.uid].since)
        until = None if lasting else now + ticket.ttl_s
        self._places[ticket.uid] = _Place(ticket, holder, since, until)
        return self.turn(ticket.uid)

    def news(self, holder: object) -> dict[str, SeekAnswer]:
        self.turn()
        return self._news.pop(id(holder), {})

    def drop(self, uid: str) -> None:
        self._places.pop(uid, None)
        for held in [held for held in self._held.values() if held.ticket.uid == uid and not held.job]:
            del self._held[held.lease.id]
        self.turn()

    def leave(self, holder: object) -> None:
        """A session or a job has ended: its tickets, and what the job held, are gone with it."""
        self._places = {uid: place for uid, place in self._places.items() if place.holder is not holder}
        job = getattr(holder, "job_id", None)
        self._held = {
            key: held
            for key, held in self._held.items()
            if (held.job or held.tied_to is not holder) and not (job and held.job == job)
        }
        self._news.pop(id(holder), None)
        self.turn()

    def reboot(self) -> None:
        """Nothing is held, nobody waits."""
        self._places, self._held, self._news = {}, {}, {}

    # -- leases ------------------------------------------------------------------------------------------------

    def claim(self, lease_id: str, uid: str, job_id: str) -> Lease | None:
        """Make a provisional lease the job's. None: it is void, or not for this job."""
        self._forget_void()
        held = self._held.get(lease_id)
        if held is None or held.job or held.ticket.uid != uid:
            return None
        held.job = job_id
        return held.lease

    def untie(self, lease_id: str) -> None:
        """Its job was claimed: the session may end."""
        if lease_id in self._held:
            self._held[lease_id].tied_to = None

    def release(self, lease_id: str) -> bool:
        held = self._held.get(lease_id)
        if held is None or held.job:
            return False
        del self._held[lease_id]
        self.turn()
        return True

    def turn(self, asked: str = "") -> SeekAnswer:
        """Give what is free to whom it is due; the answer to the ticket of `asked`."""
        self._forget_void()
        answer = SeekAnswer()
        for uid, verdict in self._verdicts():
            place = self._places[uid]
            found = SeekAnswer(position=verdict["position"], ahead=self._ahead(verdict), why=verdict["why"])
            if verdict["granted"]:
                found = self._grant(place, verdict)
                if uid != asked:
                    self._news.setdefault(id(place.holder), {})[uid] = found
                    self.host.changed.notify_all()
            answer = found if uid == asked else answer
        return answer

    def _verdicts(self) -> list[tuple[str, dict[str, Any]]]:
        tickets = self._tickets()
        leases = [self._lease(held) for held in self._held.values()]
        verdicts = queueing.decide(self.capacity, leases, tickets, tuple(self.outsiders))
        return [(ticket["uid"], verdict) for ticket, verdict in zip(tickets, verdicts, strict=True)]

    def _tickets(self) -> list[dict[str, Any]]:
        now = self.host.clock.now()
        return [
            {
                **place.ticket.to_wire(),
                "waited_s": max(0.0, now - place.since),
                "within": dict(place.ticket.within) or None,
            }
            for place in self._places.values()
        ]

    def _lease(self, held: _Held) -> dict[str, Any]:
        demand = held.ticket.demand
        amounts = {key: demand.get(key, 0) for key in ("cpu", "memory", "disk")}
        names = {key: getattr(held.ticket, key) for key in ("deployment", "owner", "team")}
        return {"id": held.lease.id, "gpus": list(held.lease.gpus), **amounts, **names, "past": held.past}

    def _grant(self, place: _Place, verdict: Mapping[str, Any]) -> SeekAnswer:
        demand = place.ticket.demand
        lease = Lease(
            id=secrets.token_hex(16),
            gpus=tuple(verdict["gpus"]),
            cpu_count=demand.get("cpu", 0),
            memory_bytes=demand.get("memory", 0),
        )
        now = self.host.clock.now()
        tied_to = place.holder if place.ticket.tied else None
        held = _Held(lease, place.ticket, now, verdict["past"], now - place.since, tied_to)
        self._held[lease.id] = held
        del self._places[place.ticket.uid]
        return self._given(held)

    def _given(self, held: _Held) -> SeekAnswer:
        left = held.since + PROVISIONAL_S - self.host.clock.now()
        return SeekAnswer(lease=replace(held.lease, void_after_s=left), why="granted")

    def _forget_void(self) -> None:
        """What nobody renewed, and what no job has claimed in time."""
        now = self.host.clock.now()
        for uid, place in list(self._places.items()):
            if place.until is not None and place.until <= now:
                del self._places[uid]
                gone = SeekAnswer(why="nobody has asked for it for too long")
                self._news.setdefault(id(place.holder), {})[uid] = gone
        for key, held in list(self._held.items()):
            if not held.job and held.since + PROVISIONAL_S <= now:
                del self._held[key]

    # -- what is shown -----------------------------------------------------------------------------------------

    def _ahead(self, verdict: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
        now = self.host.clock.now()
        places = [self._places[uid] for uid in verdict["ahead"] if uid in self._places]
        return tuple(
            {
                "who": hashed("who", place.ticket.uid),
                "user": _USER,
                "priority": place.ticket.priority,
                "waited_s": now - place.since,
            }
            for place in places
        )

    def room(self) -> Room:
        self.turn()
        now = self.host.clock.now()
        leases = [
            {
                **self._lease(held),
                **_names(held.ticket),
                "job": held.job,
                "user": _USER,
                "ours": True,
                "since_s": now - held.since,
                "priority": held.ticket.priority,
                "waited_s": held.waited_s,
            }
            for held in self._held.values()
        ]
        verdicts = dict(self._verdicts())
        kept = ("priority", "waited_s", "demand", "reserves")
        tickets = [
            {
                **{key: ticket[key] for key in kept},
                **_names(Ticket.from_wire(ticket)),
                "user": _USER,
                "position": verdicts[ticket["uid"]]["position"],
                "why": verdicts[ticket["uid"]]["why"],
            }
            for ticket in self._tickets()
        ]
        tickets.sort(key=lambda ticket: ticket["position"] or len(tickets) + 1)
        outsiders = [{"gpu": gpu, "job": "", **facts} for gpu, facts in self.outsiders.items()]
        capacity, ends = dict(self.capacity), self.ends()
        return Room(capacity=capacity, leases=leases, tickets=tickets, outsiders=outsiders, ends=ends)


def _names(ticket: Ticket) -> dict[str, str]:
    hashes = {key: hashed(key, getattr(ticket, key)) for key in ("deployment", "owner", "team")}
    return {"who": hashed("who", ticket.uid), **hashes}
