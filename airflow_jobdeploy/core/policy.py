"""Pure decisions: what to do with a job that was submitted before, and where a new one goes.

Each function takes what is known and returns a decision; the caller acts on it. No clock, no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any

from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus, Reason
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.hostside import layout


@dataclass(frozen=True, kw_only=True)
class Intent:
    """What a submitter writes down before it claims: the way back to the job after any crash."""

    uid: str
    attempt: int
    worker: str
    worker_pool: str
    machine: str = ""
    #: Where the attempt before was: its checkpoint is there.
    previous_worker: str = ""
    resource: str = ""
    #: Silence of the worker, in seconds, after which the attempt has surely stopped itself; None: never.
    lost_after_s: float | None = None
    #: How often the job was preempted, and tried again for a cause, within its Airflow try.
    preemptions: int = 0
    retries: int = 0
    #: Seconds that are left of its `life_span`; None: nothing has used any of it up, or it has none.
    life_left_s: float | None = None
    #: Is it started again also after a success (`restart_policy: always`)?
    unending: bool = False
    #: The trees of the code and the dataset, by name: all attempts between two clears use the same. "": none.
    bundle: str = ""
    dataset: str = ""
    #: Where the code was taken from (packing.bundle), to make the same tree again.
    code: Mapping[str, Any] = field(default_factory=dict)
    #: The Python packages of the attempt (core.plan.Environment); empty: none.
    environment: Mapping[str, Any] = field(default_factory=dict)
    #: {"max_tries", "clear_number"} of the task instance: equal ones mean a retry, others a clear.
    epoch: Mapping[str, int] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        """The id of the attempt that this intent names."""
        return layout.job_id(self.uid, self.attempt)

    @property
    def previous_job_id(self) -> str:
        """The id of the attempt before."""
        return layout.job_id(self.uid, self.attempt - 1)

    def to_dict(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        mappings = {key: dict(data[key]) for key in ("code", "environment", "epoch")}
        return {**data, **mappings, "version": 1}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Intent:
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})

    def handle(self, key: str = "") -> JobHandle:
        """The handle of the attempt that this intent names."""
        return JobHandle(
            uid=self.uid,
            job_id=self.job_id,
            attempt=self.attempt,
            key=key,
            worker_pool=self.worker_pool,
            worker=self.worker,
            machine=self.machine,
            resource=self.resource,
            lost_after_s=self.lost_after_s,
        )

    def following(self, **changes: Any) -> Intent:
        """The intent of another attempt of the same job."""
        return replace(self, **changes)


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
    if state is None and intent.lost_after_s is not None:
        why = f"the worker of {name} has not answered for {duration(intent.lost_after_s)}, so it has stopped itself"
        return Decision(verb=Verb.NEXT, why=why)
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
    if is_over(state):
        return Decision(verb=Verb.NEXT, why=f"cleared; {name} has ended ({state.status})")
    return Decision(verb=Verb.REPLACE, why=f"cleared; {name} is still {state.status} and is stopped first")


def _after_retry(name: str, state: JobState) -> Decision:
    if state.status is JobStatus.SUCCEEDED:
        return Decision(verb=Verb.TAKE, why=f"{name} has already succeeded")
    if is_over(state):
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
    #: The failures for which it is left alone for a while; "": it is not.
    set_aside: str = ""

    @property
    def has_room(self) -> bool:
        """Could a job start at once?"""
        return self.slots is None or self.live_jobs < self.slots


def place(candidates: Sequence[Candidate]) -> str:
    """The first worker with a free slot, else the one with the fewest jobs a slot. ValueError when empty.

    Those that are set aside only where there are no others.
    """
    if not candidates:
        raise ValueError("no worker to choose from")
    chosen = [c for c in candidates if not c.set_aside] or candidates
    free = next((c for c in chosen if c.has_room), None)
    return (free or min(chosen, key=lambda c: c.live_jobs / (c.slots or 1))).worker


def is_over(state: JobState) -> bool:
    """Is there nothing more to wait for from this attempt? It has ended (SUSPENDED if preempted), or has no record."""
    ended = state.status.is_finished or state.phase == "ended"
    return ended or state.reason in (Reason.RECORD_MISSING, Reason.NEWER_LAYOUT)


# -- going on after an end -----------------------------------------------------------------------------------------

#: Names of causes, for `retry: {on: [...]}` -> the reasons they stand for.
CAUSES: Mapping[str, frozenset[str]] = {
    "worker_lost": frozenset({Reason.WORKER_LOST.value}),
    "process_lost": frozenset({Reason.PROCESS_LOST.value}),
    "out_of_memory": frozenset({Reason.OUT_OF_MEMORY.value}),
    "disk_full": frozenset({Reason.DISK_FULL.value}),
    "timed_out": frozenset({Reason.TIMED_OUT.value}),
    "signal": frozenset({Reason.SIGNAL.value}),
    "setup": frozenset({Reason.SETUP.value}),
    "exit_code": frozenset({Reason.EXIT_CODE.value}),
}


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What a job wants done when it ends otherwise than well, within one try of its Airflow task."""

    preemptible: bool = False
    #: "resume": go on as a new attempt; "retry": fail the Airflow try; "fail": that is the end.
    on_preemption: str = "resume"
    #: None: as often as it takes.
    max_preemptions: int | None = None
    #: Names of CAUSES.
    retry_on: tuple[str, ...] = ()
    #: Exit codes that are worth another attempt.
    retry_codes: tuple[int, ...] = ()
    retry_max: int = 3
    retry_delay_s: float = 0.0
    #: "never", "on-failure" or "always": started again whatever the cause, as often as it takes.
    restart: str = "never"


