"""GPU-hours, from records as workers give them."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_jobdeploy.core.usage import Usage, usage_of


def row(owner: str, asked: int = 0, held: tuple[str, ...] = (), **state: Any) -> dict[str, Any]:
    demand = {"gpus": [{"count": asked}] if asked else []}
    lease = {"gpus": list(held), "ticket": {"owner": owner, "demand": demand}}
    return {"plan": {"lease": lease}, "state": {"status": "SUCCEEDED", **state}}


def test_hours_are_gpus_times_time_by_owner() -> None:
    found = usage_of(
        [
            row("ada", held=("a", "b"), usage={"wall_s": 3600.0}),
            row("ada", held=("a",), status="RUNNING", running_s=1800.0),
            row("ada", asked=4, status="PENDING"),
            row("bob", asked=2, usage={"wall_s": 7200.0}),
            row("bob", held=("a",), facts={"gpus": ["a", "b", "c"]}, usage={"wall_s": 600.0}),
            {"plan": {}, "state": {"status": "FAILED", "running_s": None}},
        ]
    )
    assert [usage.owner for usage in found] == ["bob", "ada", ""]
    assert [usage.gpu_hours for usage in found] == [pytest.approx(4.5), pytest.approx(2.5), 0]
    assert found[1] == Usage(owner="ada", jobs=3, gpus_now=1, gpu_hours=found[1].gpu_hours)


def test_the_hours_of_an_owner_are_told_apart_by_team() -> None:
    rows = [row("ada", held=("a",), usage={"wall_s": 3600.0}), row("ada", held=("a",), usage={"wall_s": 1800.0})]
    rows[1]["plan"]["lease"]["ticket"]["team"] = "vision"
    found = [(usage.owner, usage.team, usage.gpu_hours) for usage in usage_of(rows)]
    assert found == [("ada", "", pytest.approx(1)), ("ada", "vision", pytest.approx(0.5))]


def test_nothing_used_is_nothing() -> None:
    assert usage_of([]) == []
