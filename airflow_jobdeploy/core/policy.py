"""Pure decisions: what to do with a job that was submitted before, and where a new one goes.

Each function takes what is known and returns a decision; the caller acts on it. No clock, no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.hostside import layout


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a submitter writes down before it claims: the way back to the job after any crash."""

    uid: str
    attempt: int
    worker: str
    worker_pool: str
    machine: str = ""
    resource: str = ""
    #: {"max_tries", "clear_number"} of the task instance: equal ones mean a retry, others a clear.
    epoch: Mapping[str, int] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        """The id of the attempt that this intent names."""
        return layout.job_id(self.uid, self.attempt)

    def to_dict(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {**data, "epoch": dict(self.epoch), "version": 1}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Intent:
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})

    def following(self, *, attempt: int, epoch: Mapping[str, int], resource: str) -> Intent:
        """The intent of another attempt of the same job."""
        return replace(self, attempt=attempt, epoch=dict(epoch), resource=resource)


class Verb(Enum):
    """What to do about the attempt that an intent names."""

    START = "start"  #: the claim was never seen: claim and start this same attempt
    REATTACH = "reattach"  #: it is alive: follow it
    TAKE = "take"  #: it has succeeded: its outcome is ours, nothing starts
    NEXT = "next"  #: it has ended otherwise: start attempt n+1
    REPLACE = "replace"  #: a clear: stop it, verify, then start attempt n+1
    WAIT = "wait"  #: it cannot be judged now; nothing may start


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A verb and the sentence that explains it in the task's log."""

    verb: Verb
    why: str


def on_return(intent: Intent, epoch: Mapping[str, int], state: JobState | None) -> Decision:
    """What a task that finds an intent does. `state`: of the intent's attempt, None: the worker cannot be asked.

    Rule for retry against clear: reference of the task instance's `max_tries` and the run's
    `clear_number`; both as in the intent: a retry; any difference: a clear.
    """
    name = f"attempt {intent.attempt} on {intent.worker}"
    if state is None:
        return Decision(verb=Verb.WAIT, why=f"{name} may be alive, but its worker cannot be asked")
    if state.reason == Reason.RECORD_MISSING:
        return Decision(verb=Verb.START, why=f"{name} was never claimed")
    if state.status is JobStatus.UNKNOWN:
        return Decision(verb=Verb.WAIT, why=f"{name} cannot be judged: {state.message}")
    if dict(intent.epoch) != dict(epoch):
        return _after_clear(name, state)
    return _after_retry(name, state)


def _after_clear(name: str, state: JobState) -> Decision:
    if state.status.is_finished:
        return Decision(verb=Verb.NEXT, why=f"cleared; {name} has ended ({state.status})")
    return Decision(verb=Verb.REPLACE, why=f"cleared; {name} is still {state.status} and is stopped first")


def _after_retry(name: str, state: JobState) -> Decision:
    if state.status is JobStatus.SUCCEEDED:
        return Decision(verb=Verb.TAKE, why=f"{name} has already succeeded")
    if state.status.is_finished:
        return Decision(verb=Verb.NEXT, why=f"{name} ended {state.status}")
    if state.phase == "claimed":
        return Decision(verb=Verb.START, why=f"{name} was claimed and never started")
    return Decision(verb=Verb.REATTACH, why=f"{name} is {state.status}")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A worker that a new job may go to, as it answered just now."""

    worker: str
    slots: int | None
    live_jobs: int


def place(candidates: Sequence[Candidate]) -> str:
    """The first worker with a free slot, else the one with the fewest jobs a slot. ValueError when empty."""
    if not candidates:
        raise ValueError("no worker to choose from")
    free = (c for c in candidates if c.slots is None or c.live_jobs < c.slots)
    chosen = next(free, None) or min(candidates, key=lambda c: c.live_jobs / (c.slots or 1))
    return chosen.worker


def is_over(state: JobState) -> bool:
    """Is there nothing more to wait for? Ended, or a record that its own worker no longer has."""
    return state.status.is_finished or state.reason in (Reason.RECORD_MISSING, Reason.NEWER_LAYOUT)


# -- reaping -------------------------------------------------------------------------------------------------------

#: States of a task instance after which nobody comes back for its job.
TERMINAL_TASK_STATES = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})

#: Said of a task instance that Airflow no longer knows: its run was deleted.
GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class Reaping:
    """What a look at the owners of live jobs comes to."""

    #: job id -> why it is to be stopped
    stop: Mapping[str, str]
    #: Jobs whose owner seems gone, to be looked at once more before they are stopped.
    suspects: frozenset[str]


def reaping(owners: Mapping[str, str | None], suspects: frozenset[str]) -> Reaping:
    """Which live jobs to stop. `owners`: job id -> state of its task instance (None: no state yet, GONE: unknown).

    A terminal owner is the end; one that is gone must be seen gone twice, since a question to a database
    that is being restored, or to a run that is just being made, may find nothing.
    """
    stop: dict[str, str] = {}
    doubtful = set()
    for job_id, state in owners.items():
        if state in TERMINAL_TASK_STATES:
            stop[job_id] = f"its task instance is {state}, and nobody waits for it"
        elif state == GONE and job_id in suspects:
            stop[job_id] = "its task instance is gone, and nobody waits for it"
        elif state == GONE:
            doubtful.add(job_id)
    return Reaping(stop=stop, suspects=frozenset(doubtful))
