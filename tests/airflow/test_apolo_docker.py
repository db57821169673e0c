"""Apolo's snippets to the letter, on a real Docker engine: an image of their name, a preset, a volume at its path."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from yarl import URL

from airflow_jobdeploy.hooks.apolo import Container, JobStatus, Resources, Volume, get
from tests.airflow.test_apolo import ended, read, until
from tests.servers.dockerd import Dockerd

pytestmark = [pytest.mark.airflow, pytest.mark.docker]


@pytest.fixture
def lab(
    dockerd: Dockerd, airflow_db: None, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A pool of one engine, that has an image called ubuntu:latest, with a preset and storage."""
    storage = tmp_path / "the storage"
    (storage / "folder").mkdir(parents=True)
    (storage / "folder" / "data.txt").write_text("four\n")
    dockerd.add_image("ubuntu:latest")
    pool = {
        "kind": "docker",
        "workers": [{"url": dockerd.url}],
        "presets": {"cpu-small": {"cpu": 1, "memory_mb": 64}},
        "storage": {"root": str(storage)},
    }
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    yield "lab"
    dockerd.wipe()


def test_start_a_job_with_a_preset_and_kill_it(lab: str) -> None:
    with get(lab) as client:
        job = client.jobs.start(
            image=client.parse.remote_image("ubuntu:latest"),
            preset_name="cpu-small",
            command="sleep 30",
        )
        while True:
            job = client.jobs.status(job.id)
            if job.status in (JobStatus.RUNNING, JobStatus.SUCCEEDED):
                break
            if job.status == JobStatus.FAILED:
                raise RuntimeError(f"Job {job.id} failed with {job.reason}:{job.history.description}")
            time.sleep(0.2)
        client.jobs.kill(job.id)
        job = until(client, job, ended)
    assert (job.status, job.reason, job.preset_name) == (JobStatus.CANCELLED, "UserRequested", "cpu-small")
    assert (str(job.container.image), job.container.resources.memory_mb) == ("ubuntu:latest", 64)


def test_mount_a_folder_at_its_path(lab: str) -> None:
    with get(lab) as client:
        volume = Volume(
            storage_uri=URL("storage:folder"),
            container_path="/mnt/data",
        )
        job = client.jobs.run(
            Container(
                image=client.parse.remote_image("ubuntu:latest"),
                resources=Resources(memory_mb=100, cpu=0.5),
                command="cat /mnt/data/data.txt",
                volumes=[volume],
            ),
            life_span=60,
        )
        job = until(client, job, ended)
        assert (job.status, read(client, job)) == (JobStatus.SUCCEEDED, "four\n")
        assert job.life_span == 60
