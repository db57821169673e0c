"""### A model that has been downloaded starts the DAGs that wait for it

`train_for_others` trains and downloads; its last task has the asset `fresh_model` among its outlets. `use_fresh_model`
is scheduled by that asset, and finds in the event where the files are: the operator puts what it returns there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, Asset, task

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.template import TemplateDownOperator, TemplateUpOperator

MODELS = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "models"
FRESH = Asset("fresh_model")


def report_on(events: Any) -> list[float]:
    """How good the new models are."""
    found = []
    for event in events[FRESH]:
        metrics = json.loads((Path(event.extra["dest"]) / "metrics.json").read_text(encoding="utf-8"))
        print(f"{event.extra['dest']}: {metrics['accuracy']:.1%} right")
        found.append(metrics["accuracy"])
    return found


with DAG(
    dag_id="train_for_others",
    schedule="@weekly",
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "jobdeploy"],
    doc_md=__doc__,
) as producer:
    up = TemplateUpOperator(
        task_id="up",
        template="templates/demo.yaml",
        template_params={"name": "for others", "epochs": 5},
        project_dir="examples/characters",
        worker_pool="{{ var.value.get('jobdeploy_worker_pool', 'local') }}",
    )
    get = ArtifactDownloadOperator(
        task_id="get", job=up.output, dest=f"{MODELS}/train_for_others/{{{{ run_id }}}}", outlets=[FRESH]
    )
    get >> TemplateDownOperator(task_id="down", job=up.output).as_teardown()

with DAG(
    dag_id="use_fresh_model",
    schedule=[FRESH],
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    catchup=False,
    tags=["example", "jobdeploy"],
    doc_md=__doc__,
) as consumer:

    @task
    def report(triggering_asset_events: Any = None) -> list[float]:
        return report_on(triggering_asset_events)

    report()
