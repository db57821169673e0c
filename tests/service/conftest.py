"""The real local backend below the use cases: a root, a pool, and a store that outlives submitters."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.spec import load_spec


class Notebook:
    """An intent store in memory; keeps copies, as a database would."""

    def __init__(self) -> None:
        self.value: dict[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return copy.deepcopy(self.value)

    def save(self, value: Mapping[str, Any]) -> None:
        self.value = copy.deepcopy(dict(value))


@dataclass
class Desk:
    """Everything a task would have, for one pool."""

    pool: WorkerPool
    connect: Callable[[Worker], Backend]
    notebook: Notebook = field(default_factory=Notebook)
    epoch: dict[str, int] = field(default_factory=lambda: {"max_tries": 0, "clear_number": 0})
    said: list[str] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    handles: list[Any] = field(default_factory=list)

    def workers(self) -> service.Workers:
        return service.Workers(self.pool, self.connect)

    def run_spec(self, spec: Mapping[str, Any], **how: Any) -> service.Work:
        return service.prepare_run(load_spec(spec), pool=self.pool, resolve_secret=str, **how)

    def submit(self, work: service.Work, workers: service.Workers | None = None, **how: Any) -> service.Submitted:
        with workers or self.workers() as used:
            return service.submit(
                work,
                used,
                intents=self.notebook,
                epoch=self.epoch,
                say=self.said.append,
                on_handle=self.handles.append,
                **how,
            )

    def follow(self, handle: Any, **how: Any) -> service.Followed:
        with self.workers() as used:
            return service.follow(used, handle, say_log=self.log.append, say=self.said.append, **how)

    def status(self, handle: Any) -> Any:
        with self.workers() as used:
            return service.status(used, handle)

    def stop(self, handle: Any) -> Any:
        with self.workers() as used:
            return service.stop(used, handle, reason="the test is over", by="pytest", wait_s=60)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk on the pool `local`, with a root of its own; what still runs at the end is stopped."""
    found = Desk(pool=WorkerPool.local(), connect=lambda worker: local_backend(root=str(tmp_path / "root")))
    yield found
    worker = local_backend(root=str(tmp_path / "root"))
    for job in worker.jobs(live_only=True):
        worker.stop(job["plan"]["job_id"], reason="the test is over", grace_s=0)
    worker.close()
