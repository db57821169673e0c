"""`PreemptionRetryPolicy`: Airflow's own retries for what was preempted or lost, and for nothing else of ours.

    JobRunOperator(..., job_spec={..., "on_preemption": "retry"}, retries=20, retry_policy=PreemptionRetryPolicy())

The next try goes on from the job's checkpoint. Needed only by those who would rather see each attempt as a
try of its own: by default a preempted job is resumed inside one try, and `retries` are left to the user's errors.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import RetryDecision, RetryPolicy

from airflow_jobdeploy.core.status import Reason
from airflow_jobdeploy.errors import JobFailed

#: Ends that say nothing about the user's code.
_NOT_THE_USERS = frozenset({Reason.PREEMPTED.value, Reason.WORKER_LOST.value})


class PreemptionRetryPolicy(RetryPolicy):
    """Retry at once after a preemption or a lost worker; fail at once when the job failed by itself.

    delay: seconds before the next try. Errors that are not a job's end (a worker that cannot be asked, a bad
    connection) are left to the task's `retries` and `retry_delay`.
    """

    def __init__(self, delay: float = 1.0) -> None:
        self.delay = delay

    def evaluate(self, exception: BaseException, try_number: int, max_tries: int, context: Any = None) -> RetryDecision:
        """What Airflow does after this exception."""
        if not isinstance(exception, JobFailed):
            return RetryDecision.default()
        if exception.reason in _NOT_THE_USERS:
            reason = f"{exception.reason} on try {try_number} of {max_tries + 1}"
            return RetryDecision.retry(delay=timedelta(seconds=self.delay), reason=reason)
        return RetryDecision.fail(f"the job failed by itself ({exception.reason}): not a preemption")
