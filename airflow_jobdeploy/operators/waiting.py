"""Submit a job, wait for it, hand it over, take it back: one state machine for all submitting operators.

    execute -> submit (or reattach) -> follow -> the end
                                         |  after defer_after            ^
                                         v                               |
                                       defer -> trigger -> event -> execute_complete

Deferrable or not, the job is followed by `service.follow` in the task and by the same followers in the
triggerer. What a signal means is judged in interrupts.py, what an earlier submission means in core/policy.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferralTimeout

from airflow_jobdeploy.core.policy import Intent
from airflow_jobdeploy.core.status import JobHandle, JobState
from airflow_jobdeploy.errors import JobCancelled, JobDeployError, WorkerError
from airflow_jobdeploy.hooks import runtime, settings
from airflow_jobdeploy.operators.base import JobDeployOperator
from airflow_jobdeploy.operators.interrupts import Bell, Parting, Verdict, ask_and_judge
from airflow_jobdeploy.service import Interrupted, Work, Workers, follow, raise_for, stop, submit
from airflow_jobdeploy.triggers.events import JobEvent
from airflow_jobdeploy.triggers.goals import ENDED, reached, settles
from airflow_jobdeploy.triggers.job import DEFERRED_BY, JobTrigger

#: The key of the intent in the task's state store.
INTENT = "jobdeploy_intent"

DEFAULT_DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class SubmittingOperator(JobDeployOperator):
    """Base of the operators that start a job.

    wait_for_completion: False returns when the job has been brought on its way (see the operators).
    deferrable: hand the wait over to the triggerer after `[jobdeploy] defer_after` seconds.
    poll_interval: seconds for which a trigger gathers news before it tells them.
    """

    def __init__(
        self,
        *,
        wait_for_completion: bool = True,
        deferrable: bool = DEFAULT_DEFERRABLE,
        poll_interval: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = poll_interval
        self._bell: Bell | None = None
        self._handle: JobHandle | None = None
        self._intent_key = INTENT

    #: What `wait_for_completion=False` waits for: words of triggers.goals.
    early_goal: Sequence[str] = ENDED

    # -- submitting and waiting --------------------------------------------------------------------------------

    def _run(
        self, context: Mapping[str, Any], workers: Workers, work: Work, *, may_defer: bool = True
    ) -> dict[str, Any]:
        """Submit `work`, or find what an earlier try submitted, and wait for it; the handle at the end."""
        for warning in work.warnings:
            self.log.warning("%s", warning)
        handle = self._submitted(context, workers, work)
        return self._wait(context, workers, handle, offset=0, may_defer=may_defer)

    def _submitted(self, context: Mapping[str, Any], workers: Workers, work: Work) -> JobHandle:
        submitted = submit(
            work,
            workers,
            intents=runtime.StateStore(context, self._intent_key),
            epoch=runtime.epoch(context),
            say=self.log.info,
            interrupted=self._told_to_end,
            on_handle=lambda handle: self._claimed(context, handle),
        )
        return submitted.handle

    def _claimed(self, context: Mapping[str, Any], handle: JobHandle) -> None:
        """The claim lies on the worker, nothing has started: from here on others can find the job."""
        self._handle = handle
        self._push(context, handle)

    def _push(self, context: Mapping[str, Any], handle: JobHandle) -> None:
        if self.do_xcom_push:
            context["ti"].xcom_push(key="return_value", value=handle.to_dict())

    def _wait(
        self, context: Mapping[str, Any], workers: Workers, handle: JobHandle, *, offset: int, may_defer: bool = True
    ) -> dict[str, Any]:
        """Follow the job in this process until its end, or until it is handed over (raises TaskDeferred)."""
        self._handle = handle
        may_defer = may_defer and self._may_defer(workers, handle)
        followed = follow(
            workers,
            handle,
            offset=offset,
            say_log=self._tell,
            say=self.log.info,
            interrupted=self._told_to_end,
            until=settles(self._goal()),
            timeout_s=settings.defer_after_s() if may_defer else None,
        )
        if not followed.over:
            leave = partial(self._part, can_defer=may_defer) if followed.interrupted else self._defer
            leave(context, workers, handle, followed.offset)
        return self._finish(context, workers, handle, followed.state)

    def _tell(self, text: str) -> None:
        self.log.info("%s", text)

    def _goal(self) -> Sequence[str]:
        return ENDED if self.wait_for_completion else self.early_goal

    def _finish(
        self, context: Mapping[str, Any], workers: Workers, handle: JobHandle, state: JobState
    ) -> dict[str, Any]:
        """What the task makes of the end of its wait: its result, or the error that fits."""
        if not state.status.is_finished and reached(self._goal(), state):
            # Nobody waits for the job from here on, on purpose: the reaper must leave it alone.
            workers.backend(handle.worker).set_owner(handle.job_id, "none")
            self.log.info("Job %s goes on by itself: %s", handle.job_id, state.message)
            return handle.with_state(state).to_dict()
        return self._ended(context, handle, state)

    def _ended(self, context: Mapping[str, Any], handle: JobHandle, state: JobState) -> dict[str, Any]:
        handle = handle.with_state(state)
        self.log.info("Job %s: %s", handle.job_id, state.message)
        self._push(context, handle)  # a task that fails returns nothing, and a later `down` wants the handle
        raise_for(state)
        return handle.to_dict()

    # -- handing over to the triggerer, and back ---------------------------------------------------------------

    def _may_defer(self, workers: Workers, handle: JobHandle) -> bool:
        """Can a triggerer watch this job?"""
        if not self.deferrable:
            return False
        if workers.backend(handle.worker).capabilities.reachable_from_anywhere:
            return True
        if runtime.is_dag_test() or runtime.is_local_executor(self):
            return True
        self.log.info(
            "Not deferred: jobs of pool %s run on the machine of their task, and the triggerer may be on another one "
            "(only LocalExecutor puts both on one machine). The task waits itself.",
            handle.worker_pool,
        )
        return False

    def _defer(self, context: Mapping[str, Any], workers: Workers, handle: JobHandle, offset: int) -> NoReturn:
        context["ti"].xcom_push(key=DEFERRED_BY, value=str(context["ti"].id))
        interval = settings.poll_interval_s() if self.poll_interval is None else float(self.poll_interval)
        trigger = JobTrigger(
            jobs=[handle.to_dict()],
            goal=list(self._goal()),
            offset=offset,
            local=not workers.backend(handle.worker).capabilities.reachable_from_anywhere,
            poll_interval=interval,
            checkpoint_interval=settings.checkpoint_interval_s(),
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=self.execution_timeout)

    def execute_complete(self, context: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """Go on where the trigger left off. Opens no connection unless log is left or the trigger saw nothing."""
        news = JobEvent.from_dict(event)
        (job,) = news.jobs
        if job.state is not None and job.state.status.is_finished and not job.log_left:
            return self._ended(context, job.handle, job.state)
        if news.elsewhere:
            self.log.info("The triggerer is on another machine than the job; the task waits itself.")
        with self._at_work(context, job.handle.worker_pool) as workers:
            return self._wait(context, workers, job.handle, offset=job.offset, may_defer=not news.elsewhere)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """As Airflow has it; where execution_timeout passed while deferred, the job is stopped."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            self._stop_for_timeout(context)
            raise

    # -- told to end -------------------------------------------------------------------------------------------

    def on_kill(self) -> None:
        """Runs in a signal handler: only wakes the wait, which asks what is meant (interrupts.py)."""
        if self._bell is not None:
            self._bell.ring()

    def _told_to_end(self) -> bool:
        return self._bell is not None and self._bell.rung()

    @contextmanager
    def _at_work(self, context: Mapping[str, Any], worker_pool: str) -> Iterator[Workers]:
        """The pool's workers, with the two ways in which Airflow interrupts a task taken care of."""
        with self._hook(worker_pool).get_conn() as workers:
            self._bell = Bell(workers)
            try:
                yield workers
            except Interrupted as interrupted:
                self._part(context, workers, interrupted.handle or self._handle, 0, can_defer=False)
            except AirflowTaskTimeout:
                # It may have come in the middle of an answer: the open connection is not to be used again.
                self._stop_for_timeout(context)
                raise
            finally:
                self._bell = None

    def _part(
        self,
        context: Mapping[str, Any],
        workers: Workers,
        handle: JobHandle | None,
        offset: int,
        *,
        can_defer: bool,
    ) -> NoReturn:
        """Leave the wait after a signal: never by returning, since that would be a success."""
        verdict = ask_and_judge(context, can_defer=can_defer)
        if verdict.parting is Parting.STOP:
            self._stop(workers, handle, verdict.why)
            raise JobCancelled(f"Interrupted: {verdict.why}", status="CANCELLED", reason="Cancelled")
        if verdict.parting is Parting.DEFER and handle is not None:
            self.log.info("%s; the triggerer goes on waiting for job %s.", verdict.why.capitalize(), handle.job_id)
            self._defer(context, workers, handle, offset)
        raise JobDeployError(_left_alone(verdict, handle))

    def _stop(self, workers: Workers, handle: JobHandle | None, why: str) -> None:
        """Hand the stop to the host, which carries it through alone: 5 s after the signal this process is killed."""
        if handle is None:
            return
        self.log.info("Stopping job %s: %s.", handle.job_id, why)
        try:
            stop(workers, handle, reason=why, by="Airflow")
        except WorkerError as error:
            self.log.error("Job %s could not be told to stop, and is left to the reaper: %s", handle.job_id, error)

    def _stop_for_timeout(self, context: Mapping[str, Any]) -> None:
        handle = self._handle or self._intended(context)
        if handle is not None:
            with self._hook(handle.worker_pool).get_conn() as workers:
                self._stop(workers, handle, "the task's execution_timeout has passed")

    def _intended(self, context: Mapping[str, Any]) -> JobHandle | None:
        """The handle of what this task submitted, from its intent."""
        saved = runtime.StateStore(context, self._intent_key).load()
        if saved is None:
            return None
        intent = Intent.from_dict(saved)
        return JobHandle(
            uid=intent.uid,
            job_id=intent.job_id,
            attempt=intent.attempt,
            key="",
            worker_pool=intent.worker_pool,
            worker=intent.worker,
            machine=intent.machine,
            resource=intent.resource,
        )


def _left_alone(verdict: Verdict, handle: JobHandle | None) -> str:
    job = (
        f"job {handle.job_id} goes on, and the next try of this task reattaches to it"
        if handle
        else "no job was started"
    )
    return f"Interrupted: {verdict.why}; {job}."
