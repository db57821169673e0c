"""Apolo's jobs SDK, synchronous, on a worker pool: what was written for it works with few changes.

    with get("lab") as client:
        job = client.jobs.start(image=client.parse.remote_image("ubuntu:latest"), command="sleep 30")

`JobDeployHook("lab").jobs` and `.parse` are the same without keeping connections. What differs stands in
docs/how-to/apolo.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.hooks.apolo.jobs import Jobs
from airflow_jobdeploy.hooks.apolo.parsing import Parser
from airflow_jobdeploy.hooks.apolo.values import (
    Container,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    JobStatusHistory,
    JobStatusItem,
    RemoteImage,
    Resources,
    Volume,
)

if TYPE_CHECKING:
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

__all__ = [
    "Container",
    "JobDescription",
    "JobPriority",
    "JobRestartPolicy",
    "JobStatus",
    "JobStatusHistory",
    "JobStatusItem",
    "Jobs",
    "Parser",
    "RemoteImage",
    "Resources",
    "Volume",
    "get",
]


@contextmanager
def get(worker_pool: str = "local") -> Iterator[JobDeployHook]:
    """The client of a worker pool: a hook whose `jobs` keep their connections until the end of the block."""
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    client = JobDeployHook(worker_pool)
    with client.jobs:
        yield client
