"""Two triggerers: one stands still and goes on, one is killed. No healthy job notices; a lost on_kill is made up for.

On a busy machine triggers move more often than we make them: Airflow takes a slow triggerer for a dead one.
"""

from __future__ import annotations

import json
import signal

import pytest

from tests.airflow import notes
from tests.airflow.processes import send, stopped, tree
from tests.airflow.standalone import START_S, Airflow, Run, wait_for

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.sshd,
    pytest.mark.slow,
    pytest.mark.timeout(START_S + 900),
]


def watched(runs: list[Run], times: int) -> None:
    for run in runs:
        wait_for(lambda run=run: len(run.notes(notes.WATCHED)) >= times, f"{run.run_id}: trigger {times}")


def alive_triggerers(airflow: Airflow) -> int:
    jobs = airflow.ask("GET", "/api/v2/jobs?job_type=TriggererJob&is_alive=true")
    return len(jobs["jobs"]) if jobs else 0


def test_triggers_move_twice_and_no_job_is_touched(airflow: Airflow) -> None:
    first = airflow.part("triggerer")
    runs = [airflow.trigger("deferred") for _ in range(2)]
    lives = [run.begun() for run in runs]
    watched(runs, 1)
    other = airflow.another_triggerer()
    wait_for(lambda: alive_triggerers(airflow) == 2, "the second triggerer")

    with stopped(first):
        lost = airflow.trigger("deferred")
        lost_life = lost.begun()
        watched([lost], 1)
        watched(runs, 2)
    # It finds that its triggers are not its own any more: Airflow calls on_kill, as if a person had acted.
    for run in runs:
        wait_for(lambda run=run: run.notes(notes.TRIGGER_SPARED), f"{run.run_id}: on_kill after the move")

    send(tree(other.pid), signal.SIGKILL)
    lost.act("mark failed")  # nobody is there to be told
    watched(runs, 3)
    lost_life.end()
    moved_before = lost.notes(notes.TRIGGER_KILLED)
    assert moved_before or json.loads((lost.records()[0] / "stop.json").read_text())["by"] == "the reaper"

    assert not any(life.is_over for life in lives)
    for run, life in zip(runs, lives, strict=True):
        assert not (run.records()[0] / "stop.json").exists()
        run.go()
        run.until("success")
        assert run.starts() == [(1, life.pid)]
        log = run.log()
        assert log.count("finished") == 1
        assert "watched from here by another triggerer" in log
