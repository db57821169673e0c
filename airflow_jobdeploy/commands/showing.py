"""`status`, `view`: what a worker knows of a job."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.attending import Bell, described_files, detached
from airflow_jobdeploy.commands.frame import command, exit_code
from airflow_jobdeploy.commands.lookup import (
    Found,
    locate,
    open_pool,
    record_of,
)
from airflow_jobdeploy.commands.screen import (
    painted,
    print_data,
    print_facts,
    say,
)
from airflow_jobdeploy.core.messages import metrics_text
from airflow_jobdeploy.core.records import age_s
from airflow_jobdeploy.core.status import JobState, duration, size
from airflow_jobdeploy.packing import origin

#: Past the end of any log: a job is followed without its log being read.
_NO_LOG = 1 << 62

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
        print_facts([*_facts(found, state), *_told(state)])


def _told(state: JobState) -> list[tuple[str, str]]:
    """Its history, the label at the first line."""
    lines = _history(state)
    return [("History" * (not number), f"{ago}: {entry}") for number, (ago, entry) in enumerate(lines)]


def _history(state: JobState) -> list[tuple[str, str]]:
    return [(f"{duration(h.get('ago_s'))} ago", _entry(h)) for h in state.history]


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
        record = record_of(workers, handle.worker, handle.resource) if handle.resource else None
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
    limits = [_limit(name, value) for name, value in (plan.get("limits") or {}).items()]
    return [
        ("History", _history(state)),
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
