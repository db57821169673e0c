"""Wait for jobs that other tasks started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue

from airflow_jobdeploy.errors import JobFailed, WorkerChanged, WorkerUnreachable, nearest
from airflow_jobdeploy.hooks import runtime, settings
from airflow_jobdeploy.operators import arguments
from airflow_jobdeploy.operators.waiting import DEFAULT_DEFERRABLE
from airflow_jobdeploy.triggers.goals import reached

if TYPE_CHECKING:
    from airflow_jobdeploy.core.status import JobHandle, JobState
    from airflow_jobdeploy.hooks.jobs import Jobs
    from airflow_jobdeploy.service import Workers


class JobStatusSensor(BaseSensorOperator):
    """Wait until every job of `job` has one of the target statuses.

    job: a handle, a job id (with worker_pool=), or a list. target_status: a status or a list of them (PENDING,
    SUSPENDED, RUNNING, SUCCEEDED, FAILED, CANCELLED, UNKNOWN). Fails at once, with the job's sentence, when a
    job has ended and can no longer get there. Being killed stops no job: they belong to other tasks.

    Returns the handles with their states: one, or a list.
    """

    template_fields: Sequence[str] = ("job", "target_status", "worker_pool")
    template_ext: Sequence[str] = ()
    ui_color = "#e8f4ea"

    def __init__(
        self,
        *,
        job: Any = None,
        target_status: str | Sequence[str] = "SUCCEEDED",
        worker_pool: str | None = None,
        deferrable: bool = DEFAULT_DEFERRABLE,
        poke_interval: timedelta | float = 5,
        **kwargs: Any,
    ) -> None:
        arguments.refuse_strangers(type(self).__name__, kwargs, {"template": arguments.UP, "job_spec": arguments.RUN})
        super().__init__(poke_interval=poke_interval, **kwargs)
        arguments.required("JobStatusSensor", "job", job, "job=up.output, a job id, or a list of handles")
        arguments.check_job("JobStatusSensor", job)
        self.job = job
        self.target_status = target_status
        self.worker_pool = worker_pool
        self.deferrable = deferrable
        self._pools: dict[str, Workers] = {}

    def execute(self, context: Any) -> Any:
        """Poke until done, or look once and hand over to the triggerer."""
        with self._connections():
            if not self.deferrable:
                return super().execute(context)
            looked = self.poke(context)
            if looked:
                return looked.xcom_value
            self._defer_or_poke(context)
            return super().execute(context)

    @contextmanager
    def _connections(self) -> Iterator[None]:
        """Connections made within are kept from poke to poke, and closed at the end."""
        try:
            yield
        finally:
            while self._pools:
                self._pools.popitem()[1].close()

    # -- poking ------------------------------------------------------------------------------------------------

    def poke(self, context: Any) -> PokeReturnValue:
        """Ask the workers once; connections are kept until the next poke of the same process."""
        jobs = self._jobs()
        goal = self._goal()
        states = [(handle, self._state(handle)) for handle in jobs.handles]
        for handle, state in states:
            self._check(handle, state, goal)
        done = all(state is not None and reached(goal, state) for _, state in states)
        told = [handle.with_state(state).to_dict() for handle, state in states if state is not None]
        return PokeReturnValue(is_done=done, xcom_value=told if jobs.many else next(iter(told), None))

    def _jobs(self) -> Jobs:
        from airflow_jobdeploy.hooks.jobs import read_jobs

        return read_jobs(self.job, worker_pool=self.worker_pool)

    def _state(self, handle: JobHandle) -> JobState | None:
        """What the worker says now; None when it cannot be asked, which is no end."""
        from airflow_jobdeploy.service import status

        workers = self._workers(handle.worker_pool)
        try:
            handle = self._found(handle)
            return status(workers, handle)
        except (WorkerUnreachable, WorkerChanged) as error:
            self.log.warning("Cannot ask for job %s now: %s", handle.job_id, error)
            workers.drop(handle.worker)
            return None

    def _workers(self, worker_pool: str) -> Workers:
        from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

        if worker_pool not in self._pools:
            self._pools[worker_pool] = JobDeployHook(worker_pool).get_conn()
        return self._pools[worker_pool]

    def _check(self, handle: JobHandle, state: JobState | None, goal: Sequence[str]) -> None:
        """Raise when the job can no longer reach the goal."""
        from airflow_jobdeploy.core.policy import is_over

        if state is None:
            return
        self.log.info("Job %s is %s: %s", handle.job_id, state.status, state.message)
        if _may_go_on(state):
            return
        if is_over(state) and not reached(goal, state):
            raise JobFailed(
                f"Job {handle.job_id} can no longer be {' or '.join(goal)}: {state.message}",
                status=state.status.value,
                reason=state.reason,
                exit_code=state.exit_code,
            )

    def _goal(self) -> list[str]:
        from airflow_jobdeploy.core.status import JobStatus

        given = [self.target_status] if isinstance(self.target_status, str) else list(self.target_status)
        known = [status.value for status in JobStatus]
        goal = [str(getattr(word, "value", word)).strip().upper() for word in given]
        for word in goal:
            if word not in known:
                raise ValueError(
                    f"target_status: {word!r} is no status; known are {', '.join(known)}.{nearest(word, known)}"
                )
        if not goal:
            raise ValueError(f"target_status is empty; give one or more of {', '.join(known)}")
        return goal

    # -- deferring ---------------------------------------------------------------------------------------------

    def _defer_or_poke(self, context: Any) -> None:
        """Hand over to the triggerer; returns when it could not watch the jobs, which stay with this process."""
        from airflow_jobdeploy.triggers.job import JobTrigger

        handles = [self._found(handle) for handle in self._jobs().handles]
        local = any(not self._reachable(handle) for handle in handles)
        if local and not (runtime.is_dag_test() or runtime.is_local_executor(self)):
            self.log.info("Not deferred: jobs of pool local run on the machine of their task.")
            return
        trigger = JobTrigger(
            jobs=[handle.to_dict() for handle in handles],
            goal=self._goal(),
            offset=None,
            local=local,
            owned=False,
            poll_interval=settings.poll_interval_s(),
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=timedelta(seconds=self.timeout))

    def _found(self, handle: JobHandle) -> JobHandle:
        from airflow_jobdeploy.hooks.jobdeploy import located

        return located(self._workers(handle.worker_pool), handle)

    def _reachable(self, handle: JobHandle) -> bool:
        backend = self._workers(handle.worker_pool).backend(handle.worker)
        return backend.capabilities.reachable_from_anywhere

    def execute_complete(self, context: Any, event: Mapping[str, Any]) -> Any:
        """Judge what the trigger saw; look again here when it saw nothing."""
        from airflow_jobdeploy.triggers.events import JobEvent

        news = JobEvent.from_dict(event)
        seen = {job.handle.job_id: job.handle.with_state(job.state).to_dict() for job in news.jobs if job.state}
        jobs = self._jobs()
        if news.elsewhere or any(handle.job_id not in seen for handle in jobs.handles):
            with self._connections():
                return super().execute(context)
        if any(job.state is not None and _may_go_on(job.state) for job in news.jobs):
            with self._connections():  # preempted: looked at here until its next attempt is there
                return super().execute(context)
        for job in news.jobs:
            self._check(job.handle, job.state, self._goal())
        told = [seen[handle.job_id] for handle in jobs.handles]
        return told if jobs.many else told[0]


def _may_go_on(state: JobState) -> bool:
    """Was the attempt preempted? Whoever waits for the job resumes it as another one."""
    from airflow_jobdeploy.core.status import JobStatus

    return state.status is JobStatus.SUSPENDED
