"""GPUs, limits and the pool's storage on Docker engines."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from tests.contract.steps import launch, log, outcome, wait_ready, wait_until
from tests.servers import disks
from tests.servers.dockerd import IMAGE, Dockerd
from tests.servers.dockerd import dockerd as dockerd

pytestmark = pytest.mark.docker

FAKE = ("/dev/null:/dev/nvidia0", "/dev/zero:/dev/nvidiactl")


@pytest.fixture
def engine(dockerd: Dockerd) -> Iterator[Dockerd]:
    yield dockerd
    dockerd.wipe()


def backend_of(engine: Dockerd, **security: Any) -> DockerBackend:
    settings = Settings(image=IMAGE, security=Security(**security))
    return DockerBackend(worker="engine", connect=engine.client, settings=settings)


def job(content: str, **options: Any) -> Plan:
    return Plan(**{"uid": new_uid(), "steps": (Step(name="job", kind="shell", content=content),), **options})


def run(backend: DockerBackend, plan: Plan) -> JobState:
    backend.claim(plan)
    backend.prepare(plan.job_id)
    backend.start(plan.job_id)
    return outcome(backend, plan.job_id)


def failed(engine: Dockerd, state: JobState) -> str:
    """Why a job could not be started; no container of it is left."""
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP), state
    assert [entry for entry in engine.client().containers(all=True) if entry["State"] == "created"] == []
    return state.message


# -- GPUs -----------------------------------------------------------------------------------------------------------


def test_without_a_driver_a_job_with_gpus_fails_and_says_why(engine: Dockerd) -> None:
    state = run(backend_of(engine), job("true", container={"gpus": 2}))
    assert "has no GPU driver for containers: install the NVIDIA container toolkit" in failed(engine, state)


def test_gpus_are_asked_of_the_engines_runtime(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("true", container={"gpus": 2})
    backend.claim(plan)
    host = engine.client().inspect_container(plan.job_id)["HostConfig"]
    wanted = {"Driver": "", "Count": 2, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": None}
    assert host["DeviceRequests"] == [{**wanted, "Options": host["DeviceRequests"][0]["Options"]}]
    assert not host["DeviceRequests"][0]["Options"]


def test_device_files_take_the_place_of_a_runtime(engine: Dockerd) -> None:
    backend = backend_of(engine, devices=FAKE)
    plan = job("ls -l /dev/nvidia0; cat /dev/nvidia0; head -c 1 /dev/nvidiactl | wc -c", container={"gpus": 1})
    assert run(backend, plan).status is JobStatus.SUCCEEDED
    assert b"1,   3" in log(backend, plan.job_id)
    none = job("ls /dev/nvidia* 2>&1; echo $NVIDIA_VISIBLE_DEVICES")
    run(backend, none)
    assert b"No such file" in log(backend, none.job_id)
    assert log(backend, none.job_id).endswith(b"void\n")


def test_a_device_that_is_not_there_is_told(engine: Dockerd) -> None:
    state = run(backend_of(engine, devices=("/dev/no-such-gpu",)), job("true", container={"gpus": 1}))
    assert "a device file of the pool's `devices` is not on the engine's machine" in failed(engine, state)


def test_one_job_at_a_time_has_the_engines_gpus(engine: Dockerd) -> None:
    backend = backend_of(engine, devices=FAKE)
    first = job("echo ready; while :; do sleep 300; done", container={"gpus": 1}, worker_pool="a")
    launch(backend, first)
    wait_ready(backend, first.job_id)
    second = job("echo two", container={"gpus": 1}, worker_pool="b", secret_env={"A": "b"})
    third = job("echo three", container={"gpus": 2}, worker_pool="a", slots=4)
    plain = job("echo none", worker_pool="a")
    for plan in (second, third):
        launch(backend, plan)
        assert backend.poll([plan.job_id])[plan.job_id].reason == Reason.QUEUED
    assert run(backend, plain).status is JobStatus.SUCCEEDED
    backend.stop(first.job_id, reason="test", grace_s=0.1)
    waiting = [second.job_id, third.job_id]
    states = wait_until(backend, waiting, lambda states: all(state.status.is_finished for state in states.values()))
    assert {state.status for state in states.values()} == {JobStatus.SUCCEEDED}


# -- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "said"),
    [
        ({"disk_space_bytes": 1 << 30}, "disk_space cannot be bounded there"),
        ({"cpu_count": 5000}, "there are not so many CPUs"),
        ({"memory_bytes": 1 << 20}, "the memory limit is too small"),
    ],
)
def test_limits_that_an_engine_cannot_keep_are_told(engine: Dockerd, container: dict[str, Any], said: str) -> None:
    assert said in failed(engine, run(backend_of(engine), job("true", container=container)))


def test_disk_space_is_bounded_where_the_storage_driver_can() -> None:
    folder = Path(tempfile.mkdtemp(prefix="jdd-"))
    try:
        with disks.with_quotas(folder / "data"):
            engine = Dockerd(folder)
            try:
                engine.start()
                engine.add_image()
                backend = backend_of(engine)
                text = "dd if=/dev/zero of=/f bs=1M count=60 && sync"
                state = run(backend, job(f"{text} 2>&1", container={"disk_space_bytes": 20 << 20}))
                assert state.status is JobStatus.FAILED
                assert b"Disk quota exceeded" in log(backend, state.job_id)
                assert run(backend, job(text)).status is JobStatus.SUCCEEDED
                backend.close()
            finally:
                engine.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_processes_are_bounded(engine: Dockerd) -> None:
    text = "i=0; while [ $i -lt 60 ]; do sleep 5 & i=$((i + 1)); done 2>&1; echo not bounded"
    backend = backend_of(engine)
    plan = job(text, container={"pids_limit": 30})
    run(backend, plan)
    assert b"can't fork" in log(backend, plan.job_id)


# -- storage ----------------------------------------------------------------------------------------------------------


def stored(content: str, root: Path | str, *volumes: dict[str, Any], **options: Any) -> Plan:
    storage = {"root": str(root)} if str(root).startswith("/") else {"root": "", "volume": str(root)}
    volumes = tuple({"read_only": False, **volume} for volume in volumes)
    return job(content, storage={**storage, "shared": True}, volumes=volumes, **options)


DATA = {"path": "it's data/a", "link": "mnt/my data"}


def test_volumes_are_folders_of_the_engines_machine(engine: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "read").mkdir()
    (tmp_path / "read" / "f").write_text("kept\n")
    backend = backend_of(engine)
    text = 'echo 2 > "$JOBDEPLOY_VOLUMES_DIR/mnt/my data/out"; cat /r/f; echo x > /r/f; echo "[$JOBDEPLOY_VOLUMES_DIR]"'
    plan = stored(f"exec 2>&1; {text}", tmp_path, DATA, {"path": "read", "link": "r", "read_only": True})
    state = run(backend, plan)
    assert state.status is JobStatus.SUCCEEDED, state.message
    assert (tmp_path / "it's data" / "a" / "out").read_text() == "2\n"
    told = log(backend, plan.job_id).decode()
    assert told.startswith("kept\n")
    assert "Read-only file system" in told
    assert told.endswith("[]\n")
    assert (tmp_path / "read" / "f").read_text() == "kept\n"


def test_new_folders_are_as_open_as_the_one_that_they_lie_in(engine: Dockerd, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "it's data").mkdir()
    (tmp_path / "it's data").chmod(0o2775)
    backend = backend_of(engine, user="1000:1000")
    state = run(backend, stored('echo mine > "/mnt/my data/f"', tmp_path, DATA))
    assert state.status is JobStatus.SUCCEEDED, state.message
    made = (tmp_path / "it's data" / "a").stat()
    assert (made.st_mode & 0o7777, made.st_uid) == (0o2775, 1000)
    assert (tmp_path / "it's data").stat().st_uid == os.getuid()


def test_a_named_volume_and_a_read_only_root(engine: Dockerd) -> None:
    backend = backend_of(engine, read_only=True)
    text = 'echo once >> "$JOBDEPLOY_VOLUMES_DIR/mnt/my data/f"; cat "$JOBDEPLOY_VOLUMES_DIR/mnt/my data/f"'
    for expected in (b"once\n", b"once\nonce\n"):
        plan = stored(text, "jobdeploy-test-kept", DATA)
        assert run(backend, plan).status is JobStatus.SUCCEEDED
        assert log(backend, plan.job_id) == expected


@pytest.mark.parametrize(
    ("path", "link", "said"),
    [("no/such", "", "storage:no/such is not in the pool's storage"), ("way/out", "/etc", "leads out of the pool's")],
)
def test_what_is_not_in_the_storage(engine: Dockerd, tmp_path: Path, path: str, link: str, said: str) -> None:
    if link:
        (tmp_path / "way").symlink_to(link)
    volume = {"path": path, "link": "mnt/x", "read_only": True}
    assert said in failed(engine, run(backend_of(engine), stored("true", tmp_path, volume)))


def test_a_link_that_a_job_has_put_there_leads_nowhere(engine: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    backend = backend_of(engine)
    run(
        backend,
        stored("ln -s /etc /mnt/s/link; ln -s ../../../../../etc /mnt/s/up", tmp_path, {"path": "s", "link": "mnt/s"}),
    )
    for name in ("link", "up"):
        state = run(backend, stored("ls /mnt/y", tmp_path, {"path": f"s/{name}", "link": "mnt/y"}))
        assert "leads out of the pool's storage" in failed(engine, state)


def test_a_storage_that_is_not_there(engine: Dockerd, tmp_path: Path) -> None:
    state = run(backend_of(engine), stored("true", tmp_path / "gone", DATA))
    assert "the folder of the pool's storage is not on the engine's machine" in failed(engine, state)


def test_datasets_are_used_in_their_place(engine: Dockerd, tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "train.csv").write_text("1,2\n")
    backend = backend_of(engine)
    for path in ("digits", "digits/train.csv"):
        plan = stored("cat $JOBDEPLOY_DATASET_DIR/train.csv; rm $JOBDEPLOY_DATASET_DIR/train.csv", tmp_path)
        plan = Plan.from_wire({**plan.to_wire(), "dataset": {"storage": path}, "volumes": []})
        run(backend, plan)
        assert log(backend, plan.job_id).startswith(b"1,2\n")
    assert (tmp_path / "digits" / "train.csv").exists()
