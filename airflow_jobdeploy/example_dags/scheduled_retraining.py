"""### Retrain every night, and publish the model only if it is good enough

`train` and its `down` are a setup and its teardown: what lies between them is what the resource is for. The last task
updates the asset `characters_model`, on which other DAGs can be scheduled.

The worker pool is the Airflow Variable `jobdeploy_worker_pool` (missing: `local`, this machine).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, task

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.template import TemplateDownOperator, TemplateUpOperator

MODELS = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "models"
GOOD_ENOUGH = 0.9
MODEL = Asset("characters_model")

with DAG(
    dag_id="scheduled_retraining",
    schedule="0 3 * * *",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    max_active_runs=1,
    tags=["example", "jobdeploy"],
    doc_md=__doc__,
) as dag:
    train = TemplateUpOperator(
        task_id="train",
        template="templates/demo.yaml",
        template_params={"name": "nightly", "epochs": 20},
        project_dir="examples/characters",
        worker_pool="{{ var.value.get('jobdeploy_worker_pool', 'local') }}",
        retries=1,
    ).as_setup()
    get = ArtifactDownloadOperator(
        task_id="get", job=train.output, dest=f"{MODELS}/scheduled_retraining/{{{{ run_id }}}}"
    )
    down = TemplateDownOperator(task_id="down", job=train.output).as_teardown(setups=train)

    @task(outlets=[MODEL])
    def publish(download: Any) -> str:
        """Put the model where its users look, in one step; a model that is not good enough fails the run instead."""
        made = Path(download["dest"])
        accuracy = json.loads((made / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
        if accuracy < GOOD_ENOUGH:
            raise ValueError(f"accuracy {accuracy:.1%} is below {GOOD_ENOUGH:.0%}: the old model stays; see {made}")
        fresh = MODELS / "characters.json.new"
        shutil.copyfile(made / "model.json", fresh)
        return str(fresh.replace(MODELS / "characters.json"))

    train >> get >> publish(get.output) >> down
