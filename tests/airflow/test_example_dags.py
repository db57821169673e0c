"""The shipped DAGs, run as they are."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

EXAMPLES = ("train_on_demand", "scheduled_retraining", "backfill_outputs", "retrain_and_promote")


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


def test_retraining_remembers_and_promotes_what_is_better(run_dag: Callable[..., Any]) -> None:
    place = models() / "retrain_and_promote"
    kept: list[float] = []
    for night in (1, 2):
        run = run_dag(example("retrain_and_promote"), logical_date=datetime(2026, 1, night, tzinfo=timezone.utc))
        assert run.state == "success", run.text
        tried = [json.loads(line) for line in (place / "memory.jsonl").read_text().splitlines()]
        assert len(tried) == night, "each night is remembered"
        better = tried[-1]["accuracy"] > max(kept, default=0.0)
        assert run.states()["promote"] == ("success" if better else "skipped")
        kept += [tried[-1]["accuracy"]]
        assert json.loads((place / "promoted" / "metrics.json").read_text())["accuracy"] == max(kept)
        assert (place / "promoted" / "model.joblib").stat().st_size > 1_000_000
    assert tried[0]["choice"] != tried[1]["choice"]
    assert max(kept) > 0.9
    assert "epoch 4/4" in run.text
    # The second night brought nothing to the worker that was there already.
    assert run.text.count("is on worker local already: nothing is sent") == 2
    assert "there already, " in run.text


def test_a_download_starts_who_waits_for_it(run_dag: Callable[..., Any]) -> None:
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    shipped = importlib.import_module("airflow_jobdeploy.example_dags.asset_outlets")
    run = run_dag(shipped.producer)
    assert run.state == "success", run.text
    with create_session() as session:
        [event] = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == "train_for_others"))
        extra = dict(event.extra)
    assert extra["dest"] == run.xcom("get")["dest"]
    assert extra["file_count"] == 3
    assert [asset.name for asset in shipped.consumer.timetable.asset_condition.objects] == ["fresh_model"]
    [accuracy] = shipped.report_on({shipped.FRESH: [SimpleNamespace(extra=extra)]})
    assert accuracy > 0.9
