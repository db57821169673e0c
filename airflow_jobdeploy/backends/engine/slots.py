"""Places of a pool on an engine: so many of its jobs run at once, the others wait as containers that have not started.
A job with secrets waits in its container, which keeps them in memory: it is held there until it is admitted. Jobs with
a demand wait in the same way for their lease (line.py), and for a slot after it.

Whoever looks at a job that waits starts it when there is room. Of two that look at once one holds a name meanwhile:
that of a container which is never started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import config, names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.times import seconds

#: Nobody holds the name for longer than this, in seconds: who did was killed.
_HELD_S = 30.0
_LIVE = ("running", "paused")


def bound(labels: Mapping[str, str]) -> int | None:
    """Jobs at once, for the job of these labels; None: no bound. Builds of a standing resource need no slot."""
    return _bound(names.plan_of(labels))


def _bound(plan: Mapping[str, Any]) -> int | None:
    if plan.get("resource_id") and not plan.get("resource"):
        return None
    return int(plan["slots"]) if plan.get("slots") else None


def is_bounded(labels: Mapping[str, str]) -> bool:
    """May it have to wait for others?"""
    return bound(labels) is not None or names.GPUS in labels or is_leased(names.plan_of(labels))


def is_leased(plan: Mapping[str, Any]) -> bool:
    """Does it need a lease of its engine?"""
    lease = plan.get("lease")
    return isinstance(lease, dict) and isinstance(lease.get("ticket"), dict)


def has_whole(labels: Mapping[str, str]) -> bool:
    """Has it all GPUs of its engine, one such job at a time: was it submitted without a lease, for GPUs?"""
    return names.GPUS in labels and not is_leased(names.plan_of(labels))


def is_held(plan: Mapping[str, Any]) -> bool:
    """Does it wait for a slot or a lease in a container that runs?"""
    gpus = (plan.get("container") or {}).get("gpus")
    return bool(_bound(plan) is not None or gpus or is_leased(plan)) and bool(plan.get("secret_names"))


def waits(listing: Listing, job_id: str) -> bool:
    """Does a job wait for a slot, or for its lease?"""
    listed = listing.containers.get(job_id)
    if listed is None or (names.QUEUED, job_id) not in listing.notes:
        return False
    return listed["State"] == "created" or (listed["State"] in _LIVE and _is_out(listing, job_id))


def _is_out(listing: Listing, job_id: str) -> bool:
    """Is it held, and not admitted?"""
    return is_held(names.plan_of(listing.labels(job_id))) and (names.ADMITTED, job_id) not in listing.notes


def has_room(listing: Listing, job_id: str) -> bool:
    """Is there a free slot for it?"""
    labels = listing.labels(job_id)
    others = [
        listing.labels(other)
        for other, listed in listing.containers.items()
        if listed["State"] in _LIVE and other in listing.volumes and other != job_id and not _is_out(listing, other)
    ]
    if has_whole(labels) and (listing.gpus or any(has_whole(other) for other in others)):
        return False
    limit, pool = bound(labels), labels.get(names.POOL)
    return limit is None or sum(bound(other) is not None and other.get(names.POOL) == pool for other in others) < limit


def is_early(listing: Listing, job_id: str, now: float) -> bool:
    """Is it to be started later, and nothing in its container can wait for that?"""
    if listing.containers[job_id]["Labels"].get(names.STAGE) != names.BARE:
        return False
    since = seconds(listing.noted_at.get((names.QUEUED, job_id))) or now
    return now - since < float(names.plan_of(listing.labels(job_id)).get("delay_s") or 0.0)


def too_late(listing: Listing, job_id: str, now: float) -> dict[str, Any] | None:
    """The facts of a schedule_timeout that has passed. One that is held sees to it by itself."""
    if listing.containers[job_id]["State"] != "created":
        return None
    limit = (names.plan_of(listing.labels(job_id)).get("limits") or {}).get("schedule_timeout_s")
    since = seconds(listing.noted_at.get((names.QUEUED, job_id))) or now
    return {"limit": "schedule_timeout", "limit_s": limit} if limit and now - since > limit else None


@contextlib.contextmanager
def held(engine: Engine, places: Places, pool: str, now: float, *, gpus: bool = False) -> Iterator[bool]:
    """Hold the pool's name while the block lasts, and with `gpus` that of the engine's GPUs; False: somebody else does.

    The pool's first: of two that hold one each, and want the other, one would have to give way.
    """
    with contextlib.ExitStack() as stack:
        for name in (names.slots_name(pool), *([names.GPUS_NAME] if gpus else [])):
            try:
                container = places.create(name, config.helper({}))
            except EngineError as error:
                if not error.is_conflict:
                    raise
                _free(engine, places, name, now)
                yield False
                return
            stack.callback(places.remove_container, container, force=True)
        yield True


def _free(engine: Engine, places: Places, name: str, now: float) -> None:
    """Take the name from a holder that was killed."""
    try:
        found = engine.get(f"/containers/{name}/json")
    except EngineError as error:
        if error.is_missing:
            return
        raise
    if now - (seconds(found.get("Created")) or now) > _HELD_S:
        places.remove_container(found["Id"], force=True)
