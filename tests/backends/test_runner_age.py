"""Runners of other releases go when nobody has used them for a week; one that a process imports from never."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.channel import LocalClient
from airflow_jobdeploy.backends.payload import payload
from airflow_jobdeploy.core.plan import Limits, Plan, Step, new_uid
from airflow_jobdeploy.hostside.collect import RUNNER_S, collect
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.backends.clients import host
from tests.contract.steps import launch, outcome
from tests.faults.processes import eventually


def aged(path: Path) -> Path:
    """As if nobody had come for longer than a week."""
    then = time.time() - RUNNER_S - 1
    os.utime(path, (then, then))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "ro ot'"


def paths(root: Path) -> HostPaths:
    return HostPaths(str(root), next((root / "hosts").iterdir()).name)


def test_an_unused_runner_goes_and_a_young_one_stays(root: Path) -> None:
    (root / "runner" / "old" / "__pycache__").mkdir(parents=True)
    (root / "runner" / "half.1234").mkdir()
    (root / "runner" / "young").mkdir()
    for name in ("old", "half.1234"):
        aged(root / "runner" / name)
    with host(LocalClient(), root) as worker:
        assert worker.facts().root == str(root)
        collect(paths(root))
    assert sorted(path.name for path in (root / "runner").iterdir()) == sorted([payload().digest, "young"])


def test_a_session_holds_its_runner_and_the_next_one_makes_it_young(root: Path) -> None:
    runner = root / "runner" / payload().digest
    with host(LocalClient(), root) as worker:
        worker.facts()
        aged(runner)
        collect(paths(root))
        assert runner.is_dir()
    with host(LocalClient(), root) as worker:
        worker.facts()
        assert time.time() - runner.stat().st_mtime < RUNNER_S
    # What a session does beside its work may still be under way, and holds it.
    eventually(lambda: _goes(runner, root))
    with host(LocalClient(), root) as worker:
        assert worker.facts().root == str(root), "sent again"


def _goes(runner: Path, root: Path) -> bool:
    aged(runner)
    collect(paths(root))
    return not runner.exists()


def test_a_supervisor_holds_its_runner_after_the_session(root: Path) -> None:
    runner = root / "runner" / payload().digest
    step = Step(name="job", kind="shell", content="exec sleep 300")
    plan = Plan(uid=new_uid(), steps=(step,), limits=Limits(grace_s=1.0))
    with host(LocalClient(), root) as worker:
        launch(worker, plan)
    aged(runner)
    collect(paths(root))
    assert runner.is_dir()
    with host(LocalClient(), root) as worker:
        worker.stop(plan.job_id, reason="over", by="pytest")
        assert outcome(worker, plan.job_id).reason == "Cancelled"
