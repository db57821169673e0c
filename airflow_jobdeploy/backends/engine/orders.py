"""Orders to attempts: files of their report, and a signal that wakes process 1 of their container."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.backends.engine import enforcing, names, seen
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.tar import Member, folder
from airflow_jobdeploy.hostside import layout

_TURNS = 5


@dataclass(frozen=True, kw_only=True)
class Order:
    """`name`: stop or preempt; `facts`: for the state that follows."""

    name: str
    facts: Mapping[str, Any]
    grace_s: float | None = None
    signal: str | None = None

    def members(self, now: float) -> list[Member]:
        """Its files; `now`: the engine's clock."""
        grace = "" if self.grace_s is None else str(max(0, round(self.grace_s * 100)))
        signal = (self.signal or "").upper().removeprefix("SIG")
        return [
            Member(f"{self.name}.json", json.dumps({**self.facts, "at": now}).encode(), 0o644),
            Member(f"{self.name}.order", f"{grace}\n{signal}\n".encode(), 0o644),
        ]


def give(engine: Engine, places: Places, jobs: Jobs, job_id: str, order: Order) -> None:
    """The order lies with the attempt when this returns; one that has not started never will."""
    for _ in range(_TURNS):
        listed = jobs.listing().containers.get(job_id)
        try:
            if listed is None:
                with places.helper({job_id: names.JOB}) as helper:
                    places.put_report(helper, order.members(places.now()))
                return
            places.put_report(listed["Id"], order.members(places.now()))
            if listed["State"] == "created":
                if places.remove_container(listed["Id"]):
                    jobs.note(names.UNRUN, job_id, order.name)
                    return
                continue  # it was started just now
            if listed["State"] == "paused":
                engine.post(f"/containers/{listed['Id']}/unpause")
            is_bare = listed["Labels"].get(names.STAGE) == names.BARE
            plan = names.plan_of(listed["Labels"])
            signal = enforcing.signal_of(plan, order.signal) if is_bare else "SIGUSR1"
            engine.post(f"/containers/{listed['Id']}/kill", signal=signal)
        except EngineError as error:
            if error.is_conflict:
                return  # it has ended meanwhile
            if not error.is_missing:
                raise
            continue  # replaced, or removed
        return


def fail(places: Places, jobs: Jobs, job_id: str, message: str, **facts: Any) -> None:
    """End an attempt that cannot be started; its container goes, its record stays."""
    record = [Member("failed.json", json.dumps({"message": message, **facts}).encode(), 0o644)]
    listed = jobs.listing().containers.get(job_id)
    if listed is not None:
        places.put_report(listed["Id"], record)
        places.remove_container(listed["Id"])
    else:
        with places.helper({job_id: names.JOB}) as helper:
            places.put_report(helper, record)
    jobs.note(names.UNRUN, job_id, "fail")
    jobs.forget(job_id)


def extend(places: Places, listing: Listing, job_id: str, seconds: float, token: str) -> None:
    """Add to the life of an attempt, once for each token: a file of its report, which process 1 reads in time."""
    name = seen.LIFE + layout.checked_name(token)
    member = Member(name, f"{max(1, round(seconds * 100))}\n".encode(), 0o644)
    listed = listing.containers.get(job_id)
    if listed is not None:
        places.put_report(listed["Id"], [member])
        return
    with places.helper({job_id: names.JOB}) as helper:
        places.put_report(helper, [member])


def may_have_lease(latest: Listing, job_id: str) -> bool:
    """Is it to be renewed, for all that was listed last? A record never changes."""
    return job_id not in latest.volumes or names.plan_of(latest.labels(job_id)).get("orphan_after_s") is not None


def renew(places: Places, listing: Listing, job_ids: Sequence[str]) -> None:
    """Write something new into the leases of those that have one: one request for all."""
    leased = [
        job_id
        for job_id in job_ids
        if job_id in listing.volumes
        and names.plan_of(listing.labels(job_id)).get("orphan_after_s") is not None
        and (listing.containers.get(job_id) or {}).get("State") in ("created", "running", "paused")
    ]
    if not leased:
        return
    text = f"{places.now():.3f} {os.urandom(8).hex()}\n".encode()
    members = [folder(".", 0o777), *(Member(job_id, text, 0o644) for job_id in leased)]
    for job_id in leased:  # through whichever is still there
        with contextlib.suppress(EngineError):
            places.put(listing.containers[job_id]["Id"], names.LEASES, members)
            return


def remove(places: Places, jobs: Jobs, job_id: str, listing: Listing) -> None:
    """All that is left of an attempt; with the last one of a job its checkpoint."""
    uid = listing.labels(job_id).get(names.UID, "")
    listed = listing.containers.get(job_id)
    if listed is not None:
        places.remove_container(listed["Id"])
    places.remove_volume(job_id)
    for kind in names.JOB_NOTES:
        if (kind, job_id) in listing.notes:
            places.remove_volume(names.note_volume(kind, job_id))
    others = [other for other in listing.volumes if other != job_id and listing.labels(other).get(names.UID) == uid]
    if uid and not others:
        places.remove_volume(names.uid_volume(uid))
    jobs.forget(job_id)
