"""A task.yaml of DDL in a DAG, on a real SSH host whose pool has storage."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator
from tests.servers.sshd import Sshd
from tests.servers.sshd import sshd as sshd

pytestmark = [pytest.mark.airflow, pytest.mark.sshd]

MAIN = """\
import os
def main(dataset_dir, model_output_dir):
    seen = os.environ["JOBDEPLOY_VOLUMES_DIR"] + "/mnt/seen"
    with open(seen + "/attempts", "a") as file:
        file.write("one\\n")
    with open(os.path.join(model_output_dir, "model.bin"), "w") as file:
        file.write(open(os.path.join(dataset_dir, "my_data.tfrecord")).read().upper())
    return {"accuracy": 0.9}
"""
TASK = """\
email: ann@example.org
password: hunter2
job_data:
  dataset:
    dataset_location: storage:sets/digits
  worker_required: 1
volumes: ["storage:seen:/mnt/seen", "storage:sets:/mnt/sets:ro"]
"""


@pytest.fixture
def lab(sshd: Sshd, airflow_db: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A pool of one ssh host, with storage that holds a dataset."""
    extra = {"key_file": str(sshd.key_file), "host_key": sshd.host_key, "look_for_keys": "false"}
    connection = {"conn_type": "ssh", "host": "127.0.0.1", "port": sshd.port, "login": sshd.user, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_GPU_A", json.dumps(connection))
    (tmp_path / "storage/sets/digits").mkdir(parents=True)
    (tmp_path / "storage/sets/digits/my_data.tfrecord").write_text("data")
    storage = {"root": str(tmp_path / "storage")}
    pool = {"kind": "ssh", "workers": [{"conn_id": "gpu_a"}], "root": str(tmp_path / "root"), "storage": storage}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    return "lab"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    path = tmp_path / "example_project"
    path.mkdir()
    (path / "main.py").write_text(MAIN)
    (path / "task.yaml").write_text(TASK)
    subprocess.run(["git", "init", "-q"], cwd=path, check=True)
    commit(path)
    return path


def commit(project: Path) -> None:
    who = ["-c", "user.name=ann", "-c", "user.email=a@b.c"]
    for words in (["add", "-A"], [*who, "commit", "-qm", "All"]):
        subprocess.run(["git", *words], cwd=project, check=True)


def test_train_and_fetch(lab: str, project: Path, run_dag: Callable[..., Any], tmp_path: Path) -> None:
    with DAG("ddl", schedule=None) as dag:
        train = JobRunOperator(task_id="train", job_spec=str(project / "task.yaml"), worker_pool=lab)
        ArtifactDownloadOperator(task_id="get", job=train.output, dest=tmp_path / "out")
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert (tmp_path / "out/model.bin").read_text() == "DATA"
    assert run.xcom("train")["result"] == {"accuracy": 0.9}
    assert (tmp_path / "storage/seen/attempts").read_text() == "one\n"
    assert "task.yaml:2: password is not needed here and is not kept." in run.text
    assert "the volume at /mnt/sets is read-only by agreement" in run.text
    kept = b"".join(path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file())
    for secret in ("hunter2", "ann@example.org"):
        assert secret not in run.text + json.dumps(run.xcom("train"))
        assert secret.encode() not in kept


def test_what_is_wrong_fails_before_anything_starts(lab: str, project: Path, run_dag: Callable[..., Any]) -> None:
    (project / "main.py").write_text(MAIN.replace("_dir):", "_dir)"))
    commit(project)
    with DAG("ddl_wrong", schedule=None) as dag:
        JobRunOperator(task_id="train", job_spec=str(project / "task.yaml"), worker_pool="local")
    run = run_dag(dag)
    assert run.states() == {"train": "failed"}
    assert "3 problems in the job spec" in run.text
    assert "main.py:2: expected ':'" in run.text
    assert "pool 'local' has no storage. Add storage: {root: /a/folder/of/its/workers} to the pool." in run.text
    assert run.xcom("train") is None
