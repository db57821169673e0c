"""The rows of the table and the goal of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a run found for one row, in the row's unit. `reference`: of the stock way, in the same run."""

    row: str
    ours: float
    reference: float | None = None
    #: Where the row's own name for it is not exact.
    reference_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    reference_name: str
    #: In words; `is_met` says the same.
    goal: str
    is_met: Callable[[float, float], bool]
    digits: int = 0


def _at_most(limit: float) -> Callable[[float, float], bool]:
    return lambda ours, _: ours <= limit


def _share(limit: float) -> Callable[[float, float], bool]:
    return lambda ours, reference: ours <= limit * reference


def _times(factor: float) -> Callable[[float, float], bool]:
    return lambda ours, reference: ours >= factor * reference


_REMOTE, _TRIGGER = "SSHRemoteJobOperator", "SSHRemoteJobTrigger"
_CLIENT, _DOCKER = "`docker run --rm`", "DockerOperator"
_CONTAINERS, _INSPECT = "100 quiet containers, followed: ", "an inspect of each, each second"
_QUIET = "500 quiet jobs on one host, followed at 1 s: "

#: In the order of the table.
ROWS: dict[str, Row] = {
    "submit": Row(
        what="submit `true` and see it end, operator.execute (ms)",
        reference_name=_REMOTE,
        goal="<= 1 of the reference",
        is_met=_share(1),
    ),
    "connections": Row(
        what="the same: SSH connections", reference_name=_REMOTE, goal="1", is_met=lambda ours, _: ours == 1
    ),
    "dag_test": Row(
        what="the same by dag.test(), deferrable, over a no-op task (ms)",
        reference_name=_REMOTE,
        goal="<= 200",
        is_met=_at_most(200),
    ),
    "watch_cpu_here": Row(
        what=_QUIET + "CPU here, of a minute (s)",
        reference_name=_TRIGGER,
        goal="<= 0.01 of the reference",
        is_met=_share(0.01),
        digits=3,
    ),
    "watch_cpu_host": Row(
        what=_QUIET + "CPU on the host, of a minute (s)",
        reference_name=_TRIGGER,
        goal="<= 0.01 of the reference",
        is_met=_share(0.01),
        digits=3,
    ),
    "watch_connections": Row(
        what=_QUIET + "SSH connections", reference_name=_TRIGGER, goal="1", is_met=lambda ours, _: ours == 1
    ),
    "watch_rss": Row(
        what=_QUIET + "memory here (MB)", reference_name=_TRIGGER, goal="<= 20", is_met=_at_most(20), digits=1
    ),
    "lag": Row(
        what="event loop lag, p99, 20 jobs of 1 MB/s and 500 quiet ones (ms)",
        reference_name=f"{_TRIGGER}, 500 quiet ones alone",
        goal="<= 100",
        is_met=_at_most(100),
    ),
    "log_rate": Row(
        what="log of 1e6 lines, 200 MB, into the task log (lines/s)",
        reference_name="SSHOperator",
        goal=">= 5 of the reference",
        is_met=_times(5),
    ),
    "log_lost": Row(what="the same: lines lost", reference_name="SSHOperator", goal="0", is_met=_at_most(0)),
    "log_rss": Row(
        what="the same: memory of the task (MB)", reference_name="SSHOperator", goal="<= 200", is_met=_at_most(200)
    ),
    "big_file": Row(
        what="artifacts down, one file of 512 MiB (MB/s)",
        reference_name="best of `ssh cat` and `tar | ssh | tar`",
        goal=">= 0.8 of the reference",
        is_met=_times(0.8),
    ),
    "small_files": Row(
        what="artifacts down, 5,000 files of 8 KiB (s)",
        reference_name="`tar | ssh | tar`",
        goal="<= 1.2 of the reference",
        is_met=_share(1.2),
        digits=2,
    ),
    "unchanged_small": Row(
        what="the 5,000 files again, unchanged (s)",
        reference_name="`tar | ssh | tar`",
        goal="<= 0.5",
        is_met=_at_most(0.5),
        digits=2,
    ),
    "unchanged_big": Row(
        what="the 512 MiB again, unchanged (s)",
        reference_name="best of `ssh cat` and `tar | ssh | tar`",
        goal="<= 0.5",
        is_met=_at_most(0.5),
        digits=2,
    ),
    "bundle_first": Row(
        what="a repository of 5,000 files of 8 KiB up, the first time (s)",
        reference_name="`git archive | ssh tar x`",
        goal="<= 1.2 of the reference",
        is_met=_share(1.2),
        digits=2,
    ),
    "bundle_again": Row(
        what="the same again, unchanged (s)",
        reference_name="`git archive | ssh tar x`",
        goal="<= 0.3",
        is_met=_at_most(0.3),
        digits=2,
    ),
    "bundle_again_bytes": Row(
        what="the same again, unchanged: bytes moved after the login, both ways (kB)",
        reference_name="",
        goal="<= 10",
        is_met=_at_most(10),
        digits=1,
    ),
    "bundle_changed": Row(
        what="the same with one file changed: files sent",
        reference_name="",
        goal="1",
        is_met=lambda ours, _: ours == 1,
    ),
    "dataset_first": Row(
        what="a dataset of 512 MiB up that was never read before (MB/s)",
        reference_name="`cat | ssh cat`",
        goal=">= 0.8 of the reference",
        is_met=_times(0.8),
    ),
    "dataset_up": Row(
        what="the same to another worker (MB/s)",
        reference_name="`cat | ssh cat`",
        goal=">= 0.8 of the reference",
        is_met=_times(0.8),
    ),
    "environment": Row(
        what="a job in a Python environment that is there, over one without (s)",
        reference_name="",
        goal="<= 0.2",
        is_met=_at_most(0.2),
        digits=2,
    ),
    "import": Row(
        what="import of the operator modules, over airflow.sdk (ms)",
        reference_name="SSHOperator's",
        goal="<= 50",
        is_met=_at_most(50),
    ),
    "parse": Row(
        what="parse of a DAG file of 100 tasks, over airflow.sdk (ms)",
        reference_name="the same of SSHOperator",
        goal="<= 1 of the reference",
        is_met=_share(1),
    ),
    "place": Row(
        what="place 1,000 waiting jobs on 100 workers, CPU (ms)", reference_name="", goal="<= 50", is_met=_at_most(50)
    ),
    "turn_process": Row(
        what="a GPU becomes free -> first line of the next job, whose task waits, worst (s)",
        reference_name="",
        goal="<= 1.5",
        is_met=_at_most(1.5),
        digits=2,
    ),
    "turn_trigger": Row(
        what="a GPU becomes free -> event of the trigger of a deferred task, worst (s)",
        reference_name="Airflow's own way back into a task, beside",
        goal="<= 1.5",
        is_met=_at_most(1.5),
        digits=2,
    ),
    "fleet_cpu": Row(
        what="1,000 quiet jobs on 20 hosts, followed: CPU here (% of a core)",
        reference_name="",
        goal="<= 1",
        is_met=_at_most(1),
        digits=2,
    ),
    "fleet_connections": Row(
        what="1,000 quiet jobs on 20 hosts, followed: SSH connections",
        reference_name="",
        goal="20",
        is_met=lambda ours, _: ours == 20,
    ),
    "host_lost": Row(
        what="a host dies -> its job runs on another, over worker_lost_after (s)",
        reference_name="",
        goal="<= 5",
        is_met=_at_most(5),
        digits=1,
    ),
    "serve_start": Row(
        what="start of `serve` to its first answer (ms)",
        reference_name="python3 -S -E -c 'import json, subprocess'",
        goal="<= 40",
        is_met=_at_most(40),
    ),
    "serve_start_gpus": Row(
        what="the same on a host with GPUs, once they have been seen (ms)",
        reference_name="",
        goal="<= 50",
        is_met=_at_most(50),
    ),
    "supervisor_memory": Row(
        what="private memory of one supervisor (MB)",
        reference_name="python3 -S -E, idle",
        goal="<= 6",
        is_met=_at_most(6),
        digits=1,
    ),
    "killed_job": Row(
        what="job killed -> FAILED seen, worst (s)", reference_name="", goal="<= 2", is_met=_at_most(2), digits=2
    ),
    "killed_supervisor": Row(
        what="its supervisor killed -> FAILED seen, worst (s)",
        reference_name="",
        goal="<= 2",
        is_met=_at_most(2),
        digits=2,
    ),
    "preempted": Row(
        what="preempt order -> checkpoint saved, grace over, SUSPENDED seen, worst (s)",
        reference_name="",
        goal="<= 2",
        is_met=_at_most(2),
        digits=2,
    ),
    "engine_run": Row(
        what="on a Docker engine: `true`, operator.execute (ms)",
        reference_name=_CLIENT,
        goal="<= 1.3 of the reference",
        is_met=_share(1.3),
    ),
    "engine_submit": Row(
        what="the same, beside the stock operator (ms)",
        reference_name=_DOCKER,
        goal="<= 1 of the reference",
        is_met=_share(1),
    ),
    "engine_watch_here": Row(
        what=_CONTAINERS + "CPU here, of a minute (s)",
        reference_name=_INSPECT,
        goal="<= 0.1 of the reference",
        is_met=_share(0.1),
        digits=2,
    ),
    "engine_watch_engine": Row(
        what=_CONTAINERS + "CPU of the engine, of a minute (s)",
        reference_name=_INSPECT,
        goal="<= 0.5 of the reference",
        is_met=_share(0.5),
        digits=2,
    ),
    "engine_watch_connections": Row(
        what=_CONTAINERS + "connections",
        reference_name=_INSPECT,
        goal="2: one is asked, one tells",
        is_met=_at_most(2),
    ),
    "engine_big_file": Row(
        what="out of a container, one file of 512 MiB (MB/s)",
        reference_name="`docker cp`",
        goal=">= 0.8 of the reference",
        is_met=_times(0.8),
    ),
    "engine_small_files": Row(
        what="out of a container, 5,000 files of 8 KiB (s)",
        reference_name="`docker cp`",
        goal="<= 1.2 of the reference",
        is_met=_share(1.2),
        digits=2,
    ),
    "engine_log_rate": Row(
        what="log of 1e6 lines of a container, 200 MB, into the task log (lines/s)",
        reference_name=_DOCKER,
        goal=">= 3 of the reference",
        is_met=_times(3),
    ),
    "engine_log_lost": Row(what="the same container: lines lost", reference_name=_DOCKER, goal="0", is_met=_at_most(0)),
    "engine_log_rss": Row(
        what="the same container: memory of the task (MB)",
        reference_name=_DOCKER,
        goal="<= 200",
        is_met=_at_most(200),
    ),
}


def result(found: Measured) -> dict[str, object]:
    """The line of results.json."""
    row = ROWS[found.row]
    reference = found.reference
    return {
        "row": row.what,
        "ours": round(found.ours, 4),
        "reference": None if reference is None else round(reference, 4),
        "reference_name": found.reference_name or row.reference_name,
        "ratio": round(found.ours / reference, 5) if reference else None,
        "goal": row.goal,
        "met": row.is_met(found.ours, reference or 0.0),
    }
