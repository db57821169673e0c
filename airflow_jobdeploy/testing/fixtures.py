"""pytest fixtures: `pytest_plugins = ["airflow_jobdeploy.testing.fixtures"]` in your conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_jobdeploy.testing.clock import ManualClock
from airflow_jobdeploy.testing.host import MemoryHost
from airflow_jobdeploy.testing.memory import MemoryBackend


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands still until `clock.advance(seconds)`."""
    return ManualClock()


@pytest.fixture
def memory_host(clock: ManualClock) -> MemoryHost:
    """A worker in memory whose time is `clock`; give it programs: `memory_host.programs["python x.py"] = ...`."""
    return MemoryHost(clock=clock)


@pytest.fixture
def memory_backend(memory_host: MemoryHost) -> Iterator[MemoryBackend]:
    """A connection to `memory_host`, closed at the end."""
    backend = memory_host.backend()
    yield backend
    backend.close()
