"""What probes.py notes of a run, by names that need no Airflow."""

from __future__ import annotations

#: The environment variable that says below which folder.
RUNS = "E2E_RUNS"

#: The environment variable with the model of the only GPU of the machine.
GPU = "E2E_GPU"

#: A process of the task begins its part, or resumes it.
ERRAND = "errand"
#: Airflow calls `on_kill` of the operator.
TASK_KILLED = "task-killed"
#: The trigger begins.
WATCHED = "watched"
#: Airflow calls `on_kill` of the trigger, and it has come to its end.
TRIGGER_KILLED = "trigger-killed"
TRIGGER_SPARED = "trigger-killed-done"

#: The grace of the jobs, in seconds.
GRACE_S = 2
