"""What follows the end of an attempt within one try of its Airflow task: another attempt, or nothing. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.core.words import duration

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
