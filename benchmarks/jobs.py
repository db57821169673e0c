"""Jobs for the rows that need some: started on the far side, named by their handles."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Environment, Limits, Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobHandle, JobState
from benchmarks.lab import CONN

Say = Callable[[str], None]


@contextmanager
def backend(pool: str = CONN, worker: str = CONN) -> Iterator[Backend]:
    """The host, over one connection."""
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    with JobDeployHook(pool).get_conn() as workers:
        yield workers.backend(worker)


def start(
    host: Backend, command: str, pool: str = CONN, *, worker: str = CONN, environment: Environment | None = None
) -> JobHandle:
    """Start a job of one shell command."""
    plan = Plan(
        uid=new_uid(),
        steps=(Step(name="job", kind="shell", content=command),),
        worker_pool=pool,
        worker=worker,
        limits=Limits(grace_s=1.0),
        environment=environment,
    )
    host.claim(plan)
    state = host.start(plan.job_id)
    handle = JobHandle(
        uid=plan.uid,
        job_id=plan.job_id,
        attempt=1,
        key="",
        worker_pool=pool,
        worker=worker,
        machine=host.facts().machine,
    )
    return handle.with_state(state)


def start_many(
    host: Backend, command: str, count: int, say: Say, *, pool: str = CONN, worker: str = CONN
) -> list[JobHandle]:
    """Many of the same."""
    handles = []
    for number in range(1, count + 1):
        handles.append(start(host, command, pool, worker=worker))
        if number % 100 == 0:
            say(f"{number} of {count} jobs started")
    return handles


def until(host: Backend, job_id: str, holds: Callable[[JobState], bool], limit_s: float = 60.0) -> JobState:
    """Watch a job until `holds`; its state then."""
    state = host.poll([job_id])[job_id]
    for _ in range(int(limit_s)):
        if holds(state):
            return state
        state = host.watch([job_id], 1.0).get(job_id, state)
    raise RuntimeError(f"job {job_id} is {state.status} ({state.phase}) after {limit_s} s: {state.message}")


def finished(host: Backend, job_id: str) -> JobState:
    """Wait for a job's end."""
    return until(host, job_id, lambda state: state.status.is_finished, limit_s=300.0)


def stop_all(host: Backend, handles: Sequence[JobHandle]) -> None:
    """Order all ends, then forget those that ended well-behaved."""
    for handle in handles:
        host.stop(handle.job_id, reason="measured", grace_s=0.0)
    for handle in handles:
        finished(host, handle.job_id)
        host.forget(handle.job_id)


def supervisor_pid(root: Path, job_id: str) -> int:
    """Who supervises the job, as its record says."""
    (state,) = root.glob(f"hosts/*/jobs/{job_id}/state.json")
    return int(json.loads(state.read_text())["pid"])


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def as_json(handles: Sequence[JobHandle]) -> list[dict[str, Any]]:
    """For a process apart."""
    return [handle.to_dict() for handle in handles]
