"""A triggerer that watches workers of two kinds notices when they are one machine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend, Capabilities
from airflow_jobdeploy.hooks.overlap import Overlap
from airflow_jobdeploy.testing import MemoryHost

pytestmark = pytest.mark.airflow


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    for known in (Overlap.kinds, Overlap.seen, Overlap.told):
        known.clear()
    yield
    for known in (Overlap.kinds, Overlap.seen, Overlap.told):
        known.clear()


def worker(kind: str, *gpus: str) -> Backend:
    host = MemoryHost()
    host.line.capacity["gpus"] = [{"index": n, "uuid": uuid, "model": "A", "mig": False} for n, uuid in enumerate(gpus)]
    backend: Any = host.backend()
    backend.capabilities = Capabilities(kind=kind, leases=True)
    return backend  # type: ignore[no-any-return]


def test_a_gpu_of_two_kinds_of_workers_is_an_error_in_the_log_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pools = {
        "OVER_HOSTS": {"kind": "ssh", "workers": [{"conn_id": "a"}]},
        "OVER_ENGINES": {"kind": "docker", "workers": [{"url": "tcp://a:1"}]},
    }
    for name, pool in pools.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    host, engine = worker("ssh", "GPU-1", "GPU-2"), worker("docker", "GPU-2")
    hosts, engines = Overlap("over_hosts", "a"), Overlap("over_engines", "tcp://a:1")
    gone = Overlap("over_nobody", "a")
    with caplog.at_level(logging.ERROR, logger="airflow_jobdeploy.hooks.overlap"):
        hosts(host, frozenset())
        assert Overlap.seen == {}, "nothing is asked while there is one kind"
        for _ in range(3):
            engines(engine, frozenset())
            hosts(host, frozenset())
            gone(host, frozenset())
    (record,) = caplog.records
    assert record.getMessage().startswith("worker pools 'over_engines' and 'over_hosts': GPU GPU-2 is that of worker")
