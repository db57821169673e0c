"""A disk that is full while the job logs, or while its end is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.errors import WorkerError
from tests.contract.labs import HostedLab, opened
from tests.contract.steps import launch, log, outcome
from tests.faults.processes import job_dir, sh
from tests.servers import disks


@pytest.fixture(params=["local", pytest.param("ssh", marks=pytest.mark.sshd)])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[HostedLab]:
    """A worker whose root has 3 MiB."""
    server = request.getfixturevalue("sshd") if request.param == "ssh" else None
    with disks.small(tmp_path / "disk", "3m") as place, opened(HostedLab(request.param, place / "root", server)) as lab:
        assert isinstance(lab, HostedLab)
        yield lab


def test_the_disk_fills_while_the_job_logs(small: HostedLab) -> None:
    backend = small.backend()
    job_id = launch(backend, small.plan(sh("yes 'some line' | head -c 10000000; exit 3")))
    state = outcome(backend, job_id)
    assert (state.status.value, state.reason) == ("FAILED", "DiskFull")
    assert "is full" in state.message
    assert log(backend, job_id).startswith(b"some line\nsome line\n")
    assert small.backend().poll([job_id])[job_id].reason == "DiskFull"


def test_the_end_is_written_down_on_a_full_disk(small: HostedLab) -> None:
    backend = small.backend()
    fill = "dd if=/dev/zero of=filler bs=64k 2>/dev/null; dd if=/dev/zero of=filler2 bs=1 count=70000 2>/dev/null"
    job_id = launch(backend, small.plan(sh(f"{fill}; exit 0")))
    state = outcome(backend, job_id)
    assert (state.status.value, state.exit_code) == ("SUCCEEDED", 0)
    record = json.loads((job_dir(small.root, job_id) / "exit.json").read_text())
    assert record["status"] == "SUCCEEDED"
    backend.close()
    assert small.backend().poll([job_id])[job_id].status.value == "SUCCEEDED"


def test_a_claim_on_a_full_disk_says_so_and_leaves_nothing(small: HostedLab) -> None:
    backend = small.backend()
    backend.facts()
    filler = small.root / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
        while True:
            file.write(bytes(4096))
    plan = small.plan(sh("echo hi"))
    with pytest.raises(WorkerError, match=r"full|[Nn]o space"):
        backend.claim(plan)
    filler.unlink()
    assert backend.poll([plan.job_id])[plan.job_id].reason == "RecordMissing"
    assert outcome(backend, launch(backend, plan)).exit_code == 0
