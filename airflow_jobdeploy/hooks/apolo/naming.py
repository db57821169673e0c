"""A name stands for one live job of an owner, as Apolo has it, though nobody keeps a list of names.

Each submitter claims first and then looks: of two at once at least one sees the other. One that has started wins; of
two that have not, the one with the smaller uid, which waits until the other has given up, or has started after all.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from airflow_jobdeploy import service
from airflow_jobdeploy.core.records import Record, name_of, owner_of
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.service import Workers

#: How long a rival may lie claimed, neither started nor given up, before its submitter counts as dead, in seconds.
PATIENCE_S = 20.0


def check_free(workers: Workers, name: str, owner: str, warn: Callable[[str], None]) -> None:
    """JobDeployError, in Apolo's words, when a live job has the name. A silent worker is no reason not to start."""
    for rival in _rivals(workers, name, owner, "", warn):
        raise _taken(name, owner, rival)


def hold(workers: Workers, name: str, owner: str, handle: JobHandle) -> None:
    """Called between claim and start: the name is ours when this returns, else the claim is undone and it raises."""
    try:
        _settle(workers, name, owner, handle)
    except JobDeployError:
        backend = workers.backend(handle.worker)
        backend.stop(handle.job_id, reason=f"another job is called {name}", by=owner)
        backend.forget(handle.job_id)
        raise


def _settle(workers: Workers, name: str, owner: str, handle: JobHandle) -> None:
    until = time.monotonic() + PATIENCE_S
    while True:
        rivals = _rivals(workers, name, owner, handle.uid, lambda text: None)
        for rival in rivals:
            if rival["state"].get("phase") != "claimed" or str(rival["plan"]["uid"]) < handle.uid:
                raise _taken(name, owner, rival)
        left_s = until - time.monotonic()
        if not rivals or left_s <= 0:
            return
        workers.backend(rivals[0]["worker"]).watch([rivals[0]["plan"]["job_id"]], min(1.0, left_s))


def _rivals(workers: Workers, name: str, owner: str, uid: str, warn: Callable[[str], None]) -> list[Record]:
    """Live jobs of that name and owner, but for our own."""
    found: list[Record] = []
    for row in service.jobs(workers, live_only=True):
        if "error" in row:
            warn(f"worker {row['worker']} cannot be asked whether a job there is called {name!r}: {row['error']}")
            continue
        plan = row["plan"]
        if (name_of(plan), owner_of(plan)) == (name, owner) and plan.get("uid") != uid and not row["state"]["moved_to"]:
            found.append(row)
    return found


def _taken(name: str, owner: str, rival: Record) -> JobDeployError:
    found = rival["plan"]["job_id"]
    return JobDeployError(f"job with name '{name}' and owner '{owner}' already exists: '{found}'")
