"""Tasks whose jobs wait for a GPU of a pool of two engines; and one of the engines that is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.job import JobRunOperator
from tests.airflow.conftest import Door
from tests.servers.dockerd import IMAGE, Dockerd
from tests.servers.nvidia import EngineGpus, equipped

pytestmark = [pytest.mark.airflow, pytest.mark.docker]

Engines = list[tuple[Dockerd, EngineGpus]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engines]:
    folder = tmp_path_factory.mktemp("gpus")
    with equipped(folder / "a", 1) as first, equipped(folder / "b", 1) as second:
        yield [first, second]


@pytest.fixture
def engines(pair: Engines, airflow_db: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    """Pool `pair`: one GPU each."""
    pool = {"kind": "docker", "workers": [{"url": engine.url} for engine, _ in pair], "image": IMAGE}
    monkeypatch.setenv("AIRFLOW_CONN_PAIR", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    yield pair
    for engine, _ in pair:
        engine.wipe()


def wants(command: str, **fields: Any) -> dict[str, Any]:
    return {"command": command, "gpu_types": [{"type": "H200"}], "grace": 1, **fields}


def held(pool: str = "pair") -> dict[str, list[str]]:
    """Worker -> the jobs that hold GPUs there."""
    found: dict[str, list[str]] = {}
    with JobDeployHook(pool).get_conn() as workers:
        for worker in workers.pool.workers:
            leases = workers.backend(worker.name).room().leases
            found[worker.name] = [str(lease["job"]) for lease in leases if lease["gpus"]]
    return found


def test_a_deferred_task_gets_the_gpu_when_it_is_free(
    engines: Engines, run_dag: Callable[..., Any], door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEFER_AFTER", "0.2")
    hook = JobDeployHook("pair")
    holders = [hook.start(job_spec=wants("exec sleep 300")) for _ in engines]
    assert sorted(holder["worker"] for holder in holders) == sorted(engine.url for engine, _ in engines)
    with DAG("pair_line", schedule=None) as dag:
        JobRunOperator(
            task_id="waits",
            job_spec=wants('echo "mine is $CUDA_VISIBLE_DEVICES"'),
            worker_pool="pair",
            deferrable=True,
        )
    kill = threading.Thread(target=kill_for_the_trigger, args=(holders[1], door), daemon=True)
    kill.start()
    run = run_dag(dag)
    kill.join(60)
    assert run.state == "success", run.text
    assert "Waiting for 1 H200" in run.text
    assert "in line on 2 workers" in run.text
    worker = [engine.url for engine, _ in engines].index(holders[1]["worker"])
    assert f"mine is {engines[worker][1].uuids[0]}" in run.text
    hook.stop(holders[0])
    assert {job for jobs in held().values() for job in jobs} == set()


def kill_for_the_trigger(holder: Any, door: Door) -> None:
    """Once there is a ticket after the task has deferred, and so taken back its own."""
    hook = JobDeployHook("pair")
    with hook.get_conn() as workers:
        backend = workers.backend(holder["worker"])
        until = time.monotonic() + 60
        while not (door.path.exists() and backend.room().tickets):
            assert time.monotonic() < until
            time.sleep(0.05)  # no event tells of the tickets of others
    hook.stop(holder)


def test_who_waits_for_an_engine_that_is_lost_goes_elsewhere(engines: Engines) -> None:
    hook = JobDeployHook("pair")
    holders = {holder["worker"]: holder for holder in (hook.start(job_spec=wants("exec sleep 300")) for _ in engines)}
    lost, other = engines[0][0], engines[1][0]
    found: list[Any] = []
    waits = threading.Thread(target=lambda: found.append(hook.start(job_spec=wants("echo served"))), daemon=True)
    waits.start()
    with hook.get_conn() as workers:
        backend = workers.backend(lost.url)
        until = time.monotonic() + 60
        while not backend.room().tickets:
            assert time.monotonic() < until
            time.sleep(0.05)
    lost.kill()
    hook.stop(holders[other.url])
    waits.join(120)
    assert [job["worker"] for job in found] == [other.url]
    until = time.monotonic() + 60
    while (status := hook.status(found[0])["status"]) in ("PENDING", "RUNNING"):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert status == "SUCCEEDED"
    lost.start()
    assert held() == {lost.url: [], other.url: []}, "its jobs have ended with it"
