"""`ls`, `status`, `view`: what the workers know."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.attending import Bell, described_files, detached
from airflow_jobdeploy.commands.frame import PROBLEM, command, exit_code
from airflow_jobdeploy.commands.lookup import (
    Found,
    Listing,
    Row,
    job_id,
    listing,
    locate,
    open_pool,
    resource_id,
)
from airflow_jobdeploy.commands.screen import (
    Column,
    complain,
    painted,
    print_data,
    print_facts,
    print_plain,
    print_table,
    say,
)
from airflow_jobdeploy.core.messages import metrics_text
from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.records import age_s
from airflow_jobdeploy.core.status import JobState, JobStatus, duration, size
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.packing import origin
from airflow_jobdeploy.service import Workers

#: Characters of an id in a table, more where that would name two.
_SHORT = 9
#: Past the end of any log: a job is followed without its log being read.
_NO_LOG = 1 << 62

# -- ls -------------------------------------------------------------------------------------------------------------


@command
def ls(args: Namespace) -> int:
    """List jobs and resources."""
    wanted = {word.upper() for given in args.status or () for word in given.split(",")}
    with open_pool(args.worker_pool or "local") as workers:
        known = listing(workers)
        resources = _resources(workers, known, is_all=args.all)
        pool = workers.pool.name
    jobs = [job_record(row, pool) for row in known.rows]
    if wanted:
        jobs = [job for job in jobs if job["status"] in wanted]
    elif not args.all:
        jobs = [job for job in jobs if not (JobStatus(job["status"]).is_finished or job["moved_to"])]
    _print_listing(args.output, jobs, resources, known)
    return PROBLEM if known.silent else 0


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
        record = _record_of(workers, row["worker"], resource)
        if record is not None and (is_all or not record.get("stopped")):
            found[resource] = _resource_record(record, workers.pool.name, row["worker"])
    return list(found.values())


def _record_of(workers: Workers, worker: str, resource: str) -> Mapping[str, Any] | None:
    try:
        return workers.backend(worker).resource(resource)
    except WorkerError as error:
        complain(f"worker {worker}: {error}", "warning")
        return None


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


# -- status ---------------------------------------------------------------------------------------------------------


@command
def status(args: Namespace) -> int:
    """Show how a job is."""
    with open_pool(args.worker_pool or "local") as workers:
        found = locate(workers, args.id)
        if not args.wait:
            _print_status(args.output, found, service.status(workers, found.handle))
            return 0
        with Bell(workers).armed() as bell:
            followed = service.follow(
                workers, found.handle, offset=_NO_LOG, say_log=say, say=say, interrupted=bell.rung
            )
    if not followed.over:
        return detached(found.handle, found.orphan_after_s)
    _print_status(args.output, found, followed.state)
    return exit_code(followed.state)


def _print_status(output: str, found: Found, state: JobState) -> None:
    if output in ("json", "yaml"):
        print_data(_status_record(found, state), output)
    else:
        print_facts(_facts(found, state))


def _status_record(found: Found, state: JobState) -> dict[str, Any]:
    handle, plan = found.handle, found.plan
    where = {"worker_pool": handle.worker_pool, "worker": handle.worker, "resource": handle.resource}
    return {"name": plan.get("name", ""), "build": plan.get("build", ""), **where, **state.to_dict()}


def _facts(found: Found, state: JobState) -> list[tuple[str, str]]:
    """What is worth knowing of a job at one glance."""
    handle, plan = found.handle, found.plan
    reason = f" ({state.reason})" if state.reason else ""
    dropped = f" ({size(state.log_dropped_bytes)} of it dropped)" if state.log_dropped_bytes else ""
    return [
        ("Job", f"{handle.job_id}, attempt {state.attempt}" if handle.job_id else ""),
        ("Name", str(plan.get("name", ""))),
        ("Status", f"{state.status}{reason}"),
        ("", state.message),
        ("Went on", _successor(state)),
        ("Worker", f"{handle.worker} (pool {handle.worker_pool})"),
        ("Resource", handle.resource),
        ("Task", handle.key),
        ("Code", _code(plan)),
        ("Accepted", f"{duration(age_s(found.row))} ago" if found.row else ""),
        ("Ran", _ran(state)),
        ("Metrics", metrics_text(state.messages.get("metrics") or {})),
        ("Log", f"{size(state.log_bytes)}{dropped}" if state.log_bytes else ""),
        ("Output", described_files(state) if state.artifacts.get("files") else ""),
        ("Result", "" if state.result is None else json.dumps(state.result, ensure_ascii=False)),
    ]


def _code(plan: Mapping[str, Any]) -> str:
    """ "commit 1a2b3c4d5e6f (main: Fix the loader), with uncommitted changes" """
    code = (plan.get("description") or {}).get("code") or {}
    said = origin.said(code) or (f"bundle {code['bundle']}" if code.get("bundle") else "")
    return said + (", with uncommitted changes" if code.get("dirty") else "")


def _successor(state: JobState) -> str:
    to = state.moved_to
    return f"as {to['job_id']}, attempt {to['attempt']} on worker {to['worker']}" if to else ""


def _ran(state: JobState) -> str:
    if state.running_s is None:
        return ""
    used = state.usage
    memory = f", {size(used['peak_memory_bytes'])} memory at most" if used.get("peak_memory_bytes") else ""
    cpu = f", {used['cpu_s']:.1f} CPU seconds" if used.get("cpu_s") is not None else ""
    return f"{duration(state.running_s)}{cpu}{memory}"


# -- view -----------------------------------------------------------------------------------------------------------


@command
def view(args: Namespace) -> int:
    """Show all that is recorded of a job."""
    with open_pool(args.worker_pool or "local") as workers:
        found = locate(workers, args.id)
        state = service.status(workers, found.handle)
        handle = found.handle
        record = _record_of(workers, handle.worker, handle.resource) if handle.resource else None
    if args.output in ("json", "yaml"):
        resource = None if record is None else dict(record)
        print_data({**_status_record(found, state), "plan": dict(found.plan), "resource_record": resource}, args.output)
        return 0
    print_facts(_facts(found, state))
    for title, facts in _sections(found, state, record or {}):
        told = [(label, text) for label, text in facts if text]
        if told:
            print("\n" + painted(title, "bold", sys.stdout))
            print_facts(told, indent="  ")
    return 0


def _sections(found: Found, state: JobState, record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    plan = found.plan
    described = plan.get("description") or {}
    history = [(f"{duration(h.get('ago_s'))} ago", _entry(h)) for h in state.history]
    limits = [_limit(name, value) for name, value in (plan.get("limits") or {}).items()]
    return [
        ("History", history),
        ("Params", _texts(record.get("params") or described.get("params") or {})),
        ("Spec", _texts(described.get("spec") or {})),
        ("Code", _of_code(described)),
        ("Limits", limits),
        (
            "Environment",
            [*_texts(plan.get("env") or {}), *((name, "(secret)") for name in plan.get("secret_names", ()))],
        ),
        ("Steps", [(str(step.get("name")), str(step.get("kind"))) for step in plan.get("steps", ())]),
        ("Resource", _of_resource(record)),
        ("Evidence", _texts({key: value for key, value in state.facts.items() if key != "last_lines"})),
        ("Record", [(key, str(plan.get(key) or "")) for key in ("uid", "owner", "workdir", "leftovers")]),
    ]


def _of_code(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All that is known of where the code is from."""
    code = described.get("code") or {}
    changes = ", ".join(map(str, code.get("changes") or ()))
    dag = described.get("dag_bundle") or {}
    return [
        *((key, str(code.get(key) or "")) for key in ("commit", "branch", "message", "url", "link", "bundle")),
        ("changes", changes),
        ("size", f"{code['files']} files, {size(code['bytes'])}" if "files" in code and "bytes" in code else ""),
        ("DAG bundle", f"{dag.get('name')} at {dag.get('version')}" if dag else ""),
    ]


def _entry(entry: Mapping[str, Any]) -> str:
    return f"{entry.get('status')}{' ' * bool(entry.get('reason'))}{entry.get('reason') or ''}"


def _limit(name: str, value: Any) -> tuple[str, str]:
    for unit, told in (("_s", duration), ("_bytes", size)):
        if name.endswith(unit) and value is not None:
            return name.removesuffix(unit), told(float(value))
    return name, "" if value is None else str(value)


def _texts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(str(name), "''" if value == "" else str(value)) for name, value in values.items()]


def _of_resource(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    if not record:
        return []
    stopped = record.get("stopped_ago_s")
    down = f"taken down {duration(stopped)} ago" if stopped is not None else "active"
    return [
        ("state", down),
        ("template", f"{record.get('template')} ({str(record.get('digest'))[:12]})"),
        ("created", f"{duration(record.get('created_ago_s'))} ago"),
        ("project", str(record.get("project") or "")),
        ("workdir", str(record.get("workdir") or "")),
        ("builds", ", ".join(record.get("build_names", ()))),
        ("jobs", ", ".join(record.get("jobs", ()))),
    ]
