"""What GPUs cost: a session on a host that has some."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from airflow_jobdeploy.backends.channel import LocalClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.backends.session import Session
from airflow_jobdeploy.core.plan import new_uid
from benchmarks.lab import Lab
from benchmarks.rows import Measured
from tests.servers.gpus import FakeGpus

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def start(lab: Lab, rounds: int = 15) -> Iterator[Measured]:
    """As the row `serve_start`, on a host whose eight GPUs an earlier session has seen."""
    path = f"{_equipped(lab).folder}:{_SYSTEM_PATH}"
    _started(lab, path)
    found = statistics.median(_started(lab, path) for _ in range(rounds))
    yield Measured(row="serve_start_gpus", ours=found * 1000)


def _started(lab: Lab, path: str) -> float:
    begun = time.perf_counter()
    session = Session(LocalClient(), python="/usr/bin/python3", root=str(lab.dir / "with GPUs"))
    session.request("hello", env_mode="inherit", path=path)
    taken = time.perf_counter() - begun
    session.close()
    return taken


def _equipped(lab: Lab, count: int = 8) -> FakeGpus:
    return FakeGpus(lab.dir / f"{count} GPUs", count=count, model=f"Bench {new_uid()[:8]}")


def _backend(lab: Lab, gpus: FakeGpus) -> HostedBackend:
    path = f"{gpus.folder}:{_SYSTEM_PATH}"
    return HostedBackend(worker="bench", kind="ssh", connect=lab.server.client, root=str(lab.dir / "leases"), path=path)
