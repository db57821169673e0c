"""What an `up` leaves on its worker: a record and all builds as they were rendered, until `purge`."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

from airflow_jobdeploy.hostside import files, layout
from airflow_jobdeploy.hostside.jobdir import check_layout, stamp
from airflow_jobdeploy.hostside.layout import HostPaths


@contextmanager
def _locked(directory: str) -> Iterator[None]:
    lock = files.Lock(os.path.join(directory, "lock"))
    lock.take(wait_s=10.0)
    try:
        yield
    finally:
        lock.release()


def record(host: HostPaths, resource: str) -> Optional[dict]:
    """The record, or None. Damaged, NewerLayout."""
    found = files.read_json(host.resource(resource).record)
    if found is not None:
        check_layout(found, host.resource(resource).dir)
    return found


def builds(host: HostPaths, resource: str) -> Dict[str, List[dict]]:
    """Build name -> its steps, as stored at `up`."""
    return files.read_json(host.resource(resource).builds) or {}


def make(host: HostPaths, plan: dict, workdir: str) -> None:
    """Write, or bring up to date, the resource that an `up` is about to make. The same job again changes nothing.

    `workdir`: the absolute working directory of its builds; "" for one of the resource's own.
    """
    resource = plan["resource"]
    paths = host.resource(resource["id"])
    files.private_dir(paths.dir)
    with _locked(paths.dir):
        known: Dict[str, Any] = record(host, resource["id"]) or {}
        jobs = known.get("jobs", [])
        if plan["job_id"] in jobs:
            return
        files.write_json(paths.builds, resource["builds"])
        taken = {key: value for key, value in resource.items() if key != "builds"}
        fresh = {
            **taken,
            "layout": layout.LAYOUT,
            "build_names": sorted(resource["builds"]),
            "created": known.get("created") or stamp(),
            "stopped": None,
            "workdir": workdir or paths.work,
            "jobs": [*jobs, plan["job_id"]],
        }
        files.write_json(paths.record, fresh, sync=True)


def mark_stopped(host: HostPaths, resource: str) -> None:
    """A `down` has succeeded: the resource is no longer active."""
    paths = host.resource(resource)
    with _locked(paths.dir):
        known = record(host, resource)
        if known is not None and not known.get("stopped"):
            files.write_json(paths.record, {**known, "stopped": stamp()})
