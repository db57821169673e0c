"""`case`: a host of its own for each test. `verdict`: notes what a fault came to, for the matrix of `make faults`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from airflow_jobdeploy.core.status import JobStatus
from tests.faults.hosts import case as cases
from tests.faults.hosts.case import Case, Following
from tests.faults.hosts.here import LocalCase
from tests.servers.netns import NewHost, new_host, swept

__all__ = ["new_host", "swept"]

#: A file to which each test adds a line of JSON; `make faults` sets it, and the longer durations with it.
RECORD = os.environ.get("JOBDEPLOY_FAULTS_RECORD", "")


@dataclass
class Verdict:
    """What became of one fault. Set by `seal`, which also holds it against what is promised."""

    backend: str = "ssh"
    told: str = ""
    live_attempts_max: int = -1
    bytes_lost: int = -1
    left_behind: int = -1

    def seal(self, case: Case, following: Following | None, told: str = "", *, starts: int = 1) -> None:
        """The end of a test: nothing lost, nothing twice, nothing left. `told`: where no job was followed."""
        self.backend = case.pool.kind
        self.told = told or (following.told if following else "")
        self.live_attempts_max = case.live_attempts_max()
        self.bytes_lost = case.bytes_lost(following) if following else 0
        if following is not None and following.updates[-1].state.status is JobStatus.SUCCEEDED:
            assert case.submit_again().reattached, "a retry takes what is there"
        left = case.left_behind()
        self.left_behind = len(left)
        assert self.live_attempts_max <= 1
        assert case.starts() == starts
        assert self.bytes_lost == 0
        assert left == []


@pytest.fixture
def verdict(request: pytest.FixtureRequest) -> Iterator[Verdict]:
    """Of the fault that the test's marker `fault` names."""
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, "a test with a verdict names its fault"
    found, begun = Verdict(), time.monotonic()
    yield found
    failed = getattr(request.node, "failed_in_call", True)
    if RECORD:
        row = {
            "fault": marker.args[0],
            "backend": found.backend,
            "verdict": found.told,
            "live_attempts_max": found.live_attempts_max,
            "bytes_lost": found.bytes_lost,
            "left_behind": found.left_behind,
            "held": not failed,
            "seconds": round(time.monotonic() - begun, 1),
        }
        with Path(RECORD).open("a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Tell the fixture how its test went."""
    report = yield
    if report.when == "call":
        item.failed_in_call = report.failed
    return report


@pytest.fixture
def case(new_host: NewHost) -> Iterator[Case]:
    """A host, switched on, and a task that submits to it."""
    found = cases.case(new_host())
    yield found
    found.close()


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.netns)])
def any_case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """The same, and the pool `local`."""
    if request.param == "ssh":
        yield request.getfixturevalue("case")
        return
    found = LocalCase(tmp_path)
    yield found
    found.close()


class Lasting(Protocol):
    """How long a fault lasts, or how much of something there is."""

    def __call__(self, *, short: float, long: float) -> float: ...


@pytest.fixture
def lasting() -> Lasting:
    """The long one in `make faults`, else the short one."""

    def chosen(*, short: float, long: float) -> float:
        return long if RECORD else short

    return chosen
