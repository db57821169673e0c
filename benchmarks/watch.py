"""500 quiet jobs on one host, followed by our triggers and by SSHRemoteJobTrigger; and the loop under load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.status import JobHandle
from benchmarks import jobs
from benchmarks.lab import CONN, Lab
from benchmarks.rows import Measured

_LOUD = 20
#: A megabyte a second, in lines of 100 bytes.
_LOUD_COMMAND = """exec python3 -c '
import sys, time
line, due = b"x" * 99 + b"\\n", time.monotonic()
while True:
    sys.stdout.buffer.write(line * 1000)
    sys.stdout.buffer.flush()
    due += 0.1
    time.sleep(max(0, due - time.monotonic()))
'"""


def quiet(lab: Lab, count: int = 500, window_s: float = 60.0) -> Iterator[Measured]:
    """CPU here and on the host, connections, memory; and what the loop under load is late."""
    stock = _stock(lab, count, window_s)
    with jobs.backend() as host:
        handles = jobs.start_many(host, "exec sleep 3600", count, lab.say)
        try:
            ours = _followed(lab, "ours", jobs.as_json(handles), window_s)
            loaded = _under_load(lab, host, handles)
        finally:
            jobs.stop_all(host, handles)
    yield Measured(row="watch_cpu_here", ours=ours["cpu_here"], reference=stock["cpu_here"])
    yield Measured(row="watch_cpu_host", ours=ours["cpu_host"], reference=stock["cpu_host"])
    yield Measured(row="watch_connections", ours=ours["connections"], reference=stock["connections"])
    yield Measured(row="watch_rss", ours=ours["rss"] / 1e6, reference=stock["rss"] / 1e6)
    yield Measured(row="lag", ours=loaded["lag_ms"], reference=stock["lag_ms"])


def _followed(lab: Lab, kind: str, jobs_given: Sequence[dict[str, Any]], window_s: float) -> dict[str, Any]:
    before = lab.accepted()
    log = str(lab.ram / f"{kind}.log")
    found = lab.apart("benchmarks.loop", kind=kind, jobs=jobs_given, window_s=window_s, log=log)
    Path(log).unlink()
    return {**found, "connections": lab.accepted() - before}


def _under_load(lab: Lab, host: Any, quiet_ones: Sequence[JobHandle]) -> dict[str, Any]:
    loud = jobs.start_many(host, _LOUD_COMMAND, _LOUD, lab.say)
    try:
        return _followed(lab, "ours", jobs.as_json([*quiet_ones, *loud]), 15.0)
    finally:
        jobs.stop_all(host, loud)


def _stock(lab: Lab, count: int, window_s: float) -> dict[str, Any]:
    """Its jobs are mere directories: a shell that waits costs nothing, and the trigger never looks at it."""
    given = []
    for number in range(count):
        folder = lab.dir / "stock" / str(number)
        folder.mkdir(parents=True)
        (folder / "stdout.log").touch()
        given.append(
            {
                "ssh_conn_id": CONN,
                "remote_host": None,
                "job_id": f"af_{number}",
                "job_dir": str(folder),
                "log_file": str(folder / "stdout.log"),
                "exit_code_file": str(folder / "exit_code"),
                "remote_os": "posix",
                "poll_interval": 1,
            }
        )
    return _followed(lab, "stock", given, window_s)
