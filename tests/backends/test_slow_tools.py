"""A host whose GPUs are told by a tool that takes its time, as nvidia-smi does where the driver is not kept loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.channel import LocalClient
from airflow_jobdeploy.hostside import facts
from tests.backends.clients import host
from tests.faults.processes import eventually
from tests.servers.gpus import FakeGpus


@pytest.fixture
def slow(tmp_path: Path) -> FakeGpus:
    """Slower than a session waits for it at its begin."""
    made = FakeGpus(tmp_path / "tools")
    program = made.folder / "nvidia-smi"
    program.write_text(program.read_text().replace("here=", f"sleep {2 * facts._GPU_WAIT_S}\nhere=", 1))
    return made


def test_who_asks_what_a_host_has_waits_for_its_gpus(slow: FakeGpus, tmp_path: Path) -> None:
    path = f"{slow.folder}:{os.environ['PATH']}"
    with host(LocalClient(), tmp_path / "root", kind="local", path=path) as worker:
        eventually(lambda: bool(worker.facts().gpus))  # on a busy machine later than anybody waits for it
        found = worker.facts()
        assert [gpu["uuid"] for gpu in found.gpus] == slow.uuids
        assert found.driver == "570.00"
        assert not [text for text in found.warnings if "GPU" in text]
        assert worker.facts(quick=True) == found


def test_a_tool_that_hangs_is_named(slow: FakeGpus, tmp_path: Path) -> None:
    slow.hang()
    path = f"{slow.folder}:{os.environ['PATH']}"
    with host(LocalClient(), tmp_path / "root", kind="local", path=path) as worker:
        found = worker.facts()
        assert found.gpus == ()
        assert found.warnings[-1].startswith("GPUs are not known: ")
