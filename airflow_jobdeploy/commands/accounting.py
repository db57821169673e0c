"""`pools ls --usage` and `pools sync`: who uses the GPUs of pools, and Airflow's own pools made to match them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import listing, open_pool, pool_named
from airflow_jobdeploy.commands.screen import Column, complain, print_data, print_plain, print_table, say
from airflow_jobdeploy.core.standing import WorkerView
from airflow_jobdeploy.core.usage import usage_of
from airflow_jobdeploy.errors import JobDeployError, PoolError
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.hooks.connect import backend
from airflow_jobdeploy.service.survey import gpu_count, survey

#: Before the name of a worker pool: the Airflow pool that goes with it.
PREFIX = "jobdeploy."


def show_usage(names: list[str], output: str) -> int:
    """Print what the jobs came to that the workers of these pools still know."""
    rows, code = [], 0
    for name in names:
        try:
            with open_pool(name) as workers:
                known = listing(workers)
        except JobDeployError as error:
            complain(str(error) if isinstance(error, PoolError) else f"worker pool {name}: {error}")
            code = PROBLEM
            continue
        for worker, why in known.silent.items():
            complain(f"worker {worker} cannot be asked: {why}", "warning")
            code = PROBLEM
        rows += [{"worker_pool": name, **usage.to_dict()} for usage in usage_of(known.rows)]
    if output in ("json", "yaml"):
        print_data(rows, output)
    else:
        (print_plain if output == "plain" else print_table)(rows, _USAGE_COLUMNS)
    return code


_USAGE_COLUMNS = [
    Column(title="POOL", cell=lambda row: row["worker_pool"]),
    Column(title="OWNER", cell=lambda row: row["owner"] or "(nobody)", cut=True),
    Column(title="TEAM", cell=lambda row: row["team"], cut=True, optional=True),
    Column(title="GPUS NOW", cell=lambda row: str(row["gpus_now"])),
    Column(title="GPU HOURS", cell=lambda row: f"{row['gpu_hours']:.2f}"),
    Column(title="JOBS", cell=lambda row: str(row["jobs"])),
]


# -- sync --------------------------------------------------------------------------------------------------------------


@command
def sync(args: Namespace) -> int:
    """Keep an Airflow pool for each worker pool: a slot for each GPU."""
    try:
        names = args.pools or sorted(runtime.connections_of_type("jobdeploy"))
        rows = [_synced(name) for name in names]
    except OSError as error:
        complain(f"the metadata database, where Airflow keeps its pools, cannot be used: {error}")
        return PROBLEM
    if not names:
        say("There is no connection of type jobdeploy: name the worker pools.", "")
        return 0
    if args.output in ("json", "yaml"):
        print_data(rows, args.output)
    else:
        (print_plain if args.output == "plain" else print_table)(rows, _SYNC_COLUMNS)
    for row in rows:
        for worker, why in row["silent"].items():
            complain(f"worker {worker}: its GPUs are not counted: {why}", "warning")
        if row["error"]:
            complain(row["error"])
    return PROBLEM if any(row["error"] or row["silent"] for row in rows) else 0


def _synced(name: str) -> dict[str, Any]:
    row: dict[str, Any] = {"worker_pool": name, "airflow_pool": "", "gpus": 0, "slots": None, "silent": {}, "error": ""}
    try:
        pool = pool_named(name)
        views = survey(pool, lambda worker: backend(pool, worker))
    except JobDeployError as error:
        return {**row, "error": str(error)}
    row["silent"] = {view.name: why for view in views if (why := _uncounted(view))}
    row["gpus"] = sum(map(gpu_count, views))
    before = runtime.airflow_pool_slots(PREFIX + name)
    # What cannot be asked is no reason to take slots away.
    slots = max(row["gpus"], before or 0) if row["silent"] else row["gpus"]
    if not slots and before is None:
        return row
    runtime.keep_airflow_pool(PREFIX + name, slots, f"A slot for each GPU of worker pool {name}.")
    return {**row, "airflow_pool": PREFIX + name, "slots": slots}


def _uncounted(view: WorkerView) -> str:
    """Why it is not known how many GPUs a worker has; "" when it is."""
    return view.trouble if view.room is None else str(view.room.capacity.get("gpus_unknown") or "")


def _slots(row: Mapping[str, Any]) -> str:
    if row["error"]:
        return ""
    return "no GPUs" if row["slots"] is None else str(row["slots"])


_SYNC_COLUMNS = [
    Column(title="POOL", cell=lambda row: row["worker_pool"]),
    Column(title="AIRFLOW POOL", cell=lambda row: row["airflow_pool"]),
    Column(title="GPUS", cell=lambda row: "" if row["error"] else str(row["gpus"])),
    Column(title="SLOTS", cell=_slots),
]
