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
class Goal:
    """What a row is to reach: in words, and as they are meant."""

    text: str
    is_met: Callable[[float, float], bool]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    what: str
    goal: Goal
    #: What it is measured beside, in the same run; "": nothing.
    reference_name: str = ""
    digits: int = 0


def _at_most(limit: float) -> Goal:
    return Goal(text=f"<= {limit}", is_met=lambda ours, _: ours <= limit)


def _exactly(number: int) -> Goal:
    return Goal(text=str(number), is_met=lambda ours, _: ours == number)


def _share(limit: float) -> Goal:
    return Goal(text=f"<= {limit} of the reference", is_met=lambda ours, reference: ours <= limit * reference)


def _times(factor: float) -> Goal:
    return Goal(text=f">= {factor} of the reference", is_met=lambda ours, reference: ours >= factor * reference)


_REMOTE, _TRIGGER = "SSHRemoteJobOperator", "SSHRemoteJobTrigger"
_CLIENT, _DOCKER = "`docker run --rm`", "DockerOperator"
_CONTAINERS, _INSPECT = "100 quiet containers, followed: ", "an inspect of each, each second"
_QUIET = "500 quiet jobs on one host, followed at 1 s: "
_FLEET = "1,000 quiet jobs on 20 hosts, followed: "

#: In the order of the table.
ROWS: dict[str, Row] = {
    "submit": Row(what="submit `true` and see it end, operator.execute (ms)", goal=_share(1), reference_name=_REMOTE),
    "connections": Row(what="the same: SSH connections", goal=_exactly(1), reference_name=_REMOTE),
    "dag_test": Row(
        what="the same by dag.test(), deferrable, over a no-op task (ms)", goal=_at_most(200), reference_name=_REMOTE
    ),
    "watch_cpu_here": Row(
        what=_QUIET + "CPU here, of a minute (s)", goal=_share(0.01), reference_name=_TRIGGER, digits=3
    ),
    "watch_cpu_host": Row(
        what=_QUIET + "CPU on the host, of a minute (s)", goal=_share(0.01), reference_name=_TRIGGER, digits=3
    ),
    "watch_connections": Row(what=_QUIET + "SSH connections", goal=_exactly(1), reference_name=_TRIGGER),
    "watch_rss": Row(what=_QUIET + "memory here (MB)", goal=_at_most(20), reference_name=_TRIGGER, digits=1),
    "lag": Row(
        what="event loop lag, p99, 20 jobs of 1 MB/s and 500 quiet ones (ms)",
        goal=_at_most(100),
        reference_name=f"{_TRIGGER}, 500 quiet ones alone",
    ),
    "log_rate": Row(
        what="log of 1e6 lines, 200 MB, into the task log (lines/s)", goal=_times(5), reference_name="SSHOperator"
    ),
    "log_lost": Row(what="the same: lines lost", goal=_exactly(0), reference_name="SSHOperator"),
    "log_rss": Row(what="the same: memory of the task (MB)", goal=_at_most(200), reference_name="SSHOperator"),
    "big_file": Row(
        what="artifacts down, one file of 512 MiB (MB/s)",
        goal=_times(0.8),
        reference_name="best of `ssh cat` and `tar | ssh | tar`",
    ),
    "small_files": Row(
        what="artifacts down, 5,000 files of 8 KiB (s)", goal=_share(1.2), reference_name="`tar | ssh | tar`", digits=2
    ),
    "unchanged_small": Row(
        what="the 5,000 files again, unchanged (s)", goal=_at_most(0.5), reference_name="`tar | ssh | tar`", digits=2
    ),
    "unchanged_big": Row(
        what="the 512 MiB again, unchanged (s)",
        goal=_at_most(0.5),
        reference_name="best of `ssh cat` and `tar | ssh | tar`",
        digits=2,
    ),
    "bundle_first": Row(
        what="a repository of 5,000 files of 8 KiB up, the first time (s)",
        goal=_share(1.2),
        reference_name="`git archive | ssh tar x`",
        digits=2,
    ),
    "bundle_again": Row(
        what="the same again, unchanged (s)", goal=_at_most(0.3), reference_name="`git archive | ssh tar x`", digits=2
    ),
    "bundle_again_bytes": Row(
        what="the same again, unchanged: bytes moved after the login, both ways (kB)", goal=_at_most(10), digits=1
    ),
    "bundle_changed": Row(what="the same with one file changed: files sent", goal=_exactly(1)),
    "dataset_first": Row(
        what="a dataset of 512 MiB up that was never read before (MB/s)",
        goal=_times(0.8),
        reference_name="`cat | ssh cat`",
    ),
    "dataset_up": Row(what="the same to another worker (MB/s)", goal=_times(0.8), reference_name="`cat | ssh cat`"),
    "environment": Row(
        what="a job in a Python environment that is there, over one without (s)", goal=_at_most(0.2), digits=2
    ),
    "import": Row(
        what="import of the operator modules, over airflow.sdk (ms)", goal=_at_most(50), reference_name="SSHOperator's"
    ),
    "parse": Row(
        what="parse of a DAG file of 100 tasks, over airflow.sdk (ms)",
        goal=_share(1),
        reference_name="the same of SSHOperator",
    ),
    "place": Row(what="place 1,000 waiting jobs on 100 workers, CPU (ms)", goal=_at_most(50)),
    "turn_process": Row(
        what="a GPU becomes free -> first line of the next job, whose task waits, worst (s)",
        goal=_at_most(1.5),
        digits=2,
    ),
    "turn_trigger": Row(
        what="a GPU becomes free -> event of the trigger of a deferred task, worst (s)",
        goal=_at_most(1.5),
        reference_name="Airflow's own way back into a task, beside",
        digits=2,
    ),
    "fleet_cpu": Row(what=_FLEET + "CPU here (% of a core)", goal=_at_most(1), digits=2),
    "fleet_connections": Row(what=_FLEET + "SSH connections", goal=_exactly(20)),
    "host_lost": Row(
        what="a host dies -> its job runs on another, over worker_lost_after (s)", goal=_at_most(5), digits=1
    ),
    "serve_start": Row(
        what="start of `serve` to its first answer (ms)",
        goal=_at_most(40),
        reference_name="python3 -S -E -c 'import json, subprocess'",
    ),
    "serve_start_gpus": Row(what="the same on a host with GPUs, once they have been seen (ms)", goal=_at_most(50)),
    "supervisor_memory": Row(
        what="private memory of one supervisor (MB)", goal=_at_most(6), reference_name="python3 -S -E, idle", digits=1
    ),
    "killed_job": Row(what="job killed -> FAILED seen, worst (s)", goal=_at_most(2), digits=2),
    "killed_supervisor": Row(what="its supervisor killed -> FAILED seen, worst (s)", goal=_at_most(2), digits=2),
    "preempted": Row(
        what="preempt order -> checkpoint saved, grace over, SUSPENDED seen, worst (s)", goal=_at_most(2), digits=2
    ),
    "engine_run": Row(
        what="on a Docker engine: `true`, operator.execute (ms)", goal=_share(1.3), reference_name=_CLIENT
    ),
    "engine_submit": Row(what="the same, beside the stock operator (ms)", goal=_share(1), reference_name=_DOCKER),
    "engine_watch_here": Row(
        what=_CONTAINERS + "CPU here, of a minute (s)", goal=_share(0.1), reference_name=_INSPECT, digits=2
    ),
    "engine_watch_engine": Row(
        what=_CONTAINERS + "CPU of the engine, of a minute (s)", goal=_share(0.5), reference_name=_INSPECT, digits=2
    ),
    "engine_watch_connections": Row(
        what=_CONTAINERS + "connections, most of the time", goal=_exactly(1), reference_name=_INSPECT
    ),
    "engine_big_file": Row(
        what="out of a container, one file of 512 MiB (MB/s)", goal=_times(0.8), reference_name="`docker cp`"
    ),
    "engine_small_files": Row(
        what="out of a container, 5,000 files of 8 KiB (s)", goal=_share(1.2), reference_name="`docker cp`", digits=2
    ),
    "engine_log_rate": Row(
        what="log of 1e6 lines of a container, 200 MB, into the task log (lines/s)",
        goal=_times(3),
        reference_name=_DOCKER,
    ),
    "engine_log_lost": Row(what="the same container: lines lost", goal=_exactly(0), reference_name=_DOCKER),
    "engine_log_rss": Row(
        what="the same container: memory of the task (MB)", goal=_at_most(200), reference_name=_DOCKER
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
        "goal": row.goal.text,
        "met": row.goal.is_met(found.ours, reference or 0.0),
    }
