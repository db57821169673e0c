"""Pure decisions: what to do with a job that was submitted before, and where a new one goes.

Each function takes what is known and returns a decision; the caller acts on it. No clock, no network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.core.words import duration


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
