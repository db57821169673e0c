"""Ask workers about jobs, and tell them to stop."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus, Reason
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import (
    JobCancelled,
    JobFailed,
    JobTimedOut,
    WorkerChanged,
    WorkerError,
    WorkerLost,
    WorkerUnreachable,
)
from airflow_jobdeploy.service.workers import Workers

#: Who stops jobs that have lost their tasks, as their records have it.
REAPER = "the reaper"
#: How long a stop is waited for beyond the job's grace before "verified" is given up.
STOP_MARGIN_S = 20.0
#: Workers that are asked at once.
_AT_ONCE = 16


def status(workers: Workers, handle: JobHandle) -> JobState:
    """What the job's worker says of it now. WorkerUnreachable, or WorkerChanged, when it cannot be asked."""
    return workers.backend(handle.worker, handle.machine).poll([handle.job_id])[handle.job_id]


def find(workers: Workers, job_id: str) -> JobHandle:
    """The handle of a bare job id: whichever worker of the pool has it. WorkerError when none has."""
    said = []
    for worker in workers.pool.workers:
        try:
            state = workers.backend(worker.name).poll([job_id])[job_id]
        except WorkerUnreachable as error:
            said.append(f"{worker.name} cannot be asked ({error})")
            continue
        if state.reason != Reason.RECORD_MISSING:
            return _found(workers, worker.name, job_id, state)
        said.append(f"{worker.name} has no record of it")
    raise WorkerError(f"job {job_id!r} is not in pool {workers.pool.name!r}: " + "; ".join(said))


def _found(workers: Workers, worker: str, job_id: str, state: JobState) -> JobHandle:
    plan: dict[str, Any] = next(
        (j["plan"] for j in workers.backend(worker).jobs() if j["plan"].get("job_id") == job_id), {}
    )
    handle = JobHandle(
        uid=state.uid,
        job_id=job_id,
        attempt=state.attempt,
        key=str(JobKey(**plan.get("key", {}))),
        worker_pool=workers.pool.name,
        worker=worker,
        resource=plan.get("resource_id", ""),
    )
    return handle.with_state(state)


def current(workers: Workers, handle: JobHandle) -> JobHandle:
    """The handle of the job's present attempt: a handle names the job, and its attempt may have been superseded.

    Where the handle's worker is silent, or another machine now, the other workers of the pool are asked at once, and
    the highest attempt wins; also where it was silent when the next attempt began, and so could not be told.
    """
    while True:
        try:
            state = status(workers, handle)
        except (WorkerUnreachable, WorkerChanged):
            return _elsewhere(workers, handle)
        moved = state.moved_to
        if moved is None:
            return _elsewhere(workers, handle) if _may_be_superseded(state) else handle
        handle = _moved(handle, moved)


def _moved(handle: JobHandle, to: Mapping[str, Any]) -> JobHandle:
    machine = handle.machine if to["worker"] == handle.worker else ""
    return replace(handle, job_id=to["job_id"], attempt=to["attempt"], worker=to["worker"], machine=machine)


def _may_be_superseded(state: JobState) -> bool:
    """Did it end as one does of which its worker lost sight, or that was given up with it?"""
    was_given_up = state.status is JobStatus.CANCELLED and state.facts.get("stopped_by") == REAPER
    return state.reason == Reason.WORKER_LOST or was_given_up


def _elsewhere(workers: Workers, handle: JobHandle) -> JobHandle:
    """The highest attempt that another worker knows, else the handle as it is."""
    others = [worker.name for worker in workers.pool.workers if worker.name != handle.worker]
    for job in jobs(workers, names=others) if handle.uid and others else ():
        plan = job.get("plan", {})
        if plan.get("uid") == handle.uid and plan["attempt"] > handle.attempt:
            handle = _moved(handle, {**plan, "worker": job["worker"]})
    return handle


def preempt(
    workers: Workers,
    handle: JobHandle,
    *,
    reason: str,
    by: str,
    signal: str | None = None,
    grace_s: float | None = None,
    wait_s: float = 0.0,
) -> JobState:
    """Make a job give up its place: it is told, may write a checkpoint, and is resumed later by whoever waits for it.

    Returns its state after at most `wait_s`. `signal`, `grace_s`: None is the job's own.
    """
    backend = workers.backend(handle.worker, handle.machine)
    state = backend.preempt(handle.job_id, reason=reason, by=by, signal=signal, grace_s=grace_s)
    return _until_over(backend, handle.job_id, state, time.monotonic() + wait_s, lambda: False)


def extend(workers: Workers, handle: JobHandle, seconds: float) -> JobState:
    """Let a job that has a `life_span` live so much longer; its state. WorkerError when it has ended, or has none."""
    token = secrets.token_hex(8)
    for final in (False, True):
        try:
            return workers.backend(handle.worker, handle.machine).extend(handle.job_id, seconds, token)
        except WorkerUnreachable:
            workers.drop(handle.worker)
            if final:
                raise
    raise AssertionError


def stop(workers: Workers, handle: JobHandle, *, reason: str, by: str, wait_s: float = 0.0) -> JobState:
    """Order the end of a job and wait at most `wait_s` for it; its worker carries it through alone."""
    backend = workers.backend(handle.worker, handle.machine)
    state = backend.stop(handle.job_id, reason=reason, by=by)
    return _until_over(backend, handle.job_id, state, time.monotonic() + wait_s, lambda: False)


def stopped(backend: Backend, job_id: str, reason: str, by: str, interrupted: Callable[[], bool]) -> JobState:
    """Stop a job and see it ended. WorkerError when it does not end."""
    state = backend.stop(job_id, reason=reason, by=by)
    limit = state.grace_s + STOP_MARGIN_S
    state = _until_over(backend, job_id, state, time.monotonic() + limit, interrupted)
    if not is_over(state):
        raise WorkerError(f"job {job_id} was told to stop and is still {state.status} after {duration(limit)}")
    return state


def _until_over(
    backend: Backend, job_id: str, state: JobState, deadline: float, interrupted: Callable[[], bool]
) -> JobState:
    while not is_over(state) and time.monotonic() < deadline and not interrupted():
        state = backend.watch([job_id], min(1.0, deadline - time.monotonic())).get(job_id, state)
    return state


def jobs(
    workers: Workers, *, deployment: str | None = None, live_only: bool = False, names: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The records of all reachable workers' jobs, each with its "worker"; one that cannot be asked: an "error".

    Workers are asked at the same time, each by one thread. `names`: these alone.
    """

    def of_one(name: str) -> list[dict[str, Any]]:
        try:
            found = workers.backend(name).jobs(deployment=deployment, live_only=live_only)
        except WorkerError as error:
            return [{"worker": name, "error": str(error)}]
        return [{"worker": name, **job} for job in found]

    names = [worker.name for worker in workers.pool.workers] if names is None else names
    if len(names) == 1:
        return of_one(names[0])
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="jobs") as executor:
        return [row for rows in executor.map(of_one, names) for row in rows]


def raise_for(state: JobState) -> None:
    """Nothing for a success, else the error that fits the end."""
    if state.status is JobStatus.SUCCEEDED:
        return
    kind: type[JobFailed] = JobFailed
    if state.status is JobStatus.CANCELLED:
        kind = JobCancelled
    elif state.reason == Reason.TIMED_OUT:
        kind = JobTimedOut
    elif state.reason == Reason.WORKER_LOST:
        kind = WorkerLost
    text = f"Job {state.job_id}: {state.message}"
    raise kind(text, status=state.status.value, reason=state.reason, exit_code=state.exit_code)
