"""`pools gc`: what nobody needs on a pool's workers, removed or only shown."""

from __future__ import annotations

from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import open_pool, pool_named
from airflow_jobdeploy.commands.screen import Column, complain, print_data, print_plain, print_table
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.words import counted, duration, size
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hooks.deployment import known_deployment

_AT_ONCE = 16

_COLUMNS = [
    Column(title="WORKER", cell=lambda row: row["worker"], cut=True, optional=True),
    Column(title="KIND", cell=lambda row: row["kind"]),
    Column(title="NAME", cell=lambda row: row["name"]),
    Column(title="SIZE", cell=lambda row: size(row["bytes"]) if row["bytes"] else ""),
    Column(title="AGE", cell=lambda row: duration(row["age_s"]) if row["age_s"] else ""),
    Column(title="WHY", cell=lambda row: row["why"], cut=True),
]


@command
def gc(args: Namespace) -> int:
    """Remove what nobody needs, or show it."""
    pool = pool_named(args.worker_pool)
    ours = known_deployment()
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        answers = list(executor.map(lambda worker: _of_one(pool, worker, ours, args.dry_run), pool.workers))
    rows = [row for found, _ in answers for row in found]
    silent = [error for _, error in answers if error]
    if args.output in ("json", "yaml"):
        print_data(rows, args.output)
    elif rows or not silent:
        (print_plain if args.output == "plain" else print_table)(rows, _COLUMNS)
    for error in silent:
        complain(error)
    if args.output not in ("json", "yaml") and len(silent) < len(pool.workers):
        complain(_summary(rows, args.dry_run) + (" from the others." if silent else "."), "note")
    return PROBLEM if silent else 0


def _summary(rows: list[dict[str, Any]], dry_run: bool) -> str:
    if not rows:
        return "Nothing is to go"
    total = sum(row["bytes"] for row in rows)
    what = counted(len(rows), "thing") + (f" ({size(total)})" if total else "")
    return f"{what} would go" if dry_run else f"{what} went"


def _of_one(pool: WorkerPool, worker: Worker, ours: str, dry_run: bool) -> tuple[list[dict[str, Any]], str]:
    """(what goes of a worker, why it could not be asked)"""
    with open_pool(replace(pool, workers=(worker,))) as workers:
        try:
            found = workers.backend(worker.name).collect(dry_run=dry_run, deployment=ours)
        except WorkerError as error:
            return [], f"worker {worker.name}: {error}"
    return [{"worker": worker.name, **asdict(item)} for item in found], ""
