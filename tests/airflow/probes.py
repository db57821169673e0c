"""For the DAGs of the end-to-end tests: our operator and trigger, noting when Airflow calls them, as tests measure.

A note is a file below `$E2E_RUNS/<run id>`, with a line for each time; notes.py has their names.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from airflow.sdk import DAG
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_jobdeploy.operators.errand import Errand
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.triggers.job import JobTrigger
from tests.airflow.notes import ERRAND, GRACE_S, RUNS, TASK_KILLED, TRIGGER_KILLED, TRIGGER_SPARED, WATCHED


def note(run_id: str, what: str) -> None:
    with (Path(os.environ[RUNS]) / run_id / what).open("a") as file:
        file.write(f"{time.time()}\n")


class ProbedTrigger(JobTrigger):
    """`JobTrigger`, noted."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{ProbedTrigger.__name__}", super().serialize()[1]

    def _note(self, what: str) -> None:
        note(self.task_instance.run_id, what)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        self._note(WATCHED)
        async for event in super().run():
            yield event

    async def on_kill(self) -> None:
        self._note(TRIGGER_KILLED)
        await super().on_kill()
        self._note(TRIGGER_SPARED)


class ProbedRun(JobRunOperator):
    """`JobRunOperator`, noted."""

    _run_id = ""

    def errand(self, context: Mapping[str, Any], **more: Any) -> Errand:
        self._run_id = str(context["run_id"])
        note(self._run_id, ERRAND)
        return super().errand(context, **more)

    def on_kill(self) -> None:
        note(self._run_id, TASK_KILLED)
        super().on_kill()

    def defer(self, *, trigger: BaseTrigger, **more: Any) -> NoReturn:
        if isinstance(trigger, JobTrigger):
            trigger = ProbedTrigger(**trigger.serialize()[1])
        super().defer(trigger=trigger, **more)


#: The job notes its attempt and pid, then runs until a file named `go` appears. It does not care for SIGTERM, so that
#: its end takes its whole grace, and the KILL after it.
COMMAND = """
trap '' TERM
trace={{ params.folder }}
echo "$JOBDEPLOY_ATTEMPT $$" >> "$trace/started"
echo begun in attempt $JOBDEPLOY_ATTEMPT
until [ -e "$trace/go" ]; do sleep 0.2; done
echo '{"answer": 42}' > "$JOBDEPLOY_RESULT_FILE"
echo finished
"""

TELL = """
printf '%s\\n' "$SAYS" >> "$JOBDEPLOY_MESSAGES_FILE"
"""


def probed_dag(
    dag_id: str, *, says: Mapping[str, Any] | None = None, wants: Mapping[str, Any] | None = None, **arguments: Any
) -> DAG:
    """A DAG of one task, `run`. `says`: what its job writes to its messages file; `wants`: more of its job spec."""
    params = {"folder": "", "project": ""}
    with DAG(dag_id, schedule=None, params=params, is_paused_upon_creation=False, max_active_runs=64) as dag:
        ProbedRun(
            task_id="run",
            job_spec={
                "command": TELL + COMMAND,
                "env": {"SAYS": json.dumps(says or {})},
                "grace": GRACE_S,
                **(wants or {}),
            },
            retry_delay=timedelta(0),
            **arguments,
        )
    return dag
