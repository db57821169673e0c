"""`pools ls` and `pools test`: which worker pools there are, and whether their workers answer."""

from __future__ import annotations

from argparse import Namespace
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import open_pool, pool_named, pool_names
from airflow_jobdeploy.commands.screen import (
    Column,
    complain,
    print_data,
    print_plain,
    print_table,
)
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.sharing import Seen, shared, twice
from airflow_jobdeploy.core.standing import WorkerView
from airflow_jobdeploy.core.status import size
from airflow_jobdeploy.errors import JobDeployError, Problem, WorkerError
from airflow_jobdeploy.hooks.pools import worker_pool
from airflow_jobdeploy.service.survey import view_of

_AT_ONCE = 16


@command
def ls(args: Namespace) -> int:
    """List the pools."""
    names = pool_names()
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


def _row(name: str) -> dict[str, Any]:
    try:
        pool = worker_pool(name)
    except JobDeployError as error:
        return {"worker_pool": name, "kind": "", "workers": [], "root": "", "error": str(error)}
    workers = [{"name": worker.name, "slots": worker.slots} for worker in pool.workers]
    root = "" if pool.kind == "docker" else pool.root  # an engine knows its own
    return {"worker_pool": name, "kind": pool.kind, "workers": workers, "root": root, "error": ""}


_POOL_COLUMNS = [
    Column(title="POOL", cell=lambda row: row["worker_pool"]),
    Column(title="KIND", cell=lambda row: row["kind"]),
    Column(title="WORKERS", cell=lambda row: _workers(row["workers"]), cut=True),
    Column(title="ROOT", cell=lambda row: row["root"], cut=True, optional=True),
    Column(title="WRONG", cell=lambda row: " ".join(row["error"].split()), cut=True, optional=True),
]


def _workers(workers: list[Mapping[str, Any]]) -> str:
    names = [f"{w['name']} ({w['slots']} slots)" if w["slots"] else str(w["name"]) for w in workers]
    return f"{len(names)}: {', '.join(names)}" if names else ""


# -- test -----------------------------------------------------------------------------------------------------------


@command
def test(args: Namespace) -> int:
    """Ask every worker of pools who it is, and whether two of them are the same machine."""
    wrong: list[JobDeployError] = []
    pools = _named(args.worker_pools, wrong) if args.worker_pools else _all(wrong)
    asked = [(pool, worker) for pool in pools for worker in pool.workers]
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        greeted = list(executor.map(lambda each: _greeted(*each), asked))
    rows = [row for row, _ in greeted]
    problems = _seen_twice([Seen(pool, view) for (pool, _), (_, view) in zip(asked, greeted, strict=True) if view])
    if args.output in ("json", "yaml"):
        print_data(rows, args.output)
    else:
        columns = _WORKER_COLUMNS if len(pools) > 1 else _WORKER_COLUMNS[1:]
        if rows or not wrong:
            (print_plain if args.output == "plain" else print_table)(rows, columns)
        for row in rows:
            for warning in row.get("warnings", ()):
                complain(f"worker {row['worker']}: {warning}", "warning")
            if row["error"]:
                complain(row["error"])
    for problem in (*problems, *wrong):
        complain(str(problem))
    return PROBLEM if problems or wrong or any(row["error"] for row in rows) else 0


def _named(names: list[str], wrong: list[JobDeployError]) -> list[WorkerPool]:
    """Those of these names; what is wrong with others goes to `wrong`."""
    found = []
    for name in dict.fromkeys(names):
        try:
            found.append(pool_named(name))
        except JobDeployError as error:
            wrong.append(error)
    return found


def _all(wrong: list[JobDeployError]) -> list[WorkerPool]:
    """`local`, and all pools of connections. What is wrong with others goes to `wrong`; a registry is none."""
    found = []
    for name, kind in pool_names().items():
        try:
            found.append(worker_pool(name))
        except JobDeployError as error:
            if kind != "docker":
                wrong.append(error)
    return found


def _seen_twice(seen: list[Seen]) -> list[Problem]:
    pools = {each.pool.name: each.pool for each in seen}
    own = [twice(pool, [each.view for each in seen if each.pool.name == name]) for name, pool in pools.items()]
    return [*(problem for problems in own for problem in problems), *shared(seen)]


def _greeted(pool: WorkerPool, worker: Worker) -> tuple[dict[str, Any], WorkerView | None]:
    """What a worker says of itself, as a row; and as placement sees it, where it can be asked."""
    row: dict[str, Any] = {"worker_pool": pool.name, "worker": worker.name}
    with open_pool(replace(pool, workers=(worker,))) as workers:
        try:
            backend = workers.backend(worker.name)
            facts, view = backend.facts(), view_of(worker, backend)
        except WorkerError as error:
            return {**row, "state": "silent", "error": str(error)}, None
    assert view.room is not None
    told = {name: getattr(facts, name) for name in facts.__dataclass_fields__ if name not in ("worker", "extra")}
    told["gpus"] = list(view.room.capacity.get("gpus") or told["gpus"])
    told["warnings"] = list(dict.fromkeys((*facts.warnings, *view.room.warnings)))
    state = "cordoned" if facts.cordoned else "ok"
    return {**row, "state": state, "error": "", **told}, view


def _amount(name: str) -> Any:
    return lambda row: size(row[name]) if row.get(name) else ""


def _account(row: Mapping[str, Any]) -> str:
    """An engine has no account, but a machine."""
    return "@".join(filter(None, (row.get("user"), row.get("hostname"))))


def _gpus(row: Mapping[str, Any]) -> str:
    models = Counter(str(gpu.get("model") or "GPU") for gpu in row.get("gpus", ()))
    return ", ".join(f"{count} {model}" for model, count in models.items())


_WORKER_COLUMNS = [
    Column(title="POOL", cell=lambda row: row["worker_pool"]),
    Column(title="WORKER", cell=lambda row: row["worker"], cut=True),
    Column(title="STATE", cell=lambda row: row["state"], word=True),
    Column(title="ACCOUNT", cell=_account, cut=True),
    Column(title="JOBS", cell=lambda row: str(row.get("live_jobs", ""))),
    Column(title="CPUS", cell=lambda row: f"{row['cpu_count']:g}" if row.get("cpu_count") else ""),
    Column(title="MEMORY", cell=_amount("memory_bytes")),
    Column(title="DISK FREE", cell=_amount("disk_free_bytes"), optional=True),
    Column(title="GPUS", cell=_gpus, optional=True),
    Column(title="PYTHON", cell=lambda row: row.get("python", ""), optional=True),
    Column(title="ROOT", cell=lambda row: row.get("root", ""), cut=True, optional=True),
]
