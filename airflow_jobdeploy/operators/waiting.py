"""`SubmittingOperator`: the base of the operators that start a job, as light as a DAG file wants it.

What such a task does is in errand.py, which is imported when the task runs: Airflow parses DAG files again and
again, and what only a running task needs has no business there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import TaskDeferralTimeout

from airflow_jobdeploy.operators.base import JobDeployOperator
from airflow_jobdeploy.triggers.goals import ENDED

if TYPE_CHECKING:
    from airflow_jobdeploy.operators.errand import Errand
    from airflow_jobdeploy.service import Work

#: The key of the intent in the task's state store.
INTENT = "jobdeploy_intent"

DEFAULT_DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class SubmittingOperator(JobDeployOperator):
    """Base of the operators that start a job.

    wait_for_completion: False returns when the job has been brought on its way (see the operators).
    deferrable: hand the wait over to the triggerer after `[jobdeploy] defer_after` seconds.
    poll_interval: seconds for which a trigger gathers news before it tells them.
    """

    #: What `wait_for_completion=False` waits for: words of triggers.goals.
    early_goal: Sequence[str] = ENDED

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
        self._under_way: Errand | None = None

    @property
    def goal(self) -> Sequence[str]:
        """What the task waits for: words of triggers.goals."""
        return ENDED if self.wait_for_completion else self.early_goal

    def work(self, context: Mapping[str, Any], *, returning: bool = False) -> Work | None:
        """What the task submits, read and checked: for its first attempt, and anew for each later one.

        `returning`: an earlier submission is known, which says what code goes. None: there are no later attempts.
        """
        return None

    def errand(self, context: Mapping[str, Any], *, intent_key: str = INTENT) -> Errand:
        """The task's run in this process."""
        from airflow_jobdeploy.operators.errand import Errand

        self._under_way = Errand(self, context, intent_key=intent_key)
        return self._under_way

    def execute_complete(self, context: Mapping[str, Any], event: dict[str, Any]) -> dict[str, Any]:
        """Go on where the trigger left off."""
        return self.errand(context).resume(event)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """For the OpenLineage provider: datasets, code and job (lineage.py)."""
        return None if self._under_way is None else self._under_way.lineage(self.datasets())

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """The same of a task that failed."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def datasets(self) -> list[tuple[str, str]]:
        """What the job reads, as lineage.dataset has it."""
        return []

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Any) -> Any:
        """As Airflow has it; where execution_timeout passed while deferred, the job is stopped."""
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except TaskDeferralTimeout:
            self.errand(context).stop_for_timeout()
            raise

    def on_kill(self) -> None:
        """Runs in a signal handler: only wakes the wait, which asks what is meant (interrupts.py)."""
        if self._under_way is not None:
            self._under_way.ring()
