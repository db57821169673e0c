"""From the records of a job's attempts to Apolo's JobDescription."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from airflow_jobdeploy.core.records import Record, age_s, first_id, handle_of, name_of, owner_of, spec_of
from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.hooks.apolo.values import (
    Container,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    JobStatusHistory,
    JobStatusItem,
    Resources,
    Volume,
)

#: Our reasons -> Apolo's word for the same fact; the others have none and stay as they are.
_WORDS = {
    ("PENDING", ""): "Creating",
    ("PENDING", "Staging"): "Creating",
    ("PENDING", "Queued"): "Scheduling",
    ("PENDING", "Setup"): "ContainerCreating",
    ("PENDING", "Backoff"): "Restarting",
    ("RUNNING", ""): "ContainerRunning",
    ("FAILED", "ExitCode"): "Error",
    ("FAILED", "Signal"): "Error",
    ("FAILED", "Setup"): "ContainerCannotRun",
    ("FAILED", "OutOfMemory"): "OOMKilled",
    ("CANCELLED", "Cancelled"): "UserRequested",
}
#: Of a job that a limit of time has ended.
_LIMITS = {"life_span": "LifeSpanEnded", "schedule_timeout": "ClusterScaleUpFailed"}


def word(status: JobStatus, reason: str, facts: Mapping[str, Any], *, attempt: int = 1) -> str:
    """The reason of a status in Apolo's words, where it has one."""
    if reason == "TimedOut":
        return _LIMITS.get(str(facts.get("limit")), reason)
    found = _WORDS.get((status.value, reason), reason)
    return "Restarting" if found == "Creating" and attempt > 1 else found


@dataclass(frozen=True, kw_only=True)
class Past:
    """What is over of a job: the attempts before the present one."""

    created_at: datetime
    transitions: tuple[JobStatusItem, ...] = ()
    ran_s: float = 0.0


def past(attempts: Sequence[Record], now: datetime) -> Past:
    """Of a job's records, the last one first."""
    earlier = attempts[1:]
    return Past(
        created_at=now - timedelta(seconds=age_s(attempts[-1])),
        transitions=tuple(item for record in reversed(earlier) for item in _items(_state(record), now)),
        ran_s=sum(float(record["state"].get("running_s") or 0.0) for record in earlier),
    )


def described(record: Record, before: Past, *, pool: str, now: datetime) -> JobDescription:
    """What is known of a job, by the record of its present attempt."""
    plan, state = record["plan"], _state(record)
    spec = spec_of(plan)
    lasts = state.life_span_s
    return JobDescription(
        id=first_id(plan),
        owner=owner_of(plan),
        cluster_name=pool,
        status=state.status,
        history=_history(state, before, now),
        container=_container(plan, spec),
        uri=f"job://{pool}/{owner_of(plan)}/{first_id(plan)}",
        name=name_of(plan) if spec.get("job_name") else None,
        tags=tuple(spec.get("tags") or ()),
        description=spec.get("description"),
        restart_policy=JobRestartPolicy(spec.get("restart_policy") or "never"),
        life_span=None if lasts is None else lasts + before.ran_s,
        schedule_timeout=spec.get("schedule_timeout_s"),
        preset_name=spec.get("preset"),
        preemptible_node=bool(spec.get("preemptible")),
        priority=JobPriority[str(spec.get("priority") or "normal").upper()],
        handle=handle_of(record, pool).to_dict(),
        state=state.to_dict(),
    )


def _state(record: Record) -> JobState:
    return JobState.from_wire(record["state"])


def _history(state: JobState, before: Past, now: datetime) -> JobStatusHistory:
    transitions = (*before.transitions, *_items(state, now))
    has_run = state.running_s is not None or before.ran_s
    return JobStatusHistory(
        status=state.status,
        reason=word(state.status, state.reason, state.facts, attempt=state.attempt),
        description=state.message,
        restarts=state.attempt - 1,
        created_at=before.created_at,
        started_at=next((item.transition_time for item in transitions if item.status is JobStatus.RUNNING), None),
        finished_at=transitions[-1].transition_time if state.status.is_finished and transitions else None,
        run_time_seconds=int(before.ran_s + (state.running_s or 0.0)) if has_run else None,
        exit_code=state.exit_code,
        transitions=transitions,
    )


def _items(state: JobState, now: datetime) -> Iterator[JobStatusItem]:
    last = len(state.history) - 1
    for number, entry in enumerate(state.history):
        status, reason = JobStatus(entry["status"]), str(entry.get("reason") or "")
        yield JobStatusItem(
            status=status,
            transition_time=now - timedelta(seconds=float(entry.get("ago_s") or 0.0)),
            reason=word(status, reason, state.facts, attempt=state.attempt),
            description=state.message if number == last else "",
            exit_code=state.exit_code if number == last else None,
        )


def _container(plan: Mapping[str, Any], spec: Mapping[str, Any]) -> Container:
    steps = plan.get("steps") or [{}]
    words = steps[0].get("args") or ()
    gpus: Mapping[str, Any] = next(iter(spec.get("gpu_types") or ()), {})
    return Container(
        image=spec.get("docker_image"),
        resources=Resources(
            memory=int(spec.get("memory_bytes") or 0),
            cpu=float(spec.get("cpu_count") or 0.0),
            nvidia_gpu=gpus.get("count"),
            nvidia_gpu_model=gpus.get("type") or None,
        ),
        command=spec.get("command") or shlex.join(words) or None,
        working_dir=plan.get("workdir") or None,
        env=dict(plan.get("env") or {}),
        volumes=tuple(Volume(**volume) for volume in spec.get("volumes") or ()),
        secret_env=dict(spec.get("secret_env") or {}),
    )
