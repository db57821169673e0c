"""What tests of Docker engines do: a backend of one, a plan, a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobState
from tests.contract.steps import launch, outcome
from tests.servers.dockerd import IMAGE, Dockerd

BLOCK = "echo ready\nwhile :; do sleep 300; done"


@pytest.fixture
def engine(dockerd: Dockerd) -> Iterator[Dockerd]:
    yield dockerd
    dockerd.wipe()


def backend_of(engine: Dockerd, **settings: Any) -> DockerBackend:
    return DockerBackend(worker="engine", connect=engine.client, settings=Settings(**{"image": IMAGE, **settings}))


def job(content: str, **options: Any) -> Plan:
    return Plan(**{"uid": new_uid(), "steps": (Step(name="job", kind="shell", content=content),), **options})


def run(backend: Backend, plan: Plan) -> JobState:
    return outcome(backend, launch(backend, plan))


def left(engine: Dockerd) -> list[str]:
    """All containers, whatever their state."""
    return [name.lstrip("/") for entry in engine.client().containers(all=True) for name in entry["Names"]]
