"""Artifacts to wherever Airflow's connections lead: operator, hook and command line on a real S3 server."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, ObjectStoragePath

from airflow_jobdeploy.errors import JobDeployError, StagingError
from airflow_jobdeploy.hooks.destinations import target
from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.packing.folder import Folder
from tests.airflow.world import World, call
from tests.servers.s3 import S3
from tests.servers.sshd import Sshd
from tests.servers.sshd import sshd as sshd
from tests.servers.wire import wired

pytestmark = pytest.mark.airflow

MODEL = {"command": 'cd "$JOBDEPLOY_OUTPUT_DIR"; echo data > model.bin; mkdir plots; echo x > plots/a.svg'}


@pytest.fixture
def bucket(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket that the connection `lab` reaches."""
    from airflow.sdk.io import store

    extra = {"endpoint_url": s3.url, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "access-key", "password": "secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps(connection))
    yield s3.bucket()
    store._STORE_CACHE.clear()


def connection_to(host: Sshd, port: int) -> dict[str, Any]:
    extra = {"key_file": str(host.key_file), "host_key": host.host_key, "look_for_keys": "false"}
    return {"conn_type": "ssh", "host": "127.0.0.1", "port": port, "login": host.user, "extra": extra}


def test_a_dag_brings_artifacts_to_s3_and_skips_what_is_there(
    run_dag: Callable[..., Any],
    s3: S3,
    bucket: str,
) -> None:
    dest = f"s3://lab@{bucket}/models/{{{{ run_id }}}}"
    with DAG("to_s3", schedule=None) as dag:
        train = JobRunOperator(task_id="train", job_spec=MODEL)
        get = ArtifactDownloadOperator(task_id="get", job=train.output, dest=dest)
        again = ArtifactDownloadOperator(task_id="again", job=train.output, dest=ObjectStoragePath(dest))
        many = ArtifactDownloadOperator(
            task_id="many", job=[train.output], dest=f"s3://lab@{bucket}/all/", patterns="*.bin"
        )
        get >> again >> many
    run = run_dag(dag)
    assert run.state == "success", run.text
    place = run.xcom("get")["dest"]
    assert place == f"s3://lab@{bucket}/models/{run.dag_run.run_id}"
    assert (ObjectStoragePath(place) / "model.bin").read_bytes() == b"data\n"
    assert (run.xcom("get")["bytes"], run.xcom("again")["skipped"]) == (7, 2)
    job_id = run.xcom("train")["job_id"]
    assert s3.fs().cat_file(f"{bucket}/all/{job_id}/model.bin") == b"data\n"
    assert "2 files in s3://lab@" in run.text
    assert "secret-key" not in run.text


def test_a_bucket_that_is_not_there_fails_the_task_with_a_sentence(run_dag: Callable[..., Any], bucket: str) -> None:
    with DAG("no_bucket", schedule=None) as dag:
        train = JobRunOperator(task_id="train", job_spec=MODEL)
        ArtifactDownloadOperator(task_id="get", job=train.output, dest="s3://lab@no-such-bucket/x")
    run = run_dag(dag)
    assert run.states() == {"train": "success", "get": "failed"}
    assert "cannot write to s3://lab@no-such-bucket/x: The specified bucket does not exist" in run.text


@pytest.mark.parametrize("dest", ["models", "/srv/a b", "~/x", "file:///srv/a%20b", "local:///srv/x", "a:b/c"])
def test_what_is_a_folder(dest: str) -> None:
    place = target(dest)
    assert isinstance(place, Folder)
    assert place.name.startswith("/")
    assert "%20" not in place.name


def test_a_connection_that_is_not_there() -> None:
    with pytest.raises(JobDeployError, match=r"s3://nobody@b/x: there is no Airflow connection 'nobody'"):
        target("s3://nobody@b/x")


def test_a_scheme_without_a_provider() -> None:
    with pytest.raises(
        StagingError, match=r"cannot use gs://b/x: No filesystem registered.*apache-airflow-providers-go"
    ):
        target("gs://b/x")


def test_partial_output_of_a_running_job(run_dag: Callable[..., Any], tmp_path: Path) -> None:
    command = 'echo 1 > "$JOBDEPLOY_OUTPUT_DIR/half"; exec sleep 300'
    with DAG("partial", schedule=None) as dag:
        train = JobRunOperator(task_id="train", job_spec={"command": command}, wait_for_completion=False)
        early = ArtifactDownloadOperator(task_id="early", job=train.output, dest=tmp_path / "no")
        get = ArtifactDownloadOperator(
            task_id="get", job=train.output, dest=tmp_path / "got", partial=True, trigger_rule="all_done"
        )
        train >> early >> get
    run = run_dag(dag)
    assert run.states() == {"train": "success", "early": "failed", "get": "success"}
    assert "is RUNNING: what it writes is not complete" in run.text
    assert os.listdir(tmp_path / "got") in (["half"], [])


@pytest.mark.sshd
def test_an_ssh_worker_sends_its_files_straight_to_s3(
    run_dag: Callable[..., Any],
    sshd: Sshd,
    s3: S3,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_GPU_A", json.dumps(connection_to(sshd, sshd.port)))
    with DAG("straight", schedule=None) as dag:
        train = JobRunOperator(task_id="train", job_spec=MODEL, worker_pool="gpu_a")
        get = ArtifactDownloadOperator(task_id="get", job=train.output, dest=f"s3://lab@{bucket}/direct", direct=True)
        through = ArtifactDownloadOperator(task_id="through", job=train.output, dest=f"s3://lab@{bucket}/through")
        get >> through
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert f"The worker sends its files straight to s3://lab@{bucket}/direct." in run.text
    # The store's address is that of this machine, and an SSH host is another one as far as anybody knows.
    assert "Files go through this machine: 127.0.0.1 is another machine there." in run.text
    for place in ("direct", "through"):
        assert s3.fs().cat_file(f"{bucket}/{place}/model.bin") == b"data\n"
    assert "Signature=" not in run.text


@pytest.mark.sshd
def test_a_task_that_is_told_to_end_keeps_what_it_has(
    world: World, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 60_000_000
    spec = {"command": f'head -c {size} /dev/urandom > "$JOBDEPLOY_OUTPUT_DIR/big"'}
    with wired("127.0.0.1", sshd.port) as wire:
        monkeypatch.setenv("AIRFLOW_CONN_GPU_A", json.dumps(connection_to(sshd, wire.port)))
        operator = JobRunOperator(task_id="t", job_spec=spec, worker_pool="gpu_a")
        handle = call(operator, "execute", world.context())
        wire.rate = 5_000_000  # nobody is told to end after the end
        get = ArtifactDownloadOperator(task_id="get", job=handle, dest=tmp_path / "got")
        told_to_end(get, world, tmp_path)
        assert not (tmp_path / "got" / "big").exists()
        wire.rate = 0
        again = ArtifactDownloadOperator(task_id="get", job=handle, dest=tmp_path / "got")
        report = call(again, "execute", world.context())
    assert report["bytes"] < size - 4_000_000, "it went on where the first was"
    assert (tmp_path / "got" / "big").stat().st_size == size
    assert os.listdir(tmp_path / "got") == ["big"]


def told_to_end(get: ArtifactDownloadOperator, world: World, tmp_path: Path) -> None:
    """Fetch, and end that when some of it has come."""
    over = threading.Event()

    def end() -> None:
        while not over.wait(0.002):
            if any(path.stat().st_size > 5_000_000 for path in tmp_path.glob("got/.jobdeploy-*/*")):
                get.on_kill()
                return

    killer = threading.Thread(target=end)
    killer.start()
    try:
        with pytest.raises(StagingError, match="told to end while fetching"):
            call(get, "execute", world.context())
    finally:
        over.set()
        killer.join()
