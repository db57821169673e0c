"""What we put on a host: how soon `serve` answers, what a supervisor holds, how soon an end is seen."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_jobdeploy.backends.channel import LocalClient
from airflow_jobdeploy.backends.session import Session
from benchmarks import jobs
from benchmarks.lab import Lab
from benchmarks.measure import interleaved, private_bytes, wall_s
from benchmarks.rows import Measured

_FLAGS = ("-S", "-E")
_FLOOR = "import json, subprocess"


def start(lab: Lab, rounds: int = 15) -> Iterator[Measured]:
    """A session on this machine by the python3 that a host would give, to the answer to its first request."""
    python = shutil.which("python3", path="/usr/local/bin:/usr/bin:/bin") or "python3"
    client = LocalClient()

    def ours() -> float:
        begun = time.perf_counter()
        session = Session(client, python=python, root=str(lab.dir / "started"))
        session.request("hello", env_mode="inherit")
        taken = time.perf_counter() - begun
        session.close()
        return taken

    def floor() -> float:
        return wall_s(lambda: subprocess.run([python, *_FLAGS, "-c", _FLOOR], check=True))

    ours()  # sends the files, and Python compiles them
    found = interleaved({"ours": ours, "floor": floor}, rounds)
    yield Measured(row="serve_start", ours=found["ours"] * 1000, reference=found["floor"] * 1000)


def memory(lab: Lab) -> Iterator[Measured]:
    """Of the middle one of five supervisors, a few seconds after their commands began."""
    with jobs.backend() as host:
        handles = jobs.start_many(host, "exec sleep 300", 5, lab.say)
        time.sleep(5)
        held = sorted(private_bytes(_supervisor(lab, handle)) for handle in handles)
        jobs.stop_all(host, handles)
    yield Measured(row="supervisor_memory", ours=held[2] / 1e6, reference=_idle_python() / 1e6)


def _idle_python() -> int:
    """Two of them: what they share is nobody's own."""
    command = ["/usr/bin/env", "python3", *_FLAGS, "-c", "print(flush=True); input()"]
    pipe = subprocess.PIPE
    running = [subprocess.Popen(command, stdin=pipe, stdout=pipe) for _ in range(2)]
    for process in running:
        assert process.stdout is not None
        process.stdout.readline()
    held = private_bytes(running[0].pid)
    for process in running:
        process.communicate(b"\n")
    return held


def killed(lab: Lab, rounds: int = 5) -> Iterator[Measured]:
    """kill -9 of the job, then of a supervisor: the worst time until a follower is told FAILED."""
    kills: dict[str, Callable[[int], int]] = {"killed_job": _only_child, "killed_supervisor": lambda pid: pid}
    with jobs.backend() as host:
        for row, choose in kills.items():
            seen = [_seen_after(lab, host, choose) for _ in range(rounds)]
            yield Measured(row=row, ours=max(seen))


#: A handler that saves its work and says so, in a job that does not end by itself.
_SAVES = """
trap 'date > "$JOBDEPLOY_CHECKPOINT_DIR/step"; echo "{\\"checkpoint\\": \\"step\\"}" >> "$JOBDEPLOY_MESSAGES_FILE"' TERM
while :; do sleep 300 & wait $!; done
"""


def preempted(lab: Lab, rounds: int = 5) -> Iterator[Measured]:
    """With a grace of a minute, of which the job's word makes the rest unnecessary."""
    with jobs.backend() as host:
        seen = [_suspended_after(host) for _ in range(rounds)]
    yield Measured(row="preempted", ours=max(seen))


def _suspended_after(host: Any) -> float:
    handle = jobs.start(host, _SAVES)
    jobs.until(host, handle.job_id, lambda state: state.phase == "running")
    time.sleep(1.0)  # the shell has set its trap by then
    begun = time.monotonic()
    host.preempt(handle.job_id, reason="measured", grace_s=60.0)
    jobs.until(host, handle.job_id, lambda state: state.status == "SUSPENDED" and state.phase == "ended")
    taken = time.monotonic() - begun
    host.forget(handle.job_id)
    return taken


def _only_child(pid: int) -> int:
    (child,) = jobs.children(pid)
    return child


def _seen_after(lab: Lab, host: Any, choose: Callable[[int], int]) -> float:
    handle = jobs.start(host, "exec sleep 300")
    jobs.until(host, handle.job_id, lambda state: state.phase == "running")
    time.sleep(1.5)  # the job is no longer new to anybody
    while host.watch([handle.job_id], 0.3):
        continue
    victim = choose(_supervisor(lab, handle))
    begun = time.monotonic()
    os.kill(victim, signal.SIGKILL)
    state = jobs.finished(host, handle.job_id)
    taken = time.monotonic() - begun
    assert state.status == "FAILED", state.message
    host.forget(handle.job_id)
    return taken


def _supervisor(lab: Lab, handle: Any) -> int:
    return jobs.supervisor_pid(_root(lab), handle.job_id)


def _root(lab: Lab) -> Path:
    candidates: Sequence[Path] = (lab.server.home / ".jobdeploy", Path("~/.jobdeploy").expanduser())
    return next(path for path in candidates if path.is_dir())
