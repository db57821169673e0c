"""DAGs of the end-to-end tests."""

from __future__ import annotations

import os
from datetime import timedelta

from airflow.sdk import AssetAlias

from tests.airflow.notes import GPU
from tests.airflow.probes import probed_dag

deferred = probed_dag(
    "deferred",
    deferrable=True,
    says={"type": "asset", "uri": "s3://bucket/model", "extra": {"accuracy": 0.9}},
    outlets=[AssetAlias("models")],
)
#: Has to wait while a test holds the GPU.
in_line = probed_dag(
    "in_line", deferrable=True, wants={"gpu_types": [{"type": os.environ.get(GPU, "none"), "count": 1}]}
)
waiting = probed_dag("waiting", retries=1)
#: Its project takes long to send.
staging = probed_dag("staging", worker_pool="far", project_dir="{{ params.project }}")
timed_waiting = probed_dag("timed_waiting", execution_timeout=timedelta(seconds=10))
timed_deferred = probed_dag("timed_deferred", deferrable=True, execution_timeout=timedelta(seconds=10))
