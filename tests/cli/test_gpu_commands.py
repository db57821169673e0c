"""Commands about GPUs, on a machine with two that are not there."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Cli
from tests.faults.processes import eventually
from tests.servers.dockerd import IMAGE
from tests.servers.gpus import FakeGpus
from tests.servers.nvidia import equipped

Write = Callable[..., str]


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    found = FakeGpus(tmp_path / "bin", model="NVIDIA A100-SXM4-80GB", memory_mib=81920)
    monkeypatch.setenv("PATH", f"{found.folder}{os.pathsep}{os.environ['PATH']}")
    return found


def test_plan_says_which_gpus(cli: Cli, job: Write, gpus: FakeGpus) -> None:
    done = cli("plan", job("true", gpu_types=[{"type": "A100", "memory": "80GB"}]), "-o", "json")
    assert done.code == 0, done.err
    (row,) = done.data["workers"]
    assert (row["fit"], row["gpus"]) == ("now", [gpus.uuids[0]])
    assert row["why"] == "gets GPU 0 (NVIDIA A100-SXM4-80GB); 2 of 2 free"
    assert done.data["demand"] == "1 A100 of 80.0 GiB or more"


def test_plan_says_what_the_pool_has(cli: Cli, job: Write, gpus: FakeGpus) -> None:
    done = cli("plan", job("true", gpu_types=[{"type": "A10", "count": 2}]))
    assert done.code == 1
    _, row = done.out.splitlines()
    assert row.split()[:2] == ["local", "never"]
    assert "needs 2 GPU A10, has 2 NVIDIA A100-SXM4-80GB" in row
    assert "no worker of pool 'local' has 2 A10. Did you mean 'A100'?" in done.err
    assert "It has 2 NVIDIA A100-SXM4-80GB (1 worker)." in done.err
    large = cli("plan", job("true", gpu_types=[{"type": "A100", "memory": "141GB"}]), "-o", "json")
    assert [row["fit"] for row in large.data["workers"]] == ["never"]
    assert "has 1 A100 of 141.0 GiB or more. It has 2 NVIDIA A100-SXM4-80GB of 80.0 GiB (1 worker)." in large.err


def test_gpus_of_a_driver_that_hangs_may_come_back(cli: Cli, job: Write, gpus: FakeGpus) -> None:
    gpus.hang()
    done = cli("plan", job("true", gpu_types=[{"type": "A100"}]), "-o", "json")
    (row,) = done.data["workers"]
    assert (done.code, row["fit"]) == (1, "passing")
    assert "needs 1 GPU A100; its GPUs are not known: " in row["why"]
    assert cli("plan", job("true", cpu_count=0.1), "-o", "json").data["workers"][0]["fit"] in ("now", "waits")


def test_usage_counts_the_hours_of_gpus(cli: Cli, job: Write, gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    wanted = {"gpu_types": [{"type": "any", "count": 2}], "team": "vision"}
    seen = cli("run", job('echo "$CUDA_VISIBLE_DEVICES"; sleep 1', **wanted))
    assert seen.code == 0, seen.err
    assert sorted(seen.out.strip().split(",")) == sorted(gpus.uuids)
    assert cli("run", job("true")).code == 0
    rows = {row["owner"]: row for row in cli("pools", "ls", "--usage", "--worker-pool", "local", "-o", "json").data}
    assert rows["ada"]["jobs"] == 1
    assert 2.0 / 3600 <= rows["ada"]["gpu_hours"] < 0.1
    assert (rows["ada"]["gpus_now"], rows[""]["gpu_hours"]) == (0, 0)
    table = cli("pools", "ls", "--usage", "--worker-pool", "local").out.splitlines()
    assert table[0].split() == ["POOL", "OWNER", "TEAM", "GPUS", "NOW", "GPU", "HOURS", "JOBS"]
    assert table[1].split() == ["local", "ada", "vision", "0", f"{rows['ada']['gpu_hours']:.2f}", "1"]


@pytest.mark.airflow
def test_sync_keeps_a_pool_of_airflow(
    cli: Cli, airflow_db: None, gpus: FakeGpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert synced(cli, "local") == [("local", "jobdeploy.local", 2, 2)]
    assert airflow_pool("jobdeploy.local") == (2, True)
    gpus.say_gpus("")  # they are gone
    dead = {"conn_type": "ssh", "host": "127.0.0.1", "port": 1, "login": "me"}
    monkeypatch.setenv("AIRFLOW_CONN_DEAD", json.dumps(dead))
    done = cli("pools", "sync", "dead", "nowhere")
    assert done.code == 1
    assert "warning: worker dead: its GPUs are not counted" in done.err
    assert "error: worker pool 'nowhere'" in done.err
    assert "nowhere" in [line.strip() for line in done.out.splitlines()]
    assert airflow_pool("jobdeploy.dead") is None


def synced(cli: Cli, *names: str) -> list[tuple[Any, ...]]:
    done = cli("pools", "sync", *names, "-o", "json")
    assert done.code == 0, done.err
    return [(row["worker_pool"], row["airflow_pool"], row["gpus"], row["slots"]) for row in done.data]


def airflow_pool(name: str) -> tuple[int, bool] | None:
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = session.execute(select(Pool.slots, Pool.include_deferred).where(Pool.pool == name)).first()
    return (found[0], found[1]) if found else None


@pytest.mark.docker
@pytest.mark.sshd
def test_gpus_of_a_host_and_of_an_engine_are_an_error_of_both_pools(
    cli: Cli, host: str, job: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with equipped(tmp_path / "gpus") as (engine, gpus):
        hosts = {"kind": "ssh", "workers": [{"conn_id": host}], "login_path": f"{gpus.folder}:{os.environ['PATH']}"}
        twice = {**hosts, "workers": [{"conn_id": host}, {"conn_id": host, "host": "localhost"}]}
        engines = {"kind": "docker", "workers": [{"url": engine.url}], "image": IMAGE}
        for name, pool in (("HOSTS", hosts), ("ENGINES", engines), ("TWICE", twice)):
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
        both = job("true", gpu_types=[{"type": "H200", "count": 2}])
        wanted = cli("plan", both, "--worker-pool", "engines", "-o", "json")
        assert wanted.data["workers"][0]["gpus"] == gpus.uuids
        smi = "nvidia-smi --query-gpu=index,uuid,memory.total,driver_version,mig.mode.current,name "
        seen = job(
            f"{smi} --format=csv,noheader,nounits; echo $CUDA_VISIBLE_DEVICES",
            "seen.yaml",
            gpu_types=[{"type": "H200"}],
        )
        done = cli("run", seen, "--worker-pool", "engines")
        assert done.code == 0, done.err
        assert [uuid in done.out for uuid in gpus.uuids] == [True, False]
        assert done.out.splitlines()[-1] == gpus.uuids[0]
        one = job("true", "strange.yaml", gpu_types=[{"type": "H20"}])
        strange = cli("plan", one, "--worker-pool", "engines")
        assert "no worker of pool 'engines' has 1 H20. Did you mean 'H200'? It has 2 NVIDIA H200" in strange.err
        assert cli("pools", "cordon", "engines", "--why", "a new disk").code == 0
        assert "takes no new jobs: cordoned by" in cli("plan", both, "--worker-pool", "engines", "-o", "json").out
        assert cli("pools", "uncordon", "engines").code == 0
        for name in ("hosts", "engines"):
            # A host that has just begun to look at its GPUs may say that it does not know them yet.
            eventually(lambda name=name: cli("pools", "test", name).err == "")
            done = cli("pools", "test", name)
            assert (done.code, done.err) == (0, ""), name
            assert "2 NVIDIA H200" in done.out
        done = cli("pools", "test", "hosts", "engines")
        assert done.code == 1
        assert f"error: worker pools 'engines' and 'hosts': GPUs {', '.join(sorted(gpus.uuids))} are that" in done.err
        assert engine.url in done.err
        assert "are the same machine" in cli("pools", "test", "twice").err
        done = cli("plan", job("true", cpu_count=1), "--worker-pool", "twice")
        assert done.code == 1
        assert "workers: 'gpu_a' and 'localhost' are the same machine" in done.err


@pytest.mark.docker
def test_plan_says_which_gpus_of_which_engine(
    cli: Cli, job: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with equipped(tmp_path / "gpus") as (engine, gpus):
        pool = {"kind": "docker", "workers": [{"url": engine.url}], "image": IMAGE}
        monkeypatch.setenv("AIRFLOW_CONN_ENGINES", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
        at = ("--worker-pool", "engines")
        both = job("exec sleep 300", gpu_types=[{"type": "H200", "count": 2}], grace=1)
        (row,) = cli("plan", both, *at, "-o", "json").data["workers"]
        assert (row["fit"], sorted(row["gpus"])) == ("now", sorted(gpus.uuids))
        holder = cli("run", both, *at, "-d").out.strip()
        spec = job('echo "mine: $CUDA_VISIBLE_DEVICES"', gpu_types=[{"type": "H200"}])
        (row,) = cli("plan", spec, *at, "-o", "json").data["workers"]
        assert row["fit"] == "waits"
        usage = cli("pools", "ls", "--usage", *at, "-o", "json").data
        assert sum(each["gpus_now"] for each in usage) == 2
        assert cli("stop", holder, *at).code == 0
        done = cli("run", spec, *at)
        assert (done.code, done.out) == (0, f"mine: {gpus.uuids[0]}\n"), done.err
