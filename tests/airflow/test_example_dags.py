"""The shipped DAGs, run as they are."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

EXAMPLES = ("train_on_demand", "scheduled_retraining", "backfill_outputs")


def example(name: str) -> Any:
    return importlib.import_module(f"airflow_jobdeploy.example_dags.{name}").dag


def models() -> Path:
    return Path(os.environ["AIRFLOW_HOME"]) / "models"


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_dag_explains_itself(name: str) -> None:
    dag = example(name)
    assert dag.dag_id == name
    assert dag.doc_md.startswith("### ")


def test_the_trigger_form_is_the_template(airflow_db: None) -> None:
    form = example("train_on_demand").params
    assert list(form) == ["name", "epochs", "learning_rate", "seed", "worker_pool"]
    epochs = form.get_param("epochs")
    assert (epochs.value, epochs.schema["type"], epochs.schema["minimum"]) == (40, "integer", 1)


def test_train_on_demand(run_dag: Callable[..., Any]) -> None:
    run = run_dag(example("train_on_demand"), run_conf={"name": "my first", "epochs": 2})
    assert run.state == "success", run.text
    report = run.xcom("report")
    assert report["name"] == "my first"
    assert report["accuracy"] > 0.9
    assert run.xcom("up")["result"]["accuracy"] == report["accuracy"]


def test_a_value_that_the_form_would_refuse_starts_nothing(run_dag: Callable[..., Any]) -> None:
    with pytest.raises(Exception, match="epochs"):
        run_dag(example("train_on_demand"), run_conf={"epochs": 0})


def test_scheduled_retraining_publishes_the_model(run_dag: Callable[..., Any]) -> None:
    run = run_dag(example("scheduled_retraining"))
    assert run.state == "success", run.text
    assert set(run.states().values()) == {"success"}
    assert json.loads((models() / "characters.json").read_text())["labels"]


def test_backfill_keeps_the_days_apart(run_dag: Callable[..., Any]) -> None:
    for day in (1, 2, 2):
        run = run_dag(example("backfill_outputs"), logical_date=datetime(2026, 1, day, tzinfo=timezone.utc))
        assert run.state == "success", run.text
    made = models() / "backfill_outputs"
    assert sorted(path.name for path in made.iterdir()) == ["2026-01-01", "2026-01-02"]
    for day in made.iterdir():
        assert sorted(path.name for path in day.iterdir()) == ["metrics.json", "model.json"]
        assert json.loads((day / "metrics.json").read_text())["name"] == f"daily-{day.name}"
