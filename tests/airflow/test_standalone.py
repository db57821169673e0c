"""A whole Airflow, driven through its REST API as its UI does: scheduler, triggerer, LocalExecutor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.airflow.processes import parent_of
from tests.airflow.standalone import START_S, Airflow, Run, wait_for

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.sshd,
    pytest.mark.timeout(START_S + 600),
]


@pytest.fixture
def run(airflow: Airflow) -> Iterator[Callable[[str], Run]]:
    runs = []

    def trigger(dag_id: str) -> Run:
        runs.append(airflow.trigger(dag_id))
        return runs[-1]

    yield trigger
    for made in runs:
        made.go()


def test_a_deferred_task_tells_its_log_result_and_assets(airflow: Airflow, run: Callable[[str], Run]) -> None:
    made = run("deferred")
    made.until("deferred")
    wait_for(lambda: "begun in attempt 1" in made.log(), "the job's log in the task's log", every_s=2)
    made.go()
    made.until("success")
    log = made.log()
    assert log.count("begun in attempt 1") == 1
    assert log.count("finished") == 1
    assert made.result()["result"] == {"answer": 42}
    assert made.result()["status"] == "SUCCEEDED"
    assert "Asset s3://bucket/model" in log
    events = airflow.ask("GET", f"/api/v2/assets/events?source_run_id={made.run_id}")["asset_events"]
    assert [(event["uri"], event["extra"]["accuracy"]) for event in events] == [("s3://bucket/model", 0.9)]


def test_a_killed_task_process_is_retried_and_reattaches(run: Callable[[str], Run]) -> None:
    made = run("waiting")
    made.begun()
    os.kill(int(made.until("running")["pid"]), signal.SIGKILL)
    made.until("running", try_number=2)
    made.go()
    made.until("success", try_number=2)
    assert len(made.starts()) == 1
    assert "Found an earlier submission" in made.log(2)
    assert made.log(2).count("begun in attempt 1") == 1


@pytest.mark.parametrize("whom", ["the task's process", "its worker process"])
def test_a_worker_that_is_shut_down_hands_its_job_to_the_triggerer(run: Callable[[str], Run], whom: str) -> None:
    made = run("patient")
    life = made.begun()
    task = int(made.until("running")["pid"])
    os.kill(task if whom == "the task's process" else parent_of(task), signal.SIGTERM)
    made.until("deferred")
    assert not life.is_over
    made.go()
    made.until("success")
    assert made.starts() == [(1, life.pid)]
    log = made.log()
    assert "being shut down" in log
    assert log.count("finished") == 1
