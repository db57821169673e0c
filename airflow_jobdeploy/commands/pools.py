"""`pools ls` and `pools test`: which worker pools there are, and whether their workers answer."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import open_pool, pool_named
from airflow_jobdeploy.commands.screen import (
    Column,
    complain,
    print_data,
    print_plain,
    print_table,
)
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import size
from airflow_jobdeploy.errors import JobDeployError, WorkerError
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.hooks.pools import worker_pool

_TYPES = ("jobdeploy", "ssh", "docker")
_ENV = "AIRFLOW_CONN_"
_AT_ONCE = 16


@command
def ls(args: Namespace) -> int:
    """List the pools."""
    names = {"local": "", **_from_environment()}
    try:
        names.update(runtime.connections_of_type(*_TYPES))
    except OSError as error:
        complain(f"the metadata database cannot be read, so its connections are not known: {error}", "warning")
    if args.usage:
        return _usage(args, [name for name, kind in names.items() if kind in ("", "jobdeploy")])
    rows = [_row(name) for name in names]
    # A docker connection is a registry, unless its host is an engine.
    rows = [row for row in rows if not (row["error"] and names[row["worker_pool"]] == "docker")]
    if args.output in ("json", "yaml"):
        print_data(rows, args.output)
    else:
        (print_plain if args.output == "plain" else print_table)(rows, _POOL_COLUMNS)
    return 0


def _usage(args: Namespace, names: list[str]) -> int:
    from airflow_jobdeploy.commands.accounting import show_usage

    return show_usage([args.worker_pool] if args.worker_pool else names, args.output)


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


def _row(name: str) -> dict[str, Any]:
    try:
        pool = worker_pool(name)
    except JobDeployError as error:
        return {"worker_pool": name, "kind": "", "workers": [], "root": "", "error": str(error)}
    workers = [{"name": worker.name, "slots": worker.slots} for worker in pool.workers]
    return {"worker_pool": name, "kind": pool.kind, "workers": workers, "root": pool.root, "error": ""}


_POOL_COLUMNS = [
    Column(title="POOL", cell=lambda row: row["worker_pool"]),
    Column(title="KIND", cell=lambda row: row["kind"]),
    Column(title="WORKERS", cell=lambda row: _workers(row["workers"]), cut=True),
    Column(title="ROOT", cell=lambda row: row["root"], cut=True, optional=True),
    Column(title="WRONG", cell=lambda row: row["error"], cut=True, optional=True),
]


def _workers(workers: list[Mapping[str, Any]]) -> str:
    names = [f"{w['name']} ({w['slots']} slots)" if w["slots"] else str(w["name"]) for w in workers]
    return f"{len(names)}: {', '.join(names)}" if names else ""


# -- test -----------------------------------------------------------------------------------------------------------


@command
def test(args: Namespace) -> int:
    """Ask every worker of a pool who it is."""
    pool = pool_named(args.worker_pool)
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        rows = list(executor.map(lambda worker: _greeted(pool, worker), pool.workers))
    if args.output in ("json", "yaml"):
        print_data(rows, args.output)
    else:
        (print_plain if args.output == "plain" else print_table)(rows, _WORKER_COLUMNS)
        for row in rows:
            for warning in row.get("warnings", ()):
                complain(f"worker {row['worker']}: {warning}", "warning")
            if row["error"]:
                complain(row["error"])
    return PROBLEM if any(row["error"] for row in rows) else 0


def _greeted(pool: WorkerPool, worker: Worker) -> dict[str, Any]:
    with open_pool(replace(pool, workers=(worker,))) as workers:
        try:
            facts = workers.backend(worker.name).facts()
        except WorkerError as error:
            return {"worker": worker.name, "state": "silent", "error": str(error)}
    told = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name not in ("worker", "extra")}
    state = "cordoned" if facts.cordoned else "ok"
    return {"worker": worker.name, "state": state, "error": "", **told, "warnings": list(facts.warnings)}


def _amount(name: str) -> Any:
    return lambda row: size(row[name]) if row.get(name) else ""


_WORKER_COLUMNS = [
    Column(title="WORKER", cell=lambda row: row["worker"], cut=True),
    Column(title="STATE", cell=lambda row: row["state"], word=True),
    Column(
        title="ACCOUNT", cell=lambda row: f"{row['user']}@{row['hostname']}" if row.get("hostname") else "", cut=True
    ),
    Column(title="JOBS", cell=lambda row: str(row.get("live_jobs", ""))),
    Column(title="CPUS", cell=lambda row: f"{row['cpu_count']:g}" if row.get("cpu_count") else ""),
    Column(title="MEMORY", cell=_amount("memory_bytes")),
    Column(title="DISK FREE", cell=_amount("disk_free_bytes")),
    Column(title="PYTHON", cell=lambda row: row.get("python", ""), optional=True),
    Column(title="ROOT", cell=lambda row: row.get("root", ""), cut=True, optional=True),
]
