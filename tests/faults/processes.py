"""What the kernel knows of a job: its processes, and the files of its directory."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.plan import Step
from airflow_jobdeploy.core.status import JobState
from tests.contract.labs import HostedLab
from tests.contract.steps import launch, log, outcome

MIB = 1024 * 1024


def sh(text: str) -> Step:
    return Step(name="job", kind="shell", content=text)


def run(lab: HostedLab, text: str, **options: Any) -> tuple[JobState, bytes]:
    """Run sh text to its end; its state and its log."""
    backend = lab.backend()
    job_id = launch(backend, lab.plan(sh(text), **options))
    state = outcome(backend, job_id)
    return state, log(backend, job_id)


def job_dir(root: Path, job_id: str) -> Path:
    [found] = root.glob(f"hosts/*/jobs/{job_id}")
    return found


def supervisor(root: Path, job_id: str) -> int:
    """The pid of its supervisor."""
    return int(json.loads((job_dir(root, job_id) / "state.json").read_text())["pid"])


def members(job_id: str) -> set[int]:
    """Living processes that carry the job's id in their environment."""
    return {pid for pid in pids() if f"JOBDEPLOY_JOB_ID={job_id}".encode() in environ(pid) and is_alive(pid)}


def pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def descendants(pid: int) -> set[int]:
    """Children, their children, and so on."""
    children = {int(child) for child in _read(pid, f"task/{pid}/children").split()}
    return children.union(*(descendants(child) for child in children))


def environ(pid: int) -> list[bytes]:
    return _read(pid, "environ").split(b"\0")


def cmdline(pid: int) -> bytes:
    return _read(pid, "cmdline")


def cpu_s(pid: int) -> float:
    """What it has used so far, in seconds, by proc(5)."""
    fields = _read(pid, "stat").rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_alive(pid: int) -> bool:
    """A zombie is none: this machine's init may reap late."""
    found = _read(pid, "stat").rpartition(b") ")[2][:1]
    return bool(found) and found != b"Z"


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:  # gone, or not ours
        return b""


def eventually(check: Callable[[], bool], timeout_s: float = 60.0) -> None:
    """The kernel tells nobody: look again until `check` holds."""
    until = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < until
        time.sleep(0.05)
