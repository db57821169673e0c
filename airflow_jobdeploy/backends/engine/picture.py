"""Who holds what of an engine and who waits for it, as one listing shows. Pure, but for what is asked of a job's end.

A lease's record (a volume) says what it holds, a second name (its fate) whose it is for good; a GPU is held besides by
the name of a container, and a job that runs says in its own labels what it has. Each is believed without the others:
what somebody has pruned gives nothing away.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.backends.engine import names, slots
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.core.leases import PROVISIONAL_S, hashed

#: No ticket counts for longer than this without being renewed, whatever it says.
LONGEST_S = 90.0
_LIVE = ("running", "paused", "restarting")
_AMOUNTS, _RANK = ("cpu", "memory", "disk"), ("priority", "waited_s")
_WHOSE = ("who", "deployment", "owner", "team")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A lease."""

    id: str
    #: {"who", "deployment", "owner", "team" (hashes), "user", "gpus", "cpu", "memory", "disk", "past"}, and of those
    #: that a quota counts "priority" and "waited_s"; {}: there is none.
    record: Mapping[str, Any] = field(default_factory=dict)
    #: By the engine's clock, in seconds: when it was made, and when it was decided whose it is.
    since: float
    decided: float | None = None
    #: Whose it is: "" nobody's yet, a job's id, or names.VOID and what tells by whom.
    fate: str = ""
    #: Nobody needs it any more.
    is_over: bool = False
    #: GPU -> the id of the container that holds its name.
    claims: Mapping[str, str] = field(default_factory=dict)
    #: Volumes that say that its job is on its way.
    stays: tuple[str, ...] = ()

    @property
    def job(self) -> str:
        return "" if self.is_void else self.fate

    @property
    def is_void(self) -> bool:
        return self.fate.partition(" ")[0] == names.VOID

    @property
    def gpus(self) -> list[str]:
        told = self.record.get("gpus")
        uuids = [str(uuid) for uuid in told] if isinstance(told, list) else []
        return [*uuids, *(uuid for uuid in self.claims if uuid not in uuids)]

    def wire(self) -> dict[str, Any]:
        """As hostside/queueing.py has it."""
        known = {name: str(self.record.get(name) or "") for name in (*_WHOSE, "user", "past")}
        amounts = {name: self.record.get(name) or 0 for name in _AMOUNTS}
        rank = {name: self.record[name] for name in _RANK if name in self.record}
        return {"id": self.id, "job": self.job, "gpus": self.gpus, **amounts, **known, **rank}


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One look."""

    leases: tuple[Held, ...]
    #: As hostside/queueing.py has them, with "who", "user", "since" (the engine's clock), and "job": the job that
    #: stands in line by itself, else "".
    tickets: tuple[dict[str, Any], ...]
    #: Jobs that have all GPUs of the engine: they asked for some without a lease.
    whole: tuple[str, ...]
    #: Volumes of tickets that do not count any more.
    expired: tuple[str, ...]
    #: Of the listing.
    notes: Mapping[tuple[str, str], str]

    def of_job(self, job_id: str) -> Held | None:
        """What a job has taken."""
        return next((held for held in self.leases if held.job == job_id and not held.is_over), None)

    def provisional(self, who: str) -> Held | None:
        """What was granted to a job, whoever asked for it, and has not been taken."""
        found = (held for held in self.leases if held.record and not held.fate and not held.is_over)
        return next((held for held in found if held.record.get("who") == who), None)


def picture_of(listing: Listing, now: float, has_ended: Callable[[str], bool]) -> Picture:
    """`now`: the engine's clock; `has_ended`: is a job that has taken a lease over, or gone?"""
    tickets, expired = _tickets(listing, now)
    leases = tuple(_judged(held, listing, now, has_ended) for held in _leases(listing).values())
    taken = {held.job for held in leases if held.job and not held.is_over}
    waiting = [ticket for ticket in _jobs_in_line(listing, now) if ticket["job"] not in taken]
    whole = (
        job_id
        for job_id, listed in listing.containers.items()
        if listed["State"] in _LIVE and job_id in listing.volumes and slots.has_whole(listing.labels(job_id))
    )
    return Picture(
        leases=leases, tickets=(*tickets, *waiting), whole=tuple(whole), expired=tuple(expired), notes=listing.notes
    )


# -- leases ------------------------------------------------------------------------------------------------------------


