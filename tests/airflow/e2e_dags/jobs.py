"""DAGs of the end-to-end test. Each job notes its attempt and pid, then runs until a file named `go` appears."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG

from airflow_jobdeploy.operators.job import JobRunOperator

COMMAND = """
trace={{ params.folder }}
echo "$JOBDEPLOY_ATTEMPT $$" >> "$trace/started"
echo begun in attempt $JOBDEPLOY_ATTEMPT
until [ -e "$trace/go" ]; do sleep 0.2; done
echo '{"answer": 42}' > "$JOBDEPLOY_RESULT_FILE"
echo finished
"""


def _dag(dag_id: str, **arguments: Any) -> DAG:
    with DAG(dag_id, schedule=None, params={"folder": ""}, is_paused_upon_creation=False) as dag:
        JobRunOperator(
            task_id="run",
            job_spec={"command": COMMAND, "grace": 2},
            retry_delay=timedelta(0),
            **arguments,
        )
    return dag


deferred = _dag("deferred", deferrable=True)
waiting = _dag("waiting", retries=1)
