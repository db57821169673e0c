"""The jobs that a client knows: where each is, what is over of it, and what goes on with it after an end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.leases import Lease
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.records import Record, by_job, first_id, handle_of
from airflow_jobdeploy.core.sequels import after_end
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from airflow_jobdeploy.hooks.apolo.telling import Past, past
from airflow_jobdeploy.service import Submitted, Work, Workers
from airflow_jobdeploy.service.line import StillWaiting

#: How long a caller waits for a worker that has what the job asks for, in seconds; then the job waits alone, on one.
LINE_S = 2.0


def in_line(submit: Callable[..., Submitted]) -> Submitted:
    """Submit, and stand in all lines for a moment only: a job that has to wait longer does so alone, where its place in
    line is the best. Nobody is there then who could stand in the others."""
    try:
        return submit(line_s=LINE_S)
    except StillWaiting as waiting:
        wait = waiting.wait
        nothing = wait.granted(waiting.best, Lease(id=""))
        return submit(granted=nothing)


class Intents:
    """The intents of one job that was started here: nobody else comes back to it."""

    def __init__(self) -> None:
        self.kept: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return self.kept

    def save(self, value: Mapping[str, Any]) -> None:
        self.kept = dict(value)


def _asked(workers: Workers, handle: JobHandle) -> JobState:
    """Once more over a new connection where the open one is found broken."""
    try:
        return service.status(workers, handle)
    except WorkerUnreachable:
        workers.drop(handle.worker)
        return service.status(workers, handle)


@dataclass(frozen=True)
class Seen:
    """A job that was found: the record of its present attempt, and what was before that."""

    record: Record
    past: Past


class Book:
    """The jobs of one client of one pool."""

    def __init__(self, pool: str, say: Callable[[str], None]) -> None:
        self._pool = pool
        self._say = say
        #: By any id that was asked for; and those that were started here, by the id of their first attempt.
        self._seen: dict[str, Seen] = {}
        self._own: dict[str, tuple[Work, Intents]] = {}

    def add(self, workers: Workers, handle: JobHandle, work: Work, intents: Intents) -> None:
        """A job was started."""
        self._own[handle.job_id] = work, intents
        rows = [{"worker": handle.worker, **job} for job in workers.backend(handle.worker).jobs(live_only=False)]
        self._find(rows, handle.job_id)

    def present(self, workers: Workers, job_id: str) -> Seen:
        """The present attempt of a job as its worker has it now; of one that was started here, with the next attempt
        started where one follows. `job_id`: of the job, or of any of its attempts. WorkerError when none knows it.
        """
        seen = self._looked_at(workers, job_id)
        own = self._own.get(first_id(seen.record["plan"]))
        if own is not None and self._carried_on(workers, *own, seen.record):
            return self._looked_for(workers, job_id)
        return seen

    def _looked_at(self, workers: Workers, job_id: str) -> Seen:
        """Where it is known, one question to one worker is enough; UNKNOWN while that one cannot be asked."""
        seen = self._seen.get(job_id)
        if seen is None:
            return self._looked_for(workers, job_id)
        try:
            state = _asked(workers, handle_of(seen.record, self._pool))
        except WorkerUnreachable as error:
            told = {"status": JobStatus.UNKNOWN.value, "reason": Reason.UNREACHABLE.value, "message": str(error)}
            return replace(seen, record={**seen.record, "state": {**seen.record["state"], **told}})
        if state.reason == Reason.RECORD_MISSING or state.moved_to is not None:
            return self._looked_for(workers, job_id)
        self._seen[job_id] = replace(seen, record={**seen.record, "state": state.to_dict()})
        return self._seen[job_id]

    def _looked_for(self, workers: Workers, job_id: str) -> Seen:
        rows = service.jobs(workers)
        seen = self._find([row for row in rows if "error" not in row], job_id)
        if seen is not None:
            return seen
        silent = [f"; {row['worker']} cannot be asked: {row['error']}" for row in rows if "error" in row]
        raise WorkerError(f"job {job_id!r} is not in pool {self._pool!r}{''.join(silent)}")

    def _find(self, rows: list[dict[str, Any]], job_id: str) -> Seen | None:
        for attempts in by_job(rows):
            if job_id in (first_id(attempts[0]["plan"]), *(row["plan"].get("job_id") for row in attempts)):
                self._seen[job_id] = Seen(attempts[0], past(attempts, datetime.now(timezone.utc)))
                return self._seen[job_id]
        return None

    def _carried_on(self, workers: Workers, work: Work, intents: Intents, record: Record) -> bool:
        """Was there a next attempt to start?"""
        state = JobState.from_wire(record["state"])
        if not is_over(state) or intents.kept is None:
            return False
        intent = Intent.from_dict(intents.kept)
        sequel = after_end(state, work.recovery, preemptions=intent.preemptions, retries=intent.retries)
        if not sequel.again or intent.job_id != record["plan"]["job_id"]:
            return False
        again = partial(service.submit, work, workers, sequel=sequel, intents=intents, epoch={}, say=self._say)
        in_line(again)
        return True
