"""### One model a day, safe to backfill

Every run writes to a folder of its own, named by its date: runs of many days can go at once, and a run that is cleared
writes to the same place again and nowhere else. Files that are there and whole are not downloaded twice.

    airflow backfill create --dag-id backfill_outputs --from-date 2026-01-01 --to-date 2026-01-07

The worker pool is the Airflow Variable `jobdeploy_worker_pool` (missing: `local`, this machine).
"""

from __future__ import annotations

import os
from pathlib import Path

import pendulum
from airflow.sdk import DAG

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.template import TemplateDownOperator, TemplateUpOperator

MODELS = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "models"
# A run that was triggered by hand may have no logical date; run_after is always there.
DAY = "{{ (dag_run.logical_date or dag_run.run_after).strftime('%Y-%m-%d') }}"

with DAG(
    dag_id="backfill_outputs",
    schedule="@daily",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=2,
    tags=["example", "jobdeploy"],
    doc_md=__doc__,
) as dag:
    train = TemplateUpOperator(
        task_id="train",
        template="templates/demo.yaml",
        template_params={"name": f"daily-{DAY}", "epochs": 5},
        project_dir="examples/characters",
        worker_pool="{{ var.value.get('jobdeploy_worker_pool', 'local') }}",
    )
    get = ArtifactDownloadOperator(
        task_id="get",
        job=train.output,
        dest=f"{MODELS}/backfill_outputs/{DAY}",
        patterns=["metrics.json", "model.json"],
    )
    down = TemplateDownOperator(task_id="down", job=train.output)

    train >> get >> down.as_teardown()
