"""What a task that comes back can learn of the attempt that it, or a process before it, has submitted.

Its worker is asked, for as long as that makes sense. Where it stays silent, or another machine answers under its name,
the attempt may be alive, and nothing may be started beside it (promise 1 of the design); unless its end was seen by
then, somebody has given it up, or it is known to have stopped itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.errors import WorkerChanged, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.insisting import Insisting
from airflow_jobdeploy.service.silence import lost_state


@dataclass(frozen=True, kw_only=True)
class Seen:
    """`state`: of the attempt; None: it has surely stopped itself. `is_silent`: should another worker be chosen?"""

    state: JobState | None
    is_silent: bool = False


def look(intent: Intent, ask: Insisting) -> Seen:
    """Ask for the attempt of an intent. WorkerUnreachable, WorkerChanged: it may be alive."""
    patience_s = intent.lost_after_s
    if patience_s is None and (intent.ended or _is_elsewhere(intent, ask)):
        patience_s = 0.0
    given_up = ask.workers.given_up
    try:
        state = ask(
            intent.worker,
            lambda backend: backend.poll([intent.job_id])[intent.job_id],
            machine=intent.machine,
            patience_s=patience_s,
            enough=lambda: intent.job_id in given_up(),
        )
        return Seen(state=state)
    except (WorkerUnreachable, WorkerChanged) as error:
        # Another machine under its name is a worker as good as any.
        is_silent = isinstance(error, WorkerUnreachable) and len(ask.workers.pool.workers) > 1
        return Seen(state=_without_worker(intent, ask, error), is_silent=is_silent)


def _is_elsewhere(intent: Intent, ask: Insisting) -> bool:
    """Is the attempt on another machine than this task, in the pool of the task's own machine? It will stay there."""
    try:
        backend = ask.workers.backend(intent.worker)
        is_fixed = not backend.capabilities.reachable_from_anywhere
        return is_fixed and bool(intent.machine) and backend.facts(quick=True).machine != intent.machine
    except WorkerUnreachable:
        return False


def _without_worker(intent: Intent, ask: Insisting, error: WorkerError) -> JobState | None:
    """The attempt's state, by what is known without its worker; None: it has stopped itself."""
    who = ask.workers.given_up().get(intent.job_id)
    if who is not None:
        ask.say(f"Job {intent.job_id} was given up by {who}: its worker {intent.worker} counts as lost.")
        facts = {"given_up_by": who}
        return lost_state(intent.job_id, uid=intent.uid, attempt=intent.attempt, facts=facts)
    if intent.ended:
        wire = {"job_id": intent.job_id, "uid": intent.uid, "attempt": intent.attempt, "status": intent.ended}
        return JobState.from_wire({**wire, "phase": "ended"})
    if intent.lost_after_s is not None:
        return None
    pool = ask.workers.pool.name
    text = (
        f"nothing was started, since attempt {intent.attempt} may be alive on worker {intent.worker}, which cannot be "
        f"asked for it: {error}. If it is gone for good: airflow jobdeploy forget {intent.job_id} --lost"
    )
    raise type(error)(text + (f" --worker-pool {pool}" if pool != "local" else "")) from error