def _leases(listing: Listing) -> dict[str, Held]:
    found: dict[str, Held] = {}

    def known(lease: str, since: float) -> Held:
        return found.setdefault(lease, Held(id=lease, since=since))

    for volume in sorted(listing.line, key=lambda volume: str((volume.get("Labels") or {}).get(names.KIND)) != "lease"):
        labels, made = volume.get("Labels") or {}, seconds(volume.get("CreatedAt")) or 0.0
        lease, kind = str(labels.get(names.LEASE) or ""), labels.get(names.KIND)
        if kind == names.LEASE_KIND:
            found[lease] = Held(id=lease, since=made, record=read(labels.get(names.HELD)))
        elif kind == names.FATE_KIND:
            found[lease] = replace(known(lease, made), fate=str(labels.get(names.FATE) or ""), decided=made)
        elif kind == names.STAY_KIND:
            held = known(lease, made)
            found[lease] = replace(held, since=max(held.since, made), stays=(*held.stays, str(volume["Name"])))
    for entry in listing.gpus:
        lease = str(entry["Labels"].get(names.LEASE) or "")
        held = known(lease, float(entry.get("Created") or 0.0))
        uuid = str(entry["Labels"].get(names.GPUS) or "")
        found[lease] = replace(held, claims={**held.claims, uuid: str(entry["Id"])})
    for job_id, listed in listing.containers.items():
        told = read((listed.get("Labels") or {}).get(names.LEASED))
        has_begun = listed["State"] not in ("created", "removing")
        if told.get("id") and has_begun and found.get(told["id"], Held(id="", since=0.0)).fate == "":
            if listed["State"] not in _LIVE and told["id"] not in found:
                continue
            held = known(str(told["id"]), float(listed.get("Created") or 0.0))
            found[held.id] = replace(held, fate=job_id, record=held.record or told)
    return found


def _judged(held: Held, listing: Listing, now: float, has_ended: Callable[[str], bool]) -> Held:
    if held.is_void:
        return replace(held, is_over=True)
    if held.fate:
        return replace(held, is_over=has_ended(held.fate))
    return replace(held, is_over=now - held.since > PROVISIONAL_S)


# -- tickets -----------------------------------------------------------------------------------------------------------


def _tickets(listing: Listing, now: float) -> tuple[list[dict[str, Any]], list[str]]:
    found, expired = [], []
    for volume in listing.line:
        labels = volume.get("Labels") or {}
        if labels.get(names.KIND) != names.TICKET_KIND:
            continue
        told, made = read(labels.get(names.ASK)), seconds(volume.get("CreatedAt")) or 0.0
        until, since = told.get("until"), told.get("since")
        if (
            not isinstance(until, (int, float))
            or not isinstance(since, (int, float))
            or now >= min(until, made + LONGEST_S)
        ):
            expired.append(str(volume["Name"]))
        else:
            found.append(in_line({**told, "tag": str(volume["Name"])}, now))
    return found, expired


def in_line(told: Mapping[str, Any], now: float, job: str = "") -> dict[str, Any]:
    """A ticket as queueing.decide wants it; `told`: with "who" and "since"."""
    who = str(told.get("who") or "")
    return {**told, "uid": who, "who": who, "job": job, "waited_s": max(0.0, now - float(told["since"]))}


def _jobs_in_line(listing: Listing, now: float) -> Iterator[dict[str, Any]]:
    """Jobs that stand in line by themselves: their records are their tickets."""
    for job_id in listing.containers:
        if job_id not in listing.volumes or not slots.waits(listing, job_id) or listing.newer(job_id):
            continue
        plan = names.plan_of(listing.labels(job_id))
        if not slots.is_leased(plan) or listing.successor(job_id) is not None:
            continue
        queued = seconds(listing.noted_at.get((names.QUEUED, job_id))) or now
        told = asked(plan["lease"]["ticket"], queued, str(plan["lease"].get("user") or ""))
        yield {**in_line(told, now, job_id), "needs_pool": needs_pool(plan)}


def needs_pool(plan: Mapping[str, Any]) -> bool:
    """Can only those start it who know its pool's storage?"""
    return bool(plan.get("volumes")) or (plan.get("dataset") or {}).get("storage") is not None


def asked(ticket: Mapping[str, Any], now: float, user: str) -> dict[str, Any]:
    """What is told of a ticket (core.leases.Ticket on the wire): names are hashed. `now`: when it is that old."""
    kept = ("demand", "priority", "reserves", "max_gpus", *(("team_max_gpus",) if ticket.get("team") else ()))
    waited_s = ticket.get("waited_s")
    return {
        "who": hashed("who", str(ticket.get("uid") or "")),
        "deployment": hashed("deployment", str(ticket.get("deployment") or "")),
        "owner": hashed("owner", str(ticket.get("owner") or "")),
        "team": hashed("team", str(ticket.get("team") or "")),
        "user": user,
        **{key: ticket[key] for key in kept if ticket.get(key) is not None},
        "within": ticket.get("within") or None,
        "since": round(now - (waited_s if isinstance(waited_s, (int, float)) else 0.0), 2),
    }


def read(text: object) -> dict[str, Any]:
    """What a label says as JSON; {} for nonsense."""
    try:
        found = json.loads(str(text or "{}"))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
