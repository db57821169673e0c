"""A place in a worker's line, and what comes of it: ticket -> answer -> lease -> plan.

Whoever waits for a job puts a `Ticket` on every worker that could take it. A worker answers with a `Lease`, provisional
for two minutes, or with the place in line. The lease goes into the plan (`lease_of`); the job's supervisor claims it.
Only durations cross the wire: the waiter carries its own age, so a ticket that was lost keeps its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.hostside import layout
from airflow_jobdeploy.hostside.queueing import PRIORITIES as PRIORITIES

#: A ticket is void when it was not renewed for so long, a lease when no job claimed it.
TICKET_S, PROVISIONAL_S = 60.0, 120.0
#: How often a waiter renews its tickets.
RENEW_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """What a job waits for, and since when. `demand`, `within`: as hostside/fitting.py has them."""

    #: The job's uid: it has one ticket on a worker.
    uid: str
    demand: Mapping[str, Any]
    priority: str = "normal"
    waited_s: float = 0.0
    #: Does it keep others from what it needs here? A job does so on one worker only.
    reserves: bool = False
    #: What the pool declares of the worker, where that is less than there is.
    within: Mapping[str, Any] = field(default_factory=dict)
    deployment: str = ""
    owner: str = ""
    #: The most GPUs that the owner may hold on this worker; None: no bound.
    max_gpus: int | None = None
    #: The same of its team.
    team: str = ""
    team_max_gpus: int | None = None
    ttl_s: float = TICKET_S
    #: Does what it is granted end with the session of its waiter, unless a job has claimed it by then? Not where the
    #: waiter reports it to another process.
    tied: bool = False

    def to_wire(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {**data, "demand": dict(self.demand), "within": dict(self.within)}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Ticket:
        """Keys of newer releases are left out."""
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})


@dataclass(frozen=True, kw_only=True)
class Lease:
    """What a worker holds for a job that has not started; void `void_after_s` seconds after the answer."""

    id: str
    #: UUIDs, in the driver's order.
    gpus: tuple[str, ...] = ()
    cpu_count: float = 0
    memory_bytes: int = 0
    void_after_s: float = PROVISIONAL_S

    def to_wire(self) -> dict[str, Any]:
        return {**{key: getattr(self, key) for key in self.__dataclass_fields__}, "gpus": list(self.gpus)}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Lease:
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        return cls(**{**known, "gpus": tuple(known.get("gpus", ()))})


def lease_of(ticket: Ticket, lease: Lease | None) -> dict[str, Any]:
    """`Plan.lease` of a job with this ticket: it claims `lease`, and waits in the worker's line when that is void.

    Without a lease it waits there from the start, PENDING/Queued.
    """
    held = {"id": lease.id, "gpus": list(lease.gpus)} if lease else {"id": "", "gpus": []}
    return {**held, "ticket": ticket.to_wire()}


@dataclass(frozen=True, kw_only=True)
class SeekAnswer:
    """What a worker says to a ticket: a lease, or the place in line and why."""

    lease: Lease | None = None
    #: 1: the first; 0: not in the line, `why` says why (it asks for more than is here, it has its lease).
    position: int = 0
    #: Is it there, and its turn, and only to be claimed yet? The lease follows in a moment, unless another is faster.
    soon: bool = False
    #: The first few of those ahead: {"who" (hash of the uid), "user", "priority", "waited_s"}.
    ahead: tuple[Mapping[str, Any], ...] = ()
    why: str = ""

    def to_wire(self) -> dict[str, Any]:
        ahead = [dict(each) for each in self.ahead]
        return {
            "lease": self.lease.to_wire() if self.lease else None,
            "position": self.position,
            "soon": self.soon,
            "ahead": ahead,
            "why": self.why,
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> SeekAnswer:
        lease, ahead = data.get("lease"), tuple(data.get("ahead", ()))
        return cls(
            lease=Lease.from_wire(lease) if lease else None,
            position=int(data.get("position", 0)),
            soon=bool(data.get("soon")),
            ahead=ahead,
            why=str(data.get("why", "")),
        )


def hashed(kind: str, name: str) -> str:
    """What other accounts are told instead of a name. `kind`: "who" (a job's uid), "deployment", "owner" or "team"."""
    return layout.short(kind, name) if name else ""


@dataclass(frozen=True, kw_only=True)
class Room:
    """A worker at one moment, in one round trip."""

    #: As hostside/fitting.py has it: {"cpu", "memory", "disk", "gpus"}.
    capacity: Mapping[str, Any]
    #: {"id", "job" ("": provisional), "who", "deployment", "owner", "team" (`hashed`), "user", "ours": of our account,
    #: "gpus", "cpu", "memory", "disk", "since_s"}; of those that a quota counts also "priority" and "waited_s", as they
    #: were when it was granted (core.quotas)
    leases: Sequence[Mapping[str, Any]] = ()
    #: {"who", "deployment", "owner", "team" (hashes), "user", "priority", "waited_s", "demand", "reserves", "position",
    #: "why"}
    tickets: Sequence[Mapping[str, Any]] = ()
    #: {"gpu", "pid", "name", "user", "memory_bytes", "job" ("": not ours)}: who uses a GPU without a lease of it
    outsiders: Sequence[Mapping[str, Any]] = ()
    driver: str = ""
    #: Which demands are enforced here, beside being counted: "cpu", "memory".
    enforced: tuple[str, ...] = ()
    #: {"job", "status", "reason", "ago_s"} of the last jobs, newest first.
    ends: Sequence[Mapping[str, Any]] = ()
    #: What a person should know: "the driver does not answer: ...".
    warnings: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        lists = {key: [dict(each) for each in getattr(self, key)] for key in ("leases", "tickets", "outsiders", "ends")}
        texts = {key: list(getattr(self, key)) for key in ("enforced", "warnings")}
        return {"capacity": dict(self.capacity), **lists, "driver": self.driver, **texts}

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Room:
        lists = ("leases", "tickets", "outsiders", "enforced", "ends", "warnings")
        known = {key: tuple(data.get(key, ())) for key in lists}
        return cls(capacity=dict(data.get("capacity", {})), driver=str(data.get("driver", "")), **known)
