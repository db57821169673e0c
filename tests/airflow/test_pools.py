"""Names of pools, references to secrets, and what is said about wrong ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.pool import Worker
from airflow_jobdeploy.errors import JobDeployError, PoolError, StagingError
from airflow_jobdeploy.hooks.connect import proxy_command
from airflow_jobdeploy.hooks.engines import _login
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.hooks.pools import worker_pool
from airflow_jobdeploy.hooks.references import resolve_secret


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch, airflow_db: None) -> Any:
    def add(conn_id: str, **fields: Any) -> str:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))
        return conn_id

    return add


def test_local_always_exists() -> None:
    pool = worker_pool("local")
    assert (pool.kind, [worker.name for worker in pool.workers]) == ("local", ["local"])


def test_an_ssh_connection_is_a_pool_of_one(connection: Any) -> None:
    pool = worker_pool(connection("gpu_a", conn_type="ssh", host="10.0.0.7"))
    assert (pool.name, pool.kind) == ("gpu_a", "ssh")
    assert [(worker.name, worker.conn_id) for worker in pool.workers] == [("gpu_a", "gpu_a")]


def test_a_described_pool(connection: Any) -> None:
    extra = {"kind": "ssh", "workers": [{"conn_id": "c", "hosts": "gpu[01-03]"}], "root": "", "pool_file": None}
    pool = worker_pool(connection("lab", conn_type="jobdeploy", extra=extra))
    assert [worker.name for worker in pool.workers] == ["gpu01", "gpu02", "gpu03"]
    assert pool.root == "~/.jobdeploy"


def test_a_pool_file(connection: Any, tmp_path: Path) -> None:
    path = tmp_path / "the lab's.yaml"
    path.write_text("kind: local\nroot: /srv/jobs\n")
    pool = worker_pool(connection("lab", conn_type="jobdeploy", extra={"kind": "ssh", "pool_file": str(path)}))
    assert (pool.name, pool.kind, pool.root) == ("lab", "local", "/srv/jobs")


def test_a_pool_file_and_workers(connection: Any) -> None:
    extra = {"pool_file": "x.yaml", "workers": [{"conn_id": "c"}]}
    with pytest.raises(PoolError, match="pool_file and workers are given"):
        worker_pool(connection("lab", conn_type="jobdeploy", extra=extra))


def test_a_wrong_pool_names_its_connection(connection: Any) -> None:
    with pytest.raises(PoolError) as caught:
        worker_pool(connection("lab", conn_type="jobdeploy", extra={"kind": "ssh", "worker": []}))
    assert "lab" in str(caught.value)
    assert "workers" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ({"host": "unix:///var/run/docker.sock"}, "unix:///var/run/docker.sock"),
        ({"host": "tcp://gpu-a:2376"}, "tcp://gpu-a:2376"),
        ({"host": "tcp://gpu-a", "port": 2376}, "tcp://gpu-a:2376"),
        ({"host": "ssh://me@gpu-a:24022"}, "ssh://me@gpu-a:24022"),
    ],
)
def test_a_docker_connection_whose_host_is_an_engine_is_a_pool_of_one(
    fields: dict[str, Any], url: str, connection: Any
) -> None:
    has_tls = url.startswith("tcp:")
    extra = {"registry": "hub", "image": "python:3.12", **({"tls": {"ca_cert": "/ca.pem"}} if has_tls else {})}
    pool = worker_pool(connection("engine", conn_type="docker", extra=extra, **fields))
    assert (pool.name, pool.kind, pool.image) == ("engine", "docker", "python:3.12")
    (worker,) = pool.workers
    assert (worker.name, worker.url, worker.registry) == ("engine", url, "hub")
    assert (worker.tls.ca_cert if worker.tls else None) == ("/ca.pem" if has_tls else None)


@pytest.mark.parametrize("host", ["registry.example:5000", "https://index.docker.io/v1/", ""])
def test_a_docker_connection_whose_host_is_a_registry_is_no_pool(host: str, connection: Any) -> None:
    with pytest.raises(PoolError, match=r"a registry, not an engine\..*registry: hub"):
        worker_pool(connection("hub", conn_type="docker", host=host, login="me"))


def test_logins_are_for_their_own_registry(connection: Any) -> None:
    connection("hub", conn_type="docker", host="registry.example", port=5000, login="me", password="s3cret!")
    login = _login(Worker(url="unix:///x", registry="hub"))
    assert login("python:3.12") is None
    assert login("registry.example/team/x") is None
    found = login("registry.example:5000/team/x:1")
    assert found == {"username": "me", "password": "s3cret!", "serveraddress": "registry.example:5000"}
    with pytest.raises(StagingError, match="there is no Airflow connection 'gone'"):
        _login(Worker(url="unix:///x", registry="gone"))("python")


def test_other_types_say_what_would_do(connection: Any) -> None:
    with pytest.raises(PoolError, match=r"of type 'http'\. A worker pool is `local`"):
        worker_pool(connection("web", conn_type="http", host="x"))


def test_an_unknown_pool(airflow_db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PROCESS_CONTEXT", "server")  # as in parts of Airflow, which ask its database
    with pytest.raises(PoolError, match=r"there is no Airflow connection 'nowhere'.*Add it under Admin, Connections"):
        worker_pool("nowhere")


def test_a_program_that_is_no_task_is_told_where_pools_come_from(airflow_db: None) -> None:
    code = "from airflow_jobdeploy.hooks.apolo import get\nwith get('engines'): pass"
    env = {key: value for key, value in os.environ.items() if key != "_AIRFLOW_PROCESS_CONTEXT"}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True).stderr
    assert "this program is no task" in said.lower()
    assert """set AIRFLOW_CONN_ENGINES='{"conn_type": "jobdeploy",""" in said
    assert said.count("Traceback") == 1


