"""From what a person types to a job: a pool by name, a job or resource by the beginning of its id.

A resource id stands for the `up` job that made it; commands that are about the resource take either.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.screen import complain
from airflow_jobdeploy.core.plan import Limits
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.records import age_s, handle_of
from airflow_jobdeploy.core.status import JobHandle, JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.service import Workers

if TYPE_CHECKING:
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

#: The shortest beginning of an id that is looked for.
LEAST = 4
#: Connections that are pools, and the environment's names of them.
_TYPES, _ENV = ("jobdeploy", "ssh", "docker"), "AIRFLOW_CONN_"

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What the workers of a pool know: rows {"worker", "plan", "state"}, newest first; those that did not answer."""

    rows: tuple[Row, ...]
    #: worker -> why
    silent: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Found:
    """A job that was looked for. `row`: as its worker listed it; empty when only its resource is still known."""

    handle: JobHandle
    row: Row = field(default_factory=dict)

    @property
    def plan(self) -> Mapping[str, Any]:
        plan: Mapping[str, Any] = self.row.get("plan", {})
        return plan

    @property
    def orphan_after_s(self) -> float | None:
        """The silence after which the job stops itself; None: it goes on."""
        seconds: float | None = self.plan.get("orphan_after_s")
        return seconds

    @property
    def grace_s(self) -> float:
        """From the order to stop to KILL."""
        return float(self.plan.get("limits", {}).get("grace_s") or Limits.grace_s)


def pool_named(name: str) -> WorkerPool:
    """The pool, read from its connection. PoolError."""
    from airflow_jobdeploy.hooks.pools import worker_pool

    return worker_pool(name, known=pool_names)


def hook_of(name: str) -> JobDeployHook:
    """The hook of a pool that is there. PoolError."""
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    hook = JobDeployHook(name)
    hook.pool = pool_named(name)
    return hook


def pool_names() -> dict[str, str]:
    """All names that may be a pool's -> the type of the connection. Warns where the database cannot be read."""
    names = {"local": "", **_from_environment()}
    try:
        names.update(runtime.connections_of_type(*_TYPES))
    except OSError as error:
        complain(f"the metadata database cannot be read, so its connections are not known: {error}", "warning")
    return names


def _from_environment() -> dict[str, str]:
    """Connection id -> type, of those given as AIRFLOW_CONN_<ID> (a JSON object or a URI); ids are lower case there."""
    found = {}
    for key, value in os.environ.items():
        conn_type = _type_of(value) if key.startswith(_ENV) else ""
        if conn_type in _TYPES:
            found[key.removeprefix(_ENV).lower()] = conn_type
    return found


def _type_of(value: str) -> str:
    try:
        given = json.loads(value)
    except ValueError:
        return urlsplit(value).scheme
    return str(given.get("conn_type", "")) if isinstance(given, dict) else ""


def open_pool(pool: WorkerPool | str) -> Workers:
    """A pool's workers; a context manager."""
    from airflow_jobdeploy.hooks.connect import backend

    known = pool_named(pool) if isinstance(pool, str) else pool
    return Workers(known, lambda worker: backend(known, worker))


def listing(workers: Workers) -> Listing:
    """The records of all workers of a pool, which are asked at the same time."""
    rows = service.jobs(workers)
    silent = {row["worker"]: row["error"] for row in rows if "error" in row}
    return Listing(rows=tuple(sorted((row for row in rows if "plan" in row), key=age_s)), silent=silent)


def job_id(row: Row) -> str:
    return str(row["plan"].get("job_id") or row["state"].get("job_id"))


def is_job_id(text: str) -> bool:
    """Is this a whole job id (hostside.layout.job_id)?"""
    return re.fullmatch(r"j[a-z2-7]{20}", text) is not None


def resource_id(row: Row) -> str:
    """The resource that a job belongs to, or ""."""
    return str(row["plan"].get("resource_id") or "")


# -- ids ------------------------------------------------------------------------------------------------------------


def locate(workers: Workers, given: str, known: Listing | None = None) -> Found:
    """The job that an id, or the beginning of one, names. WorkerError when none is, or several are."""
    known = known or listing(workers)
    name = given.strip().lower()
    targets = _targets(known.rows, name)
    if len(targets) == 1:
        (row,) = targets.values()
        return Found(handle=handle_of(row, workers.pool.name), row=row)
    if targets:
        raise WorkerError(_ambiguous(given, workers.pool.name, targets))
    alone = _resource_alone(workers, name, known)
    if alone is None:
        raise WorkerError(_nothing(given, workers.pool.name, known))
    return Found(handle=alone)


def _targets(rows: Sequence[Row], name: str) -> dict[str, Row]:
    """Id -> job, of all that `name` may mean; an exact id means itself."""
    ups = _by_resource(rows)
    named = {**ups, **{job_id(row): row for row in rows}}
    if name in named:
        return {name: named[name]}
    if len(name) < LEAST:
        return {}
    return {full: row for full, row in named.items() if full.startswith(name)}


def _by_resource(rows: Sequence[Row]) -> dict[str, Row]:
    """Resource -> its newest `up` job, else its newest job."""
    found: dict[str, Row] = {}
    for row in rows:
        resource = resource_id(row)
        if resource and (resource not in found or (_is_up(row) and not _is_up(found[resource]))):
            found[resource] = row
    return found


def _is_up(row: Row) -> bool:
    return bool(row["plan"].get("build") == "up")


def _ambiguous(given: str, pool: str, targets: Mapping[str, Row]) -> str:
    lines = [f"  {full}  {row['state']['status']}  {row['plan'].get('name', '')}" for full, row in targets.items()]
    return f"{given!r} is the beginning of {len(lines)} ids in pool {pool!r}. Give more of it:\n" + "\n".join(lines)


def _nothing(given: str, pool: str, known: Listing) -> str:
    text = f"there is no job or resource {given!r} in pool {pool!r}"
    if len(given.strip()) < LEAST:
        text += f", and the beginning of an id is at least {LEAST} characters"
    for worker, why in known.silent.items():
        text += f"\n  worker {worker} cannot be asked: {why}"
    return f"{text}. `airflow jobdeploy ls --all --worker-pool {pool}` lists them" if not known.silent else text


def _resource_alone(workers: Workers, name: str, known: Listing) -> JobHandle | None:
    """The handle of a resource whose jobs were all forgotten; None when no worker knows it."""
    if not (name.isalnum() and len(name) == 8):
        return None
    for worker in workers.pool.workers:
        if worker.name in known.silent:
            continue
        record = workers.backend(worker.name).resource(name)
        if record is not None:
            return JobHandle(
                uid="",
                job_id=(record.get("jobs") or [""])[-1],
                attempt=1,
                key="",
                worker_pool=workers.pool.name,
                worker=worker.name,
                status=JobStatus.UNKNOWN.value,
                reason=Reason.RECORD_MISSING.value,
                message="The record of its job was forgotten.",
                resource=name,
            )
    return None


def record_of(workers: Workers, worker: str, resource: str) -> Mapping[str, Any] | None:
    """The record of a resource; None, with a warning, where its worker cannot be asked."""
    try:
        return workers.backend(worker).resource(resource)
    except WorkerError as error:
        complain(f"worker {worker}: {error}", "warning")
        return None
