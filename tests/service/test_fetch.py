"""Fetching output while the connection breaks, the job runs, or nobody answers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.errors import StagingError, WorkerUnreachable
from airflow_jobdeploy.packing.folder import Folder
from airflow_jobdeploy.service.pace import Pace
from airflow_jobdeploy.testing import MemoryHost
from tests.service.conftest import Desk

BIG = 40_000_000
ALL = service.Wanted()


def sessions() -> list[int]:
    """The processes that serve this one."""
    found = []
    for pid in (int(name) for name in os.listdir("/proc") if name.isdigit()):
        try:
            stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if int(stat[1]) == os.getpid() and line.rstrip(b"\0").endswith(b"jobdeploy"):
            found.append(pid)
    return found


def ended(desk: Desk, command: str) -> Any:
    handle = desk.submit(desk.run_spec({"command": command})).handle
    assert desk.follow(handle).over
    return handle


def test_a_connection_that_breaks_is_made_again_and_the_file_goes_on(desk: Desk, tmp_path: Path) -> None:
    handle = ended(desk, f'head -c {BIG} /dev/urandom > "$JOBDEPLOY_OUTPUT_DIR/big"; exit 3')
    killed: list[int] = []

    def progress(files: int, total: int, moved: int, goal: int) -> None:
        if not killed and moved > 5_000_000:
            killed.extend(sessions())
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    with desk.workers() as workers:
        report = service.fetch(workers, handle, Folder(tmp_path / "got"), ALL, say=desk.said.append, progress=progress)
    assert killed
    assert report.bytes == BIG == (tmp_path / "got" / "big").stat().st_size
    assert any(line.startswith("Worker local cannot be asked, again in") for line in desk.said)
    assert [path.name for path in (tmp_path / "got").iterdir()] == ["big"]


def test_a_running_job_is_fetched_from_only_when_asked_for(desk: Desk, tmp_path: Path) -> None:
    command = 'cd "$JOBDEPLOY_OUTPUT_DIR"; echo 1 > half; echo started; exec sleep 300'
    handle = desk.submit(desk.run_spec({"command": command})).handle
    desk.follow(handle, until=lambda state: state.log_bytes > 0)
    with desk.workers() as workers:
        with pytest.raises(StagingError, match=r"is RUNNING: .*partial=True, --partial"):
            service.fetch(workers, handle, Folder(tmp_path / "got"), ALL, say=desk.said.append)
        wanted = service.Wanted(patterns=("h*",), partial=True)
        report = service.fetch(workers, handle, Folder(tmp_path / "got"), wanted, say=desk.said.append)
        assert [file["path"] for file in report.files] == ["half"]
        state = service.preempt(workers, handle, reason="make room", by="a test", wait_s=60)
        assert state.status == "SUSPENDED"
        report = service.fetch(workers, handle, Folder(tmp_path / "got"), ALL, say=desk.said.append)
    assert (report.skipped, report.bytes) == (1, 0)


def test_patience_and_being_told_to_end(tmp_path: Path) -> None:
    host = MemoryHost()
    host.programs["true"] = lambda run: None
    desk = Desk(pool=WorkerPool.local(), connect=lambda worker: host.backend())
    handle = ended(desk, "true")
    host.unplug()
    with desk.workers() as workers:
        with pytest.raises(WorkerUnreachable, match="unplugged"):
            service.fetch(workers, handle, Folder(tmp_path), ALL, say=desk.said.append, patience_s=0.0)
        told = lambda: "again in" in desk.said[-1]  # noqa: E731
        assert not told()
        with pytest.raises(StagingError, match="told to end while fetching"):
            service.fetch(workers, handle, Folder(tmp_path), ALL, say=desk.said.append, interrupted=told)


def test_the_pace_is_told_every_few_seconds() -> None:
    said: list[str] = []
    now = [100.0]
    pace = Pace(said.append, every_s=4.0, clock=lambda: now[0])
    for _ in range(48):
        now[0] += 0.25
        pace(1, 3, int((now[0] - 100) * 2**21), 60 * 2**20)
    assert said == [
        "1 of 3 files, 8.0 MiB of 60.0 MiB, 2.0 MiB/s, 26 s left",
        "1 of 3 files, 16.0 MiB of 60.0 MiB, 2.0 MiB/s, 22 s left",
        "1 of 3 files, 24.0 MiB of 60.0 MiB, 2.0 MiB/s, 18 s left",
    ]
    now[0] += 60
    pace(1, 3, 24 * 2**20, 60 * 2**20)
    assert said[-1] == "1 of 3 files, 24.0 MiB of 60.0 MiB"
