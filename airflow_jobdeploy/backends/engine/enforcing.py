"""Limits and orders of containers in which nothing of ours runs (bare.py): carried through by whoever looks.

A signal when it is due, KILL when the grace has passed: both at the next look, by whichever process that is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.backends.engine import names, reports
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.seen import Seen, life_span_s
from airflow_jobdeploy.backends.engine.tar import Member
from airflow_jobdeploy.backends.engine.times import seconds


def enforce(engine: Engine, places: Places, jobs: Jobs, job_id: str, listing: Listing) -> bool:
    """What is due for a job, if it is one of these. True: something was done."""
    listed = listing.containers.get(job_id)
    if listed is None or listed["State"] != "running" or listed["Labels"].get(names.STAGE) != names.BARE:
        return False
    try:
        seen = jobs.evidence(job_id, listing)
        orders = seen.orders
        if orders:
            return _is_killed(engine, listed["Id"], seen, places.now())
        return _is_ended(engine, places, listed["Id"], seen)
    except EngineError as error:
        if error.is_missing or error.is_conflict:
            return True  # it has ended just now
        raise


def _is_killed(engine: Engine, container: str, seen: Seen, now: float) -> bool:
    """The command may not have heeded its signal: as process 1 it is sent only those that it handles."""
    limits = seen.plan.get("limits") or {}
    for order in seen.orders.values():
        grace = order.get("grace_s")
        if now - float(order.get("at") or 0.0) >= float(limits.get("grace_s", 10.0) if grace is None else grace):
            engine.post(f"/containers/{container}/kill", signal="SIGKILL")
            return True
    return False


def _is_ended(engine: Engine, places: Places, container: str, seen: Seen) -> bool:
    now, started = places.now(), seconds(seen.state.get("StartedAt"))
    name, order = _due(places, container, seen, now, now if started is None else started)
    if not name:
        return False
    data = json.dumps({**order, "at": now}).encode()
    places.put_report(container, [Member(f"{name}.json", data, 0o644)])
    engine.post(f"/containers/{container}/kill", signal=signal_of(seen.plan))
    return True


def _due(places: Places, container: str, seen: Seen, now: float, started: float) -> tuple[str, Mapping[str, Any]]:
    limits = seen.plan.get("limits") or {}
    [step] = seen.plan["steps"]
    for limit_s in (limits.get("timeout_s"), step.get("timeout_s")):
        if limit_s is not None and now - started >= limit_s:
            return "limit", {"limit": "timeout", "limit_s": limit_s}
    if _is_life_over(seen, now - started):
        fresh = replace(seen, report=places.small(container, names.REPORT, reports.REPORT_LIMIT))
        if _is_life_over(fresh, now - started):  # nobody has lengthened it since we looked
            return "limit", {"limit": "life_span", "limit_s": life_span_s(fresh)}
    orphan_after_s = seen.plan.get("orphan_after_s")
    if orphan_after_s is None:
        return "", {}
    silence = now - max(started, renewed(places, container, seen.job_id))
    return ("orphan", {"orphaned_s": silence}) if silence >= orphan_after_s else ("", {})


def _is_life_over(seen: Seen, ran_s: float) -> bool:
    lasts = life_span_s(seen)
    return lasts is not None and ran_s >= lasts


def renewed(places: Places, container: str, job_id: str) -> float:
    """When somebody last said that the job is wanted; 0: never."""
    text = places.small(container, f"{names.LEASES}/{job_id}", 100).get(job_id, b"").partition(b" ")[0]
    try:
        return float(text)
    except ValueError:
        return 0.0


def signal_of(plan: Mapping[str, Any], given: str | None = None) -> str:
    """The signal that asks a command to end."""
    name = (given or str((plan.get("limits") or {}).get("signal") or "SIGTERM")).upper()
    return name if name.startswith("SIG") else f"SIG{name}"
