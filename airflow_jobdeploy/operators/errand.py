"""What a task does for its job: submit it, wait, hand the wait over, take it back, go on after an attempt.

    run -> submit (or reattach) -> follow -> the attempt's end -> the end
              |   ^                 |  after defer_after  ^  |
              |   |                 v                     |  | preempted, or a cause worth a retry
              |   |               defer -> trigger -> event  |
              |   +---------- submit <-----------------------+
              |                   |
              +-- no worker has room: defer -> trigger in line -> event -> submit, with what was granted

Deferrable or not, the job is followed by `service.follow` in the task and by the same followers in the
triggerer. What a signal means is judged in interrupts.py; what an earlier submission means, in
core/policy.py; whether another attempt follows an end, in core/sequels.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from airflow.sdk.exceptions import AirflowTaskTimeout

from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.sequels import NO_SEQUEL, Sequel, after_end
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.errors import JobCancelled, JobDeployError, JobTimedOut, WorkerError
from airflow_jobdeploy.hooks import runtime, settings
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.hooks.reaping import reap_in_passing
from airflow_jobdeploy.operators import assets, lineage
from airflow_jobdeploy.operators.handover import Handover, Task
from airflow_jobdeploy.operators.interrupts import Bell, Parting, Verdict, ask_and_judge
from airflow_jobdeploy.service import Interrupted, Work, Workers, follow, raise_for, stop, submit
from airflow_jobdeploy.service.line import Granted, StillWaiting, give_back
from airflow_jobdeploy.triggers.events import Followed, JobEvent, LineEvent
from airflow_jobdeploy.triggers.goals import reached, settles


class Errand:
    """One process' part in a task: from `run` or `resume` to the handle, an error, or a deferral."""

    def __init__(self, task: Task, context: Mapping[str, Any], *, intent_key: str) -> None:
        self._task = task
        self._context = context
        self._handover = Handover(task, context)
        self._intents = runtime.StateStore(context, intent_key)
        self._log = task.log
        self._bell: Bell | None = None
        self._handle: JobHandle | None = None
        #: What a trigger has waited for.
        self._turn_come: LineEvent | None = None
        self._assets: list[str] = []

    # -- from outside ------------------------------------------------------------------------------------------

    @property
    def is_returning(self) -> bool:
        """Has an earlier try of this task submitted something?"""
        return self._intents.load() is not None

    def run(
        self, workers: Workers, work: Work, *, may_defer: bool = True, granted: Granted | None = None
    ) -> dict[str, Any]:
        """Submit `work`, or find what an earlier try submitted, and wait for it; the handle at the end.

        `granted`: what a trigger has waited for.
        """
        for warning in work.warnings if granted is None else ():
            self._log.warning("%s", warning)
        with self._in_line(workers, may_defer=may_defer, granted=granted) as line:
            submitted = submit(work, workers, **line)
        return self._wait(workers, submitted.handle, offset=0, may_defer=may_defer)

    def resume(self, event: dict[str, Any]) -> dict[str, Any]:
        """Go on where the trigger left off. Opens no connection when all is told and no attempt follows."""
        if LineEvent.is_one(event):
            return self._turn(LineEvent.from_dict(event))
        news = JobEvent.from_dict(event)
        job = self._current(*news.jobs)
        sequel = self._sequel_of(job)
        if sequel is not None and job.state is not None and not sequel.again:
            return self._ended(job.handle, job.state)
        if news.elsewhere:
            self._log.info("The triggerer is on another machine than the job; the task waits itself.")
        with self.at_work(job.handle.worker_pool) as workers:
            handle, offset = job.handle, job.offset
            if sequel is not None and job.state is not None:
                self._note(job.state)
                handle, offset = self._submitted_again(workers, sequel, may_defer=not news.elsewhere), 0
            return self._wait(workers, handle, offset=offset, may_defer=not news.elsewhere)

    def _turn(self, news: LineEvent) -> dict[str, Any]:
        """A worker has granted what the job asks for, or none has in time."""
        if news.granted is None:
            raise JobTimedOut(news.timed_out, status="FAILED", reason="TimedOut")
        self._turn_come = news
        self._log.info("Worker %s has %s.", news.granted.worker, news.wait.wanted)
        with self.at_work(news.wait.worker_pool) as workers:
            if news.sequel is None:
                work = self._work(workers, news.granted, returning=self.is_returning)
                return self.run(workers, work, granted=news.granted)
            handle = self._submitted_again(workers, news.sequel, granted=news.granted)
            return self._wait(workers, handle, offset=0, may_defer=True)

    def _current(self, job: Followed) -> Followed:
        """What the trigger saw, if it is of the attempt that the task waits for.

        Seen on SQLite, which gives the ids of deleted triggers anew: a trigger of the try before a clear answers
        to the next try.
        """
        intended = self._intended()
        if intended is None or intended.job_id == job.handle.job_id:
            return job
        self._log.info(
            "A trigger answered for job %s, which an earlier try of this task had; waiting for job %s, whose log "
            "is told from its beginning.",
            job.handle.job_id,
            intended.job_id,
        )
        return Followed(handle=intended, state=None)

    def stop_for_timeout(self) -> None:
        """execution_timeout has passed: stop the job, give back what was granted to it and is not its own yet."""
        handle, turn = self._handle or self._intended(), self._turn_come
        pool = handle.worker_pool if handle is not None else turn.wait.worker_pool if turn is not None else None
        if pool is not None:
            with JobDeployHook(pool).get_conn() as workers:
                self._stop(workers, handle, "the task's execution_timeout has passed")
                give_back(workers, turn.granted if turn is not None else None)

    def ring(self) -> None:
        """The task was told to end. Called in a signal handler."""
        if self._bell is not None:
            self._bell.ring()

    @contextmanager
    def at_work(self, worker_pool: str) -> Iterator[Workers]:
        """The pool's workers, with the two ways in which Airflow interrupts a task taken care of."""
        with JobDeployHook(worker_pool).get_conn() as workers:
            self._bell = Bell(workers)
            try:
                yield workers
            except Interrupted as interrupted:
                self._part(workers, interrupted.handle or self._handle, 0, can_defer=False)
            except AirflowTaskTimeout:
                # It may have come in the middle of an answer: the open connection is not to be used again.
                self.stop_for_timeout()
                raise
            finally:
                self._bell = None

    def lineage(self, inputs: Sequence[tuple[str, str]]) -> Any:
        """What OpenLineage is told; `inputs`: the datasets of the job."""
        intent = self._intents.last
        code = Intent.from_dict(intent).code if intent is not None else {}
        return lineage.of_job(self._handle, code, inputs=inputs, outputs=[lineage.dataset(uri) for uri in self._assets])

    # -- waiting -----------------------------------------------------------------------------------------------

    def _wait(self, workers: Workers, handle: JobHandle, *, offset: int, may_defer: bool) -> dict[str, Any]:
        """Follow the job in this process until its end, or until it is handed over (raises TaskDeferred)."""
        self._reap(workers, handle)
        while True:
            self._handle = handle
            can_defer = may_defer and self._handover.can_follow(workers, handle)
            followed = follow(
                workers,
                handle,
                offset=offset,
                say_log=partial(self._log.info, "%s"),
                say=self._log.info,
                interrupted=self._told_to_end,
                until=settles(self._task.goal),
                timeout_s=settings.defer_after_s() if can_defer else None,
            )
            if not followed.over:
                leave = partial(self._part, can_defer=can_defer) if followed.interrupted else self._handover.of_job
                leave(workers, handle, followed.offset)
            sequel = self._sequel(followed.state)
            if not sequel.again:
                return self._finish(workers, handle, followed.state)
            self._note(followed.state)
            handle, offset = self._submitted_again(workers, sequel, may_defer=may_defer), 0

    def _reap(self, workers: Workers, handle: JobHandle) -> None:
        """Now that the worker is at hand: end what lost its task and was not told."""
        if runtime.is_dag_test():  # its runs are in no scheduler's hands
            return
        try:
            reap_in_passing(workers.backend(handle.worker), frozenset([handle.job_id]))
        except (WorkerError, OSError) as error:
            self._log.info("Did not look for jobs that have lost their tasks: %s", error)

    def _told_to_end(self) -> bool:
        return self._bell is not None and self._bell.rung()

    def _claimed(self, handle: JobHandle) -> None:
        """The claim lies on the worker, nothing has started: from here on others can find the job."""
        self._handle = handle
        self._push(handle)

    def _push(self, handle: JobHandle) -> None:
        if self._task.do_xcom_push:
            self._context["ti"].xcom_push(key="return_value", value=handle.to_dict())

    def _finish(self, workers: Workers, handle: JobHandle, state: JobState) -> dict[str, Any]:
        """What the task makes of the end of its wait: its result, or the error that fits."""
        if not is_over(state) and reached(self._task.goal, state):
            # Nobody waits for the job from here on, on purpose: the reaper must leave it alone.
            workers.backend(handle.worker, handle.machine).set_owner(handle.job_id, "none")
            self._log.info("Job %s goes on by itself: %s", handle.job_id, state.message)
            return handle.with_state(state).to_dict()
        return self._ended(handle, state)

    def _ended(self, handle: JobHandle, state: JobState) -> dict[str, Any]:
        handle = self._handle = handle.with_state(state)
        self._assets = [str(asset["uri"]) for asset in state.messages.get("assets", [])]
        self._log.info("Job %s: %s", handle.job_id, state.message)
        if state.status is JobStatus.SUCCEEDED:
            self._hand_over_assets(state)
        else:
            self._push(handle)  # a task that fails returns nothing, and a later `down` wants the handle
            self._keep_end(state)
        raise_for(state)
        return handle.to_dict()

    def _keep_end(self, state: JobState) -> None:
        """For a later try that cannot ask the worker of this one: what has ended is in nobody's way."""
        saved = self._intents.load()
        if saved is None or Intent.from_dict(saved).job_id != state.job_id or state.status is JobStatus.UNKNOWN:
            return
        try:
            self._intents.save({**saved, "ended": state.status.value})
        except runtime.CANNOT_ASK as error:  # it was cleared meanwhile, or Airflow goes down
            self._log.info("How the job ended could not be kept for a later try: %s", error)

    def _hand_over_assets(self, state: JobState) -> None:
        named = state.messages.get("assets", [])
        if state.attempt > 1:
            named = assets.of_all_attempts(self._context, state)
        if named:
            assets.hand_over(self._task.outlets, self._context["outlet_events"], named, self._log)

    # -- going on after an attempt -----------------------------------------------------------------------------

    def _sequel_of(self, job: Followed) -> Sequel | None:
        """What follows the end that a trigger saw; None where there is still something to look at."""
        if job.state is None or not is_over(job.state) or job.log_left:
            return None
        return self._sequel(job.state)

    def _sequel(self, state: JobState) -> Sequel:
        """Does another attempt follow this state, within this try of the task?"""
        saved = None if _is_final(state) else self._intents.load()
        if saved is not None and state.status is JobStatus.SUCCEEDED and not Intent.from_dict(saved).unending:
            return NO_SEQUEL
        work = None if saved is None else self._task.work(self._context, returning=True)
        if saved is None or work is None:
            return NO_SEQUEL
        intent = Intent.from_dict(saved)
        sequel = after_end(state, work.recovery, preemptions=intent.preemptions, retries=intent.retries)
        if sequel.why and not sequel.again:
            self._log.info("No further attempt: %s.", sequel.why)
        return sequel

    def _note(self, state: JobState) -> None:
        """Of an attempt that another one follows."""
        self._log.info("Job %s: %s", state.job_id, state.message)
        assets.keep(self._context, state)

    def _submitted_again(
        self, workers: Workers, sequel: Sequel, *, may_defer: bool = True, granted: Granted | None = None
    ) -> JobHandle:
        work = self._work(workers, granted, returning=True)
        with self._in_line(workers, may_defer=may_defer, granted=granted, sequel=sequel) as line:
            return submit(work, workers, sequel=sequel, **line).handle

    def _work(self, workers: Workers, granted: Granted | None, *, returning: bool) -> Work:
        """What the task has to do; `granted` is given back when that cannot be had any more."""
        try:
            work = self._task.work(self._context, returning=returning)
        except Exception:
            give_back(workers, granted)
            raise
        assert work is not None
        return work

    @contextmanager
    def _in_line(
        self, workers: Workers, *, may_defer: bool, granted: Granted | None, sequel: Sequel | None = None
    ) -> Iterator[dict[str, Any]]:
        """The arguments of a submission; within, a wait for a worker that takes long goes to the triggerer."""
        can_defer = may_defer and self._handover.can_wait(workers)
        try:
            yield {
                "intents": self._intents,
                "epoch": runtime.epoch(self._context),
                "say": self._log.info,
                "interrupted": self._told_to_end,
                "on_handle": self._claimed,
                "granted": granted,
                "line_s": settings.defer_after_s() if can_defer else None,
            }
        except StillWaiting as waiting:
            self._handover.of_wait(waiting.wait, sequel)

    # -- told to end -------------------------------------------------------------------------------------------

    def _part(self, workers: Workers, handle: JobHandle | None, offset: int, *, can_defer: bool) -> NoReturn:
        """Leave the wait after a signal: never by returning, since that would be a success."""
        verdict = ask_and_judge(self._context, can_defer=can_defer)
        if verdict.parting is Parting.STOP:
            self._stop(workers, handle, verdict.why)
            raise JobCancelled(f"Interrupted: {verdict.why}", status="CANCELLED", reason="Cancelled")
        if verdict.parting is Parting.DEFER and handle is not None:
            self._log.info("%s; the triggerer goes on waiting for job %s.", verdict.why.capitalize(), handle.job_id)
            self._handover.of_job(workers, handle, offset)
        raise JobDeployError(_left_alone(verdict, handle))

    def _stop(self, workers: Workers, handle: JobHandle | None, why: str) -> None:
        """Hand the stop to the host, which carries it through alone: 5 s after the signal this process is killed."""
        if handle is None:
            return
        self._log.info("Stopping job %s: %s.", handle.job_id, why)
        try:
            stop(workers, handle, reason=why, by="Airflow")
        except WorkerError as error:
            self._log.error("Job %s could not be told to stop, and is left to the reaper: %s", handle.job_id, error)

    def _intended(self) -> JobHandle | None:
        """The handle of what this task submitted, from its intent."""
        saved = self._intents.load()
        return None if saved is None else Intent.from_dict(saved).handle()


def _is_final(state: JobState) -> bool:
    """Is it plain, without a look at what the job asked for, that no attempt follows?"""
    return not is_over(state) or state.status in (JobStatus.CANCELLED, JobStatus.UNKNOWN)


def _left_alone(verdict: Verdict, handle: JobHandle | None) -> str:
    job = (
        f"job {handle.job_id} goes on, and the next try of this task reattaches to it"
        if handle
        else "no job was started"
    )
    return f"Interrupted: {verdict.why}; {job}."
