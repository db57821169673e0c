"""A deferrable task that waits by itself for long: alone in its file, which is the only one that its process reads."""

from __future__ import annotations

import os

from tests.airflow.probes import probed_dag

os.environ["AIRFLOW__JOBDEPLOY__DEFER_AFTER"] = "600"

patient = probed_dag("patient", deferrable=True)
