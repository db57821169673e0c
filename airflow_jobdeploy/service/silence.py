"""What is said of a job whose worker is silent, or another machine; and who may end the wait for it.

A job that may be alive is UNKNOWN for as long as its worker says nothing, and nothing is started beside it. There are
two ways out: it is known to stop by itself (`on_orphan: stop`), or a person gives it up (`airflow jobdeploy forget
--lost`), since the worker will not come back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from airflow_jobdeploy.core.status import JobState, JobStatus, Reason, unknown
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.service.follower import Follower

#: The jobs that were given up: job id -> by whom.
GivenUp = Callable[[], Mapping[str, str]]


def nobody() -> Mapping[str, str]:
    """No job was given up."""
    return {}


def unasked(follower: Follower, error: WorkerError, reason: Reason) -> JobState:
    """UNKNOWN, and why."""
    last = follower.state
    text = f"The worker cannot be asked: {error}"
    if last is None or last.status is JobStatus.UNKNOWN:
        return unknown(follower.job_id, reason, text)
    return unknown(follower.job_id, reason, text, uid=last.uid, attempt=last.attempt)


def lost(follower: Follower, *, silent_s: float = 0.0, given_up_by: str = "") -> JobState:
    """The end of a job that has stopped itself by now, or that somebody has given up; an end that is known stays."""
    last = follower.state
    if last is not None and follower.has_ended:
        return last
    attempt = last.attempt if last else 1
    log_bytes = last.log_bytes if last else 0
    uid = last.uid if last else ""
    facts = {"given_up_by": given_up_by} if given_up_by else {"lost_s": silent_s}
    return lost_state(follower.job_id, uid=uid, attempt=attempt, log_bytes=log_bytes, facts=facts)


def lost_state(job_id: str, *, uid: str, attempt: int, facts: Mapping[str, object], log_bytes: int = 0) -> JobState:
    """FAILED (WorkerLost)."""
    wire = {
        "job_id": job_id,
        "uid": uid,
        "attempt": attempt,
        "status": JobStatus.FAILED.value,
        "reason": Reason.WORKER_LOST.value,
        "phase": "ended",
        "log_bytes": log_bytes,
        "facts": dict(facts),
    }
    return JobState.from_wire(wire)
