"""Celery workers and two triggerers, on PostgreSQL and Redis: one of each is lost while the demo's job runs."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.airflow import scaled
from tests.airflow.processes import send, tree
from tests.airflow.scaled import POOL, DemoRun
from tests.airflow.standalone import START_S, wait_for
from tests.servers.sshd import Sshd

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.sshd,
    pytest.mark.scaled,
    pytest.mark.timeout(START_S + 600),
]

_NEVER_S = 3600.0


def _attempts(hosts: dict[str, Sshd], run: DemoRun, task_id: str) -> list[Path]:
    """The directories of the jobs of a task, on all hosts."""
    plans = [plan for host in hosts.values() for plan in host.home.glob(".jobdeploy/hosts/*/jobs/*/plan.json")]
    keys = {plan.parent: json.loads(plan.read_text())["key"] for plan in plans}
    return [job for job, key in keys.items() if (key["run_id"], key["task_id"]) == (run.run_id, task_id)]


def _training(job: Path) -> list[int]:
    """The processes of a running job, without its supervisor; none before its first line."""
    if not (job / "log").exists() or b"training" not in (job / "log").read_bytes():
        return []
    return tree(json.loads((job / "state.json").read_text())["pid"])[1:]


def test_the_demo_survives_the_loss_of_a_worker_and_of_a_triggerer(tmp_path: Path) -> None:
    with scaled.running(tmp_path) as (airflow, hosts):
        # Its task waits by itself for as long as it is there, so that it is lost in the midst of that.
        airflow.start_worker("worker-1", defer_after_s=_NEVER_S)
        scaled.await_up(airflow, "worker-1")
        run = airflow.demo(worker_pool=POOL, epochs=60)
        assert run.task_in("running")["hostname"] == "worker-1"
        airflow.start_worker("worker-2", defer_after_s=0.5)
        (job,) = wait_for(lambda: _attempts(hosts, run, "up"), "the job")
        training = wait_for(lambda: _training(job), "the training to begin")
        send(training, signal.SIGSTOP)  # it shall not be over before all is done
        scaled.await_up(airflow, "worker-2")

        airflow.lose("worker-1")
        deferred = run.task_in("deferred")
        assert deferred["try_number"] > 1
        assert deferred["hostname"] == "worker-2"
        first = wait_for(lambda: (run.task("up")["triggerer_job"] or {}).get("hostname"), "a triggerer to take it")
        airflow.lose(first)
        send(training, signal.SIGCONT)
        run.until_success()

        log = run.log("up", deferred["try_number"])
        lines = (job / "log").read_text().splitlines()
        assert len(lines) > 6
        assert [line for line in lines if line not in log] == []
        assert log.count(lines[-1]) == 1
        assert "Found an earlier submission" in log
        assert run.result("up")["attempt"] == 1
        assert _attempts(hosts, run, "up") == [job]
        assert run.result("report")["accuracy"] > run.result("report")["baseline"]
