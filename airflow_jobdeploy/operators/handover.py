"""From a task to the triggerer: may it be handed over, and with which trigger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any, NoReturn, Protocol

from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.hooks import runtime, settings
from airflow_jobdeploy.service import Work, Workers
from airflow_jobdeploy.service.line import Wait
from airflow_jobdeploy.triggers.job import CHECKPOINT, DEFERRED_BY, JobTrigger, untold
from airflow_jobdeploy.triggers.line import LineTrigger


class Task(Protocol):
    """What an errand needs of its operator."""

    deferrable: bool
    poll_interval: float | None
    do_xcom_push: bool
    execution_timeout: timedelta | None
    outlets: list[Any]

    @property
    def log(self) -> Any: ...

    @property
    def goal(self) -> Sequence[str]: ...

    def work(self, context: Mapping[str, Any], *, returning: bool = False) -> Work | None: ...

    def defer(self, *, trigger: Any, method_name: str, timeout: timedelta | int | float | None) -> NoReturn: ...


class Handover:
    """Of one task. What hands over never returns: Airflow ends the process."""

    def __init__(self, task: Task, context: Mapping[str, Any]) -> None:
        self._task = task
        self._context = context

    def can_follow(self, workers: Workers, handle: JobHandle) -> bool:
        """Can a triggerer watch this job? Says why not, where it was asked for."""
        if not self._task.deferrable:
            return False
        if self._is_reachable(workers, handle.worker):
            return True
        self._task.log.info(
            "Not deferred: jobs of pool %s run on the machine of their task, and the triggerer may be on another one "
            "(only LocalExecutor puts both on one machine). The task waits itself.",
            handle.worker_pool,
        )
        return False

    def can_wait(self, workers: Workers) -> bool:
        """Can a triggerer stand in line for a job?"""
        return self._task.deferrable and self._is_reachable(workers, workers.pool.workers[0].name)

    def _is_reachable(self, workers: Workers, worker: str) -> bool:
        """Is this worker the same for a triggerer?"""
        if workers.backend(worker).capabilities.reachable_from_anywhere:
            return True
        return bool(runtime.is_dag_test() or runtime.is_local_executor(self._task))

    def of_job(self, workers: Workers, handle: JobHandle, offset: int) -> NoReturn:
        """The triggerer follows the job, and its log from `offset` on."""
        ti, asked = self._context["ti"], self._task.poll_interval
        ti.xcom_push(key=DEFERRED_BY, value=str(ti.id))
        ti.xcom_push(key=CHECKPOINT, value=untold(handle, offset))
        trigger = JobTrigger(
            jobs=[handle.to_dict()],
            goal=list(self._task.goal),
            offset=offset,
            local=not workers.backend(handle.worker).capabilities.reachable_from_anywhere,
            poll_interval=settings.poll_interval_s() if asked is None else float(asked),
            checkpoint_interval=settings.checkpoint_interval_s(),
        )
        self._defer(trigger)

    def of_wait(self, wait: Wait, sequel: Sequel | None) -> NoReturn:
        """The triggerer stands in line. `sequel`: of the attempt that waits, where it is not the first."""
        self._defer(LineTrigger(wait=wait.to_dict(), sequel=asdict(sequel) if sequel else None))

    def _defer(self, trigger: JobTrigger | LineTrigger) -> NoReturn:
        timeout = runtime.time_left(self._context["ti"], self._task.execution_timeout)
        self._task.defer(trigger=trigger, method_name="execute_complete", timeout=timeout)
