"""Apolo's jobs that ask for something: presets, resources, their place in line, capacity."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.errors import SpecError
from airflow_jobdeploy.hooks.apolo import Container, JobPriority, JobStatus, Resources, get
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from tests.airflow.test_apolo import ended, read, until
from tests.servers.gpus import FakeGpus

pytestmark = pytest.mark.airflow


@pytest.fixture
def gpu(airflow_db: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpus]:
    """The pool `lab` is this machine with one GPU, of a type that no other test asks for: all share its line."""
    fake = FakeGpus(tmp_path / "tools", count=1, model=f"Fake {os.urandom(4).hex()}")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    presets = {
        "cpu-small": {"memory_mb": 100},
        "gpu-small": {"nvidia_gpu": 1, "nvidia_gpu_model": fake.model},
        "gpu-large": {"extends": "gpu-small", "nvidia_gpu": 2},
    }
    pool = {"kind": "local", "presets": presets, "host_images": ["ubuntu:*"], "root": str(tmp_path / "root")}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    yield fake
    hook = JobDeployHook("lab")
    for row in hook.list(live_only=True):
        hook.stop(row["plan"]["job_id"])


def test_the_seeds_presets_and_resources(gpu: FakeGpus) -> None:
    with get("lab") as client:
        job = client.jobs.start(
            image=client.parse.remote_image("ubuntu:latest"),
            preset_name="cpu-small",
            command="sleep 0.1",
        )
        other = client.jobs.run(
            Container(
                image=client.parse.remote_image("ubuntu:latest"),
                resources=Resources(memory_mb=100, cpu=0.5),
                command="sleep 0.1",
            )
        )
        job, other = until(client, job, ended), until(client, other, ended)
    assert (job.status, job.preset_name, job.container.resources.memory_mb) == (JobStatus.SUCCEEDED, "cpu-small", 100)
    assert (other.status, other.container.resources) == (JobStatus.SUCCEEDED, Resources(memory_mb=100, cpu=0.5))


def test_a_job_that_has_to_wait_is_pending_and_the_line_goes_by_priority(gpu: FakeGpus) -> None:
    with get("lab") as client:
        assert {client.jobs.capacity()[name] for name in ("gpu-small", "gpu-large")} == {1, 0}
        first = client.jobs.start(preset_name="gpu-small", command="sleep 300")
        until(client, first, lambda job: job.status.is_running)
        assert client.jobs.get_capacity()["gpu-small"] == 0
        begun = time.monotonic()
        low = client.jobs.start(preset_name="gpu-small", command="true", priority="low")
        assert time.monotonic() - begun < 20  # it is accepted, not waited for
        high = client.jobs.start(
            preset_name="gpu-small", command="sh -c 'echo $CUDA_VISIBLE_DEVICES; sleep 300'", priority=JobPriority.HIGH
        )
        low = until(client, low, lambda job: job.reason == "Scheduling")
        high = until(client, high, lambda job: job.reason == "Scheduling")
        assert (low.status, high.status) == (JobStatus.PENDING, JobStatus.PENDING)
        client.jobs.kill(first.id)
        high = until(client, high, lambda job: job.state["log_bytes"] > 0)
        assert (high.priority, client.jobs.status(low.id).status) == (JobPriority.HIGH, JobStatus.PENDING)
        client.jobs.kill(high.id)
        assert until(client, low, ended).status is JobStatus.SUCCEEDED
        assert read(client, high).strip() == gpu.uuids[0]


def test_what_the_pool_does_not_have_is_said_at_once(gpu: FakeGpus) -> None:
    jobs = JobDeployHook("lab").jobs
    with pytest.raises(SpecError, match=r"has no preset 'gpu-smal'.*Did you mean 'gpu-small'"):
        jobs.start(preset_name="gpu-smal", command="true")
    assert jobs.list() == []
