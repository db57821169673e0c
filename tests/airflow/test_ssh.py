"""The same DAGs on a real SSH host: one `ssh` connection is a pool of one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.operators.template import TemplateDownOperator, TemplateUpOperator
from tests.servers.sshd import Sshd
from tests.servers.sshd import sshd as sshd

pytestmark = [pytest.mark.airflow, pytest.mark.sshd]

TEMPLATE = {
    "builds": {
        "up": {
            "type": "script",
            "content": 'cat name.txt; sleep 1\necho "$TOKEN" > "$JOBDEPLOY_OUTPUT_DIR/token"\necho done with ü\n',
        },
        "down": {"type": "script", "content": "echo taken down"},
    },
    "options": {"secret_env": {"TOKEN": "conn:vault.password"}},
}


@pytest.fixture
def host(sshd: Sshd, airflow_db: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An ssh connection to a real sshd; its host key is verified."""
    extra = {"key_file": str(sshd.key_file), "host_key": sshd.host_key, "look_for_keys": "false"}
    connection = {"conn_type": "ssh", "host": "127.0.0.1", "port": sshd.port, "login": sshd.user, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_GPU_A", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps({"conn_type": "generic", "password": "s3cret of mine"}))
    return "gpu_a"


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_up_download_down(host: str, run_dag: Callable[..., Any], tmp_path: Path, deferrable: bool) -> None:
    project = tmp_path / "it's a project"
    project.mkdir()
    (project / "name.txt").write_text("sent over ssh\n")
    with DAG(f"ssh_{deferrable}".lower(), schedule=None) as dag:
        up = TemplateUpOperator(
            task_id="up", template=TEMPLATE, project_dir=project, worker_pool=host, deferrable=deferrable
        )
        get = ArtifactDownloadOperator(task_id="get", job=up.output, dest=tmp_path / "out")
        down = TemplateDownOperator(task_id="down", job=up.output, deferrable=deferrable)
        get >> down
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "sent over ssh" in run.text
    assert "done with ü" in run.text
    assert (tmp_path / "out" / "token").read_text() == "s3cret of mine\n"
    handle = run.xcom("up")
    assert (handle["worker_pool"], handle["worker"]) == (host, host)
    assert "s3cret" not in run.text
    assert "s3cret" not in json.dumps(handle)


def test_the_hook_and_the_test_button(host: str) -> None:
    hook = JobDeployHook(host)
    well, line = hook.test_connection()
    assert well, line
    handle = hook.start(job_spec={"command": "echo hi; exec sleep 300", "grace": 1})
    assert hook.status(handle["job_id"])["status"] in ("PENDING", "RUNNING")
    assert handle["job_id"] in [row["plan"]["job_id"] for row in hook.list(live_only=True)]
    ended = hook.stop(handle, reason="test")
    assert ended["status"] == "CANCELLED"
    assert hook.read_log(handle) in (b"hi\n", b"")
    hook.forget(handle)
    assert hook.status(handle)["reason"] == "RecordMissing"


def test_an_unknown_host_key_is_refused(host: str, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"key_file": str(sshd.key_file), "look_for_keys": "false"}
    connection = {"conn_type": "ssh", "host": "127.0.0.1", "port": sshd.port, "login": sshd.user, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_GPU_B", json.dumps(connection))
    well, line = JobDeployHook("gpu_b").test_connection()
    assert not well
    assert "The host key is not known yet" in line


def test_a_pool_of_two_passes_over_the_dead_one(
    host: str, run_dag: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_DEAD", json.dumps({"conn_type": "ssh", "host": "127.0.0.1", "port": 1, "login": "x"})
    )
    extra = {"kind": "ssh", "workers": [{"conn_id": "dead"}, {"conn_id": host}]}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": extra}))
    with DAG("lab", schedule=None) as dag:
        JobRunOperator(task_id="run", job_spec={"command": "echo here", "worker_pool": "lab"})
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "Passed over worker dead" in run.text
    assert run.xcom("run")["worker"] == host
