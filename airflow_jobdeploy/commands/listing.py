"""`ls`: the jobs and resources of a pool, and which of them somebody looks for."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import Listing, Row, job_id, listing, open_pool, record_of, resource_id
from airflow_jobdeploy.commands.screen import Column, complain, print_data, print_plain, print_table, say
from airflow_jobdeploy.commands.values import UsageError, read_age_s
from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.records import JobFilter, age_s, owner_of, tags_of
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import nearest
from airflow_jobdeploy.service import Workers

#: Characters of an id in a table, more where that would name two.
_SHORT = 9


@command
def ls(args: Namespace) -> int:
    """List jobs and resources."""
    wanted = _wanted(args)
    with open_pool(args.worker_pool or "local") as workers:
        known = listing(workers)
        resources = [] if _looks_for_jobs(args) else _resources(workers, known, is_all=args.all)
        pool = workers.pool.name
    rows = [row for row in known.rows if wanted.takes(row)]
    if not wanted.statuses and not args.all:
        rows = [row for row in rows if not _is_over(row)]
    jobs = [job_record(row, pool) for row in rows[: args.limit]]
    _print_listing(args.output, jobs, resources, known)
    return PROBLEM if known.silent else 0


def _wanted(args: Namespace) -> JobFilter:
    """UsageError for words that mean nothing."""
    if args.limit is not None and args.limit < 1:
        raise UsageError(f"--limit: {args.limit} is no number of jobs; write 1 or more")
    return JobFilter(
        statuses=frozenset(_status(word) for given in args.status or () for word in given.split(",")),
        name=args.name or "",
        tags=frozenset(args.tag or ()),
        owners=frozenset(args.owner or ()),
        oldest_s=read_age_s(args.since, "--since"),
        youngest_s=read_age_s(args.until, "--until"),
    )


def _status(word: str) -> JobStatus:
    try:
        return JobStatus(word.strip())
    except ValueError:
        known = [status.value.lower() for status in JobStatus]
        near = nearest(word.strip().lower(), known) or f" They are {', '.join(known)}"
        raise UsageError(f"--status: {word!r} is no status.{near}") from None


def _looks_for_jobs(args: Namespace) -> bool:
    """Of resources neither name nor tags nor owner are known."""
    return bool(args.name or args.tag or args.owner or args.since or args.until or args.limit)


def _is_over(row: Row) -> bool:
    state = row["state"]
    return JobStatus(state["status"]).is_finished or bool(state.get("moved_to"))


def job_record(row: Row, pool: str) -> dict[str, Any]:
    """One job as programs get it (`ls --output json`)."""
    plan, state = row["plan"], row["state"]
    kept = ("status", "reason", "message", "exit_code", "attempt", "running_s", "moved_to")
    return {
        "job_id": job_id(row),
        "resource": resource_id(row),
        "name": str(plan.get("name") or ""),
        "build": str(plan.get("build") or ""),
        **{key: state.get(key) for key in kept},
        "worker_pool": str(plan.get("worker_pool") or pool),
        "worker": row["worker"],
        "owner": str(plan.get("owner") or "none"),
        "user": owner_of(plan),
        "tags": sorted(tags_of(plan)),
        "task": str(JobKey(**plan.get("key", {}))),
        "age_s": age_s(row),
    }


def _resources(workers: Workers, known: Listing, *, is_all: bool) -> list[dict[str, Any]]:
    """The resources that the jobs belong to: active ones, or all that have not been purged."""
    closed = {
        resource_id(row)
        for row in known.rows
        if row["plan"].get("build") in ("down", "purge") and row["state"]["status"] == "SUCCEEDED"
    }
    found: dict[str, dict[str, Any]] = {}
    for row in known.rows:
        resource = resource_id(row)
        if not resource or resource in found or (resource in closed and not is_all):
            continue
        record = record_of(workers, row["worker"], resource)
        if record is not None and (is_all or not record.get("stopped")):
            found[resource] = _resource_record(record, workers.pool.name, row["worker"])
    return list(found.values())


def _resource_record(record: Mapping[str, Any], pool: str, worker: str) -> dict[str, Any]:
    kept = ("template", "project", "params", "workdir", "jobs")
    return {
        "resource": record["id"],
        "state": "down" if record.get("stopped") else "active",
        **{key: record.get(key) for key in kept},
        "builds": record.get("build_names", []),
        "worker_pool": pool,
        "worker": worker,
        "age_s": record.get("created_ago_s"),
    }


def _print_listing(output: str, jobs: list[dict[str, Any]], resources: list[dict[str, Any]], known: Listing) -> None:
    if output in ("json", "yaml"):
        print_data({"jobs": jobs, "resources": resources, "silent": dict(known.silent)}, output)
        return
    if output == "plain":
        print_plain(jobs, _job_columns({}))
        return
    if jobs:
        print_table(jobs, _job_columns(_shortened(jobs) if sys.stdout.isatty() else {}))
    if resources:
        print("\n" * bool(jobs), end="")
        print_table(resources, _RESOURCE_COLUMNS)
    for worker, why in known.silent.items():
        complain(f"worker {worker} cannot be asked: {why}", "warning")
    if not jobs and not resources and not known.silent:
        say("No live jobs and no active resources (--all shows those that have ended).", "")


def _shortened(jobs: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Id -> its beginning, long enough to name one of them only."""
    ids = [job["job_id"] for job in jobs]
    length = next(n for n in range(_SHORT, 64) if len({name[:n] for name in ids}) == len(set(ids)))
    return {name: name[:length] for name in ids}


def _job_columns(short: Mapping[str, str]) -> list[Column]:
    return [
        Column(title="JOB", cell=lambda job: short.get(job["job_id"], job["job_id"])),
        Column(title="STATUS", cell=lambda job: str(job["status"]), word=True),
        Column(title="NAME", cell=lambda job: job["name"], cut=True),
        Column(title="AGE", cell=lambda job: duration(job["age_s"])),
        Column(title="RAN", cell=lambda job: "" if job["running_s"] is None else duration(job["running_s"])),
        Column(title="WORKER", cell=lambda job: job["worker"], cut=True),
        Column(title="RESOURCE", cell=lambda job: job["resource"], optional=True),
        Column(title="REASON", cell=_why, optional=True),
        Column(title="TASK", cell=lambda job: job["task"].partition("/")[2], cut=True, optional=True),
    ]


def _why(job: Mapping[str, Any]) -> str:
    code = f" {job['exit_code']}" if job["exit_code"] and job["reason"] == "ExitCode" else ""
    return f"{job['reason'] or ''}{code}"


_RESOURCE_COLUMNS = [
    Column(title="RESOURCE", cell=lambda resource: resource["resource"]),
    Column(title="STATE", cell=lambda resource: resource["state"], word=True),
    Column(title="TEMPLATE", cell=lambda resource: str(resource["template"]), cut=True),
    Column(title="AGE", cell=lambda resource: duration(resource["age_s"])),
    Column(title="WORKER", cell=lambda resource: resource["worker"], cut=True),
    Column(title="PROJECT", cell=lambda resource: str(resource["project"] or ""), cut=True, optional=True),
    Column(title="PARAMS", cell=lambda resource: pairs(resource["params"] or {}), cut=True, optional=True),
]


def pairs(params: Mapping[str, Any]) -> str:
    """ "epochs=3 name=digits" """
    return " ".join(f"{name}={value}" for name, value in params.items())
