"""`pools cordon`, `uncordon`, `drain`."""

from __future__ import annotations

import getpass
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from tests.cli.conftest import Cli, begun

Write = Callable[..., str]


def test_a_worker_is_cordoned_and_comes_back(cli: Cli, job: Write) -> None:
    me = getpass.getuser()
    done = cli("pools", "cordon", "local", "--why", "a new disk")
    assert (done.code, done.err) == (0, f"Worker local takes no new jobs: cordoned by {me}: a new disk.\n")
    (row,) = cli("pools", "test", "local", "-o", "json").data
    assert (row["state"], row["cordoned"]) == ("cordoned", f"cordoned by {me}: a new disk")
    planned = cli("plan", job("true"), "-o", "json")
    assert planned.code == 1
    (choice,) = planned.data["workers"]
    assert (choice["fit"], choice["why"]) == ("passing", f"takes no new jobs: cordoned by {me}: a new disk")
    refused = cli("run", job("true", schedule_timeout=1))
    assert refused.code == 1
    assert f"it takes no new jobs: cordoned by {me}: a new disk" in refused.err
    assert cli("pools", "uncordon", "local").err == "Worker local takes new jobs.\n"
    assert cli("run", job("echo back")).out == "back\n"


def test_draining_keeps_why_a_worker_is_cordoned(cli: Cli) -> None:
    cli("pools", "cordon", "local", "--why", "a new disk")
    assert "a new disk" in cli("pools", "drain", "local").err
    assert "a new fan" in cli("pools", "drain", "local", "--why", "a new fan").err
    cli("pools", "uncordon", "local")
    assert "drained" in cli("pools", "drain", "local").err


def test_a_job_with_a_demand_waits_until_the_worker_is_back(cli: Cli, job: Write) -> None:
    assert cli("pools", "cordon", "local").code == 0
    late = cli("run", job("true", cpu_count=0.01, schedule_timeout=1))
    assert late.code == 1
    assert "takes no new jobs: cordoned by" in late.err
    assert cli("pools", "uncordon", "local").code == 0


def test_draining_preempts_what_may_be_preempted(cli: Cli, job: Write) -> None:
    willing = cli("run", job("sleep 300 & wait", preemptible=True, on_orphan="continue"), "-d").out.strip()
    other = begun(cli, cli("run", job("sleep 300"), "-d").out.strip())
    done = cli("pools", "drain", "local")
    assert done.code == 1
    assert f"Job {willing} is told to make room." in done.err
    assert f"Job {other} (a job) is not preemptible, and goes on." in done.err
    assert "still there: wait for them with --wait, or stop them." in done.err
    assert cli("stop", other).code == 0
    assert cli("status", willing, "--wait", "-o", "json").data["status"] == "SUSPENDED"
    assert cli("pools", "drain", "local", "--wait").err.endswith("No job of ours is on worker local any more.\n")
    assert cli("pools", "uncordon", "local").code == 0


TEMPLATE = """
options: {preemptible: true}
builds:
  up: {type: script, content: "sleep 300"}
  down: {type: script, content: "true"}
"""


def test_draining_moves_templates_and_what_has_not_begun(
    cli: Cli, home: Path, job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = {"kind": "local", "workers": [{"slots": 1}]}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    (home / "up.yaml").write_text(TEMPLATE)
    up = begun(cli, cli("up", "up.yaml", "--worker-pool", "lab", "-d").out.strip(), "--worker-pool", "lab")
    waiting, task = (cli("run", job("echo ran"), "--worker-pool", "lab", "-d").out.strip() for _ in range(2))
    with JobDeployHook("lab").get_conn() as workers:
        workers.backend("local").set_owner(task, "task")  # as of one that a task waits for
    done = cli("pools", "drain", "lab", "--wait")
    assert done.code == 0
    assert f"Job {up} is told to make room." in done.err
    assert f"Job {task} is told to make room." in done.err
    assert f"Job {waiting} (a job) waits here until the worker takes jobs again." in done.err
    assert f"Job {task} SUSPENDED." in done.err
    assert cli("status", waiting, "--worker-pool", "lab", "-o", "json").data["status"] == "PENDING"
    assert cli("pools", "uncordon", "lab").code == 0
    assert cli("status", waiting, "--worker-pool", "lab", "--wait", "-o", "json").data["status"] == "SUCCEEDED"


def test_wrong_workers_are_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"kind": "ssh", "workers": [{"conn_id": "gpu_a"}, {"conn_id": "gpu_b"}]}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": extra}))
    done = cli("pools", "cordon", "lab")
    assert (done.code, "pool 'lab' has 2 workers: name those that are meant" in done.err) == (2, True)
    done = cli("pools", "drain", "lab", "gpu-a")
    assert done.code == 1
    assert "there is no worker 'gpu-a'. Did you mean 'gpu_a'?" in done.err