@dataclass(frozen=True, kw_only=True)
class Sequel:
    """What follows an end: another attempt (`again`) with these counts, or nothing."""

    again: bool
    why: str
    preemptions: int = 0
    retries: int = 0
    delay_s: float = 0.0
    #: What is left of its `life_span`, in seconds; None: it has none.
    life_left_s: float | None = None
    #: Is another worker to be preferred?
    elsewhere: bool = False


#: That is the end.
NO_SEQUEL = Sequel(again=False, why="")


def after_end(state: JobState, recovery: Recovery, *, preemptions: int, retries: int) -> Sequel:
    """Does an attempt that ended so have a successor within the same Airflow try?

    `preemptions`, `retries`: those before this end. A stop by somebody has none, and a success only where it is
    asked for. All attempts together stay within the job's `life_span`.
    """
    sequel = _sequel(state, recovery, preemptions, retries)
    if not sequel.again or state.life_span_s is None:
        return sequel
    left_s = state.life_span_s - (state.running_s or 0.0)
    if left_s <= 0:
        return replace(sequel, again=False, why=f"its life_span of {duration(state.life_span_s)} is over")
    return replace(sequel, life_left_s=left_s)


def _sequel(state: JobState, recovery: Recovery, preemptions: int, retries: int) -> Sequel:
    end = partial(Sequel, again=False, preemptions=preemptions, retries=retries)
    if state.status in (JobStatus.CANCELLED, JobStatus.UNKNOWN):
        return end(why="")
    lost = state.reason == Reason.WORKER_LOST
    if state.status is JobStatus.SUSPENDED or (recovery.preemptible and lost):
        return _after_preemption(state, recovery, preemptions, retries)
    if _is_restarted(state, recovery):
        return _restart(state, preemptions, retries)
    if state.status is JobStatus.SUCCEEDED or not _is_worth_another(state, recovery):
        return end(why="")
    if retries >= recovery.retry_max:
        return end(why=f"it was tried again {_times(retries)}, which is its most")
    why = f"tried again for its cause ({state.reason}), {retries + 1} of {recovery.retry_max}"
    return Sequel(
        again=True,
        why=why,
        preemptions=preemptions,
        retries=retries + 1,
        delay_s=recovery.retry_delay_s,
        elsewhere=lost,
    )


def _after_preemption(state: JobState, recovery: Recovery, preemptions: int, retries: int) -> Sequel:
    end = partial(Sequel, again=False, preemptions=preemptions, retries=retries)
    if recovery.on_preemption != "resume":
        return end(why=f"on_preemption: {recovery.on_preemption}")
    most = recovery.max_preemptions
    if most is not None and preemptions >= most:
        return end(why=f"it was preempted {_times(preemptions + 1)}, and may be resumed {_times(most)}")
    why = f"goes on from its checkpoint, preemption {preemptions + 1}" + (f" of {most}" if most is not None else "")
    lost = state.reason == Reason.WORKER_LOST
    return Sequel(again=True, why=why, preemptions=preemptions + 1, retries=retries, elsewhere=lost)


#: Pauses before restarts double from the first to the last, in seconds; a run that lasted so long begins anew.
FIRST_PAUSE_S, LAST_PAUSE_S, LONG_RUN_S = 1.0, 60.0, 60.0
#: Limits after which a restart would come to the same end.
_USELESS = ("life_span", "setup_timeout", "schedule_timeout")


def _is_restarted(state: JobState, recovery: Recovery) -> bool:
    """Not what could not even be set up, and not what has had its time."""
    if recovery.restart == "never" or state.reason == Reason.SETUP or state.facts.get("limit") in _USELESS:
        return False
    return state.status is JobStatus.FAILED or recovery.restart == "always"


def _restart(state: JobState, preemptions: int, retries: int) -> Sequel:
    """The pauses grow only while it fails at once: `retries` are those since the last long run."""
    row = 0 if (state.running_s or 0.0) >= LONG_RUN_S else retries
    return Sequel(
        again=True,
        why=f"is started again (restart_policy; it ended {state.status}{f', {state.reason}' * bool(state.reason)})",
        preemptions=preemptions,
        retries=row + 1,
        delay_s=min(LAST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(row, 10)),
        elsewhere=state.reason == Reason.WORKER_LOST,
    )


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _is_worth_another(state: JobState, recovery: Recovery) -> bool:
    if state.reason == Reason.EXIT_CODE and state.exit_code in recovery.retry_codes:
        return True
    return any(state.reason in CAUSES[cause] for cause in recovery.retry_on)


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
