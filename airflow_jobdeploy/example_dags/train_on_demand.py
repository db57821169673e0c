"""### Train a model when somebody asks for it

The trigger form is made from the template: its parameters, their types, bounds and descriptions.
`up` brings [templates/demo.yaml](templates/demo.yaml) up on a worker and waits for it, with the training's log in the
task's log; `get` downloads what it made; `down` takes the resource down, also when the training failed.

**On a machine of your own**: add a connection of type `ssh` (Admin, Connections), say `gpu-a`, and give `gpu-a` as
`worker_pool`. Nothing needs to be installed there but python3.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pendulum
from airflow.sdk import DAG, Param, task

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.template import TemplateDownOperator, TemplateUpOperator
from airflow_jobdeploy.params import template_params

TEMPLATE = "templates/demo.yaml"
#: What the Variable that other examples ask for is in the environment, where a DAG file may look for it.
POOL = os.environ.get("AIRFLOW_VAR_JOBDEPLOY_WORKER_POOL", "local")
MODELS = Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "models"

with DAG(
    dag_id="train_on_demand",
    schedule=None,
    # It runs only when asked: it need not be switched on first.
    is_paused_upon_creation=False,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    params={
        **template_params(TEMPLATE),
        "worker_pool": Param(
            POOL,
            type="string",
            minLength=1,
            title="Worker pool",
            description="Where to train: local is this machine; the id of an ssh connection is that host.",
        ),
    },
    tags=["example", "jobdeploy"],
    doc_md=__doc__,
) as dag:
    up = TemplateUpOperator(
        task_id="up",
        template=TEMPLATE,
        # template_params is not given: the run's params of these names are taken.
        project_dir="examples/characters",
        worker_pool="{{ params.worker_pool }}",
    )
    get = ArtifactDownloadOperator(task_id="get", job=up.output, dest=f"{MODELS}/train_on_demand/{{{{ run_id }}}}")
    down = TemplateDownOperator(task_id="down", job=up.output)

    @task
    def report(download: Any) -> dict[str, Any]:
        """Say how good the model is; the metrics are this task's result."""
        folder = Path(download["dest"])
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        print(
            f"{metrics['name']}: {metrics['accuracy']:.1%} right, {metrics['baseline']:.1%} by guessing. See {folder}"
        )
        return metrics

    up >> get >> report(get.output)
    # A teardown without a setup runs however the tasks before it ended: also a failed training is taken down.
    get >> down.as_teardown()