def test_secrets(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connection("db", conn_type="postgres", login="me", password="s3cret!", extra={"key": "k v", "nested": {"a": 1}})
    monkeypatch.setenv("AIRFLOW_VAR_TOKEN", "t0ken")
    assert resolve_secret("conn:db.password") == "s3cret!"
    assert resolve_secret("conn:db.login") == "me"
    assert resolve_secret("conn:db.extra.key") == "k v"
    assert resolve_secret("var:TOKEN") == "t0ken"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("s3cret", "no reference to a secret"),
        ("conn:", "no reference to a secret"),
        ("conn:db.passwd", "'passwd' is no field of a connection.* Did you mean 'password'"),
        ("conn:db.extra.kay", "has no 'kay'. Did you mean 'key'"),
        ("conn:db.port", "has no port"),
        ("conn:nowhere.password", "there is no Airflow connection 'nowhere'"),
        ("var:NOPE_X", "there is no Airflow Variable 'NOPE_X'"),
    ],
)
def test_wrong_references(reference: str, message: str, connection: Any) -> None:
    connection("db", conn_type="postgres", password="s3cret!", extra={"key": "k"})
    with pytest.raises(JobDeployError, match=message) as caught:
        resolve_secret(reference)
    assert "s3cret!" not in str(caught.value)


def test_the_test_button_on_this_machine(home: Path) -> None:
    well, line = JobDeployHook("local").test_connection()
    assert well, line
    assert "local: " in line
    assert "Python" in line


def test_the_test_button_says_what_is_wrong(connection: Any) -> None:
    connection("gpu_x", conn_type="ssh", host="127.0.0.1", port=1, login="me")
    well, line = JobDeployHook("gpu_x").test_connection()
    assert not well
    assert "gpu_x: cannot connect" in line


@pytest.mark.parametrize(
    ("config", "command"),
    [
        ("Host gpu\n  ProxyJump bastion\n", "-o BatchMode=yes -W gpu:2222 bastion"),
        ("Host gpu\n  ProxyJump me@a:22,b:2200\n", "-o BatchMode=yes -W gpu:2222 -J me@a:22 -p 2200 b"),
        ("Host gpu\n  ProxyJump none\n", None),
        ("Host other\n  ProxyJump bastion\n", None),
    ],
)
def test_a_jump_host_of_the_ssh_config(config: str, command: str | None, tmp_path: Path) -> None:
    (tmp_path / "config").write_text(config)
    through = command and f"ssh -F {tmp_path / 'config'} {command}"
    assert proxy_command("gpu", 2222, tmp_path / "config") == through
    assert proxy_command("gpu", 2222, tmp_path / "missing") is None
