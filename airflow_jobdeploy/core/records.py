"""What the record of a job tells: its name, tags, owner and age; and which jobs somebody looks for.

A record is a row {"worker", "plan", "state"} as workers list their jobs (Backend.jobs), with the worker's name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.hostside import layout

Record = Mapping[str, Any]


def spec_of(plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of the job spec that were given (JobSpec.to_dict); empty for a build of a template."""
    spec: Mapping[str, Any] = (plan.get("description") or {}).get("spec") or {}
    return spec


def is_preemptible(plan: Mapping[str, Any]) -> bool:
    """May the job be stopped to make room: by its spec, its preset, or its template's options?"""
    return bool(spec_of(plan).get("preemptible") or (plan.get("description") or {}).get("preemptible"))


def owner_of(plan: Mapping[str, Any]) -> str:
    """Who started the job: the owner of its task, else an account of the machine that submitted it."""
    return str((plan.get("description") or {}).get("user") or "")


def name_of(plan: Mapping[str, Any]) -> str:
    return str(plan.get("name") or "")


def tags_of(plan: Mapping[str, Any]) -> frozenset[str]:
    return frozenset(map(str, spec_of(plan).get("tags") or ()))


def first_id(plan: Mapping[str, Any]) -> str:
    """The id of the job's first attempt: the same for all of its attempts."""
    return layout.job_id(str(plan.get("uid") or ""), 1)


def age_s(record: Record) -> float:
    """Seconds since the attempt was accepted."""
    return max((float(entry.get("ago_s") or 0) for entry in record["state"].get("history", ())), default=0.0)


def handle_of(record: Record, pool: str) -> JobHandle:
    """The handle of the attempt that a record is of."""
    plan, state = record["plan"], JobState.from_wire(record["state"])
    handle = JobHandle(
        uid=state.uid,
        job_id=str(plan.get("job_id") or state.job_id),
        attempt=state.attempt,
        key=str(JobKey(**plan.get("key", {}))),
        worker_pool=pool,
        worker=record["worker"],
        resource=str(plan.get("resource_id") or ""),
    )
    return handle.with_state(state)


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs are meant; what is empty or None does not matter. Ages in seconds."""

    statuses: frozenset[JobStatus] = frozenset()
    name: str = ""
    #: All of them.
    tags: frozenset[str] = frozenset()
    #: Any of them.
    owners: frozenset[str] = frozenset()
    youngest_s: float | None = None
    oldest_s: float | None = None

    def takes(self, record: Record, age: float | None = None) -> bool:
        """`age`: of the job, where its record is of a later attempt."""
        plan = record["plan"]
        seconds = age_s(record) if age is None else age
        return (
            (not self.statuses or JobStatus(record["state"]["status"]) in self.statuses)
            and self.name in ("", name_of(plan))
            and self.tags <= tags_of(plan)
            and (not self.owners or owner_of(plan) in self.owners)
            and (self.youngest_s is None or seconds >= self.youngest_s)
            and (self.oldest_s is None or seconds <= self.oldest_s)
        )


def by_job(records: Iterable[Record]) -> list[Sequence[Record]]:
    """The attempts of each job, the last one first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(str(record["plan"].get("uid")), []).append(record)
    return [sorted(attempts, key=lambda record: -int(record["plan"].get("attempt", 1))) for attempts in found.values()]
