"""Assets that a job names become events of its task; its progress and metrics stand in the task's log."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, Asset, AssetAlias
from airflow.sdk.execution_time.context import OutletEventAccessors

from airflow_jobdeploy.operators import assets
from airflow_jobdeploy.operators.job import JobRunOperator
from tests.airflow.test_preemption import preempt_when
from tests.airflow.world import World, call

pytestmark = pytest.mark.airflow

MODEL, TABLE = "s3://bucket/model", "file:///srv/table"
SAID = [
    {"type": "progress", "done": 3, "total": 4, "text": "epoch 3"},
    {"type": "metric", "name": "loss", "value": 0.5, "step": 30},
    {"type": "asset", "uri": MODEL, "extra": {"accuracy": 0.9}},
    {"type": "asset", "uri": TABLE},
    {"type": "artifact", "path": "model.pt", "text": "the best"},
]


def saying(*messages: dict[str, Any], then: str = "") -> dict[str, Any]:
    lines = "".join(json.dumps(message) + "\n" for message in messages)
    return {"command": f'printf %s "$LINES" >>"$JOBDEPLOY_MESSAGES_FILE"; {then}', "env": {"LINES": lines}}


def events(dag_id: str) -> dict[str, dict[str, Any]]:
    """uri -> extra of the asset events that a DAG has made."""
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        rows = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == dag_id))
        return {row.asset.uri: dict(row.extra) for row in rows}


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_what_a_job_says_reaches_airflow(run_dag: Callable[..., Any], deferrable: bool) -> None:
    name = f"telling_{deferrable}"
    with DAG(name, schedule=None) as dag:
        JobRunOperator(
            task_id="run",
            job_spec=saying(*SAID, then="sleep 3" if deferrable else ""),
            outlets=[Asset(MODEL), AssetAlias("made")],
            deferrable=deferrable,
        )
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert events(name) == {MODEL: {"accuracy": 0.9}, TABLE: {}}
    for line in ("Progress: 75 % (3 of 4): epoch 3", "Metrics: loss=0.5 (step 30)", "Output model.pt: the best"):
        assert run.text.count(line) >= 1, line


def test_a_failed_task_makes_no_events(run_dag: Callable[..., Any]) -> None:
    with DAG("telling_in_vain", schedule=None) as dag:
        JobRunOperator(task_id="run", job_spec=saying(*SAID, then="exit 1"), outlets=[AssetAlias("in_vain")])
    assert run_dag(dag).state == "failed"
    assert events("telling_in_vain") == {}


def handed(outlets: list[Any], *named: dict[str, Any]) -> OutletEventAccessors:
    found = OutletEventAccessors()
    assets.hand_over(outlets, found, named, logging.getLogger("test"))
    return found


def test_what_is_not_declared_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        handed([Asset("s3://other")], {"uri": MODEL, "extra": {}})
    assert f"outlets=[Asset('{MODEL}')]" in caplog.text
    assert "AssetAlias(...)" in caplog.text


@pytest.mark.parametrize("uri", ["airflow://reserved", "x" * 2000, "   "])
def test_what_airflow_refuses_is_said(caplog: pytest.LogCaptureFixture, uri: str) -> None:
    found = handed([AssetAlias("a")], {"uri": uri, "extra": {}}, {"uri": MODEL, "extra": {}})
    assert "an asset that Airflow refuses" in caplog.text
    assert [event.dest_asset_key.uri for event in found[AssetAlias("a")].asset_alias_events] == [MODEL]


def test_a_declared_asset_needs_no_alias() -> None:
    found = handed([Asset(name="model", uri=MODEL), AssetAlias("a")], {"uri": MODEL, "extra": {"n": 1}})
    assert found[Asset(name="model", uri=MODEL)].extra == {"n": 1}
    assert found[AssetAlias("a")].asset_alias_events == []


def test_assets_of_an_attempt_that_was_preempted_count(world: World, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    text = """
say() { printf '{"type": "asset", "uri": "s3://b/%s", "extra": {"attempt": %d}}\\n' "$1" "$JOBDEPLOY_ATTEMPT" \
  >>"$JOBDEPLOY_MESSAGES_FILE"; }
say each; say "only-$JOBDEPLOY_ATTEMPT"
if [ "$JOBDEPLOY_ATTEMPT" = 1 ]; then echo begun >"$BEGUN"; exec sleep 60; fi
"""
    somebody = preempt_when(begun)
    spec = {"command": text, "env": {"BEGUN": str(begun)}, "preemptible": True}
    operator = JobRunOperator(task_id="t", job_spec=spec, outlets=[AssetAlias("a")])
    context = {**world.context(), "outlet_events": OutletEventAccessors()}
    done = call(operator, "execute", context)
    somebody.join()
    assert done["attempt"] == 2
    made = context["outlet_events"][AssetAlias("a")].asset_alias_events
    assert {event.dest_asset_key.uri: event.extra["attempt"] for event in made} == {
        "s3://b/each": 2, "s3://b/only-1": 1, "s3://b/only-2": 2,
    }  # fmt: skip
