"""Task processes that are killed, terminated, retried, cleared: one live attempt, ever.

Each task runs in a process of its own, with real jobs on pool local; Airflow's side is `world.World`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.processes import crowded
from tests.airflow.world import World

ROOT = Path(__file__).resolve().parents[2]


class Task:
    """A task process."""

    def __init__(self, world: World, folder: Path, arguments: dict[str, Any]) -> None:
        self.world = world
        self._out = folder / f"task-{time.monotonic_ns()}.log"
        command = [sys.executable, "-m", "tests.airflow.world", str(folder), json.dumps(arguments)]
        with self._out.open("wb") as out:
            # The tests tell when to let go of the job, not a clock.
            env = {**os.environ, "AIRFLOW__JOBDEPLOY__DEFER_AFTER": "60"}
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT, env=env)

    @property
    def text(self) -> str:
        return self._out.read_text(errors="replace")

    def until(self, words: str) -> Task:
        """Wait for words in the task's log."""
        wait_for(lambda: words in self.text or self.process.poll() is not None, f"{words!r} in\n{self.text}")
        assert words in self.text, self.text
        return self

    def kill(self, number: int = signal.SIGKILL) -> Task:
        os.kill(self.process.pid, number)
        return self

    def end(self) -> str:
        """The last line that the task printed, once it has ended."""
        self.process.wait(120)
        lines = [line for line in self.text.splitlines() if line.startswith(("RETURNED", "DEFERRED", "RAISED"))]
        return lines[-1] if lines else f"exit status {self.process.returncode}"


def wait_for(true: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    until = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < until, f"waited {timeout_s} s for {what}"
        time.sleep(0.05)


class Case:
    """A task instance, its job, and what they left behind."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.home = home
        self.world = World(folder)
        self.trace = folder / "trace"
        self.go = folder / "go"
        self.tasks: list[Task] = []
        #: The job notes its start, then runs until it is let go.
        self.command = (
            f"echo $JOBDEPLOY_ATTEMPT $$ >> '{self.trace}'; echo begun; "
            f"while [ ! -e '{self.go}' ]; do sleep 0.1; done; echo finished"
        )

    def task(self, **arguments: Any) -> Task:
        task = Task(self.world, self.folder, {"job_spec": {"command": self.command, "grace": 2}, **arguments})
        self.tasks.append(task)
        return task

    def starts(self) -> list[str]:
        """The attempts that began, in order."""
        lines = self.trace.read_text().splitlines() if self.trace.exists() else []
        return [line.split()[0] for line in lines]

    def live(self) -> list[int]:
        """The job's shells that are alive."""
        pids = [int(line.split()[1]) for line in self.trace.read_text().splitlines()] if self.trace.exists() else []
        return [pid for pid in pids if _alive(pid)]

    def jobs(self) -> list[Path]:
        return sorted(self.home.glob(".jobdeploy/hosts/*/jobs/*"))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.fixture
def case(tmp_path: Path, home: Path) -> Iterator[Case]:
    made = Case(tmp_path, home)
    yield made
    made.go.touch()
    for task in made.tasks:
        if task.process.poll() is None:
            task.kill()
            task.process.wait()
    for pid in made.live():
        os.kill(pid, signal.SIGKILL)


def test_killed_while_following_then_reattached(case: Case) -> None:
    case.task().until("begun").kill().end()
    assert len(case.live()) == 1
    case.world.retry()
    task = case.task().until("begun")
    case.go.touch()
    end = task.end()
    assert end.startswith("RETURNED"), task.text
    assert "Found an earlier submission" in task.text
    assert "finished" in task.text
    assert case.starts() == ["1"]
    assert len(case.jobs()) == 1


@pytest.mark.parametrize("where", ["save", "push"], ids=["before the claim", "between claim and start"])
def test_killed_while_submitting(case: Case, where: str) -> None:
    case.world.change(die_at=where)
    case.task().end()
    assert case.starts() == []
    case.world.change(die_at="")
    case.world.retry()
    case.go.touch()
    task = case.task()
    assert task.end().startswith("RETURNED"), task.text
    assert case.starts() == ["1"]
    assert len(case.jobs()) == 1


def test_killed_after_the_job_succeeded_takes_its_outcome(case: Case) -> None:
    case.task().until("begun").kill().end()
    case.go.touch()
    wait_for(lambda: (case.jobs()[0] / "exit.json").exists(), "the job's end")
    case.world.retry()
    task = case.task()
    assert task.end().startswith("RETURNED"), task.text
    assert "has already succeeded" in task.text
    assert "finished" in task.text
    assert case.starts() == ["1"]


def test_a_clear_stops_the_old_attempt_and_starts_anew(case: Case) -> None:
    case.task().until("begun").kill().end()
    (old,) = case.live()
    case.world.clear()
    task = case.task().until("begun")
    assert not _alive(old)
    case.go.touch()
    end = task.end()
    assert end.startswith("RETURNED"), task.text
    assert json.loads(end.split(" ", 1)[1])["attempt"] == 2
    assert case.starts() == ["1", "2"]


def test_sigterm_while_running_defers(case: Case) -> None:
    """A worker is shut down: the job goes on, no try is lost. (LocalExecutor, the default, may defer on pool local.)"""
    task = case.task(deferrable=True)
    task.until("begun").kill(signal.SIGTERM)
    end = task.end()
    assert end.startswith("DEFERRED"), task.text
    assert "this worker process is being shut down".capitalize() in task.text
    assert len(case.live()) == 1
    assert case.world["xcom"]["jobdeploy_try"] == case.world["ti"]


def test_sigterm_while_running_raises_where_it_cannot_defer(case: Case) -> None:
    task = case.task().until("begun").kill(signal.SIGTERM)
    end = task.end()
    assert end.startswith("RAISED"), task.text
    assert "goes on, and the next try of this task reattaches to it" in end
    assert len(case.live()) == 1


@pytest.mark.parametrize("state", ["failed", "success", "restarting", None])
def test_sigterm_after_a_person_acted_stops_the_job(case: Case, state: str | None) -> None:
    task = case.task(deferrable=True).until("begun")
    case.world.change(state=state)
    began = time.monotonic()
    task.kill(signal.SIGTERM)
    end = task.end()
    assert end.startswith("RAISED JobCancelled"), task.text
    assert time.monotonic() - began < 5 * crowded(), "Airflow kills the process 5 s after the signal"
    wait_for(lambda: not case.live(), "the job's end")
    stop = json.loads((case.jobs()[0] / "stop.json").read_text())
    assert "the task was set to" in stop["reason"]


def test_sigterm_when_airflow_is_gone_leaves_the_job(case: Case) -> None:
    task = case.task(deferrable=True).until("begun")
    case.world.change(state="unreachable")
    task.kill(signal.SIGTERM)
    assert task.end().startswith("RAISED JobDeployError Interrupted: Airflow cannot be asked"), task.text
    assert len(case.live()) == 1


def moved_away(case: Case) -> str:
    """The next try meets another machine than the one that has its job (another Celery worker, say); the job's id."""
    intent = case.world["store"]["jobdeploy_intent"]
    case.world.put("store", "jobdeploy_intent", {**intent, "machine": "another"})
    case.world.retry()
    return str(case.world["xcom"].get("return_value", {}).get("job_id") or case.jobs()[0].name)


def test_on_another_machine_nothing_is_started_until_the_job_is_given_up(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    case.task().until("begun").kill().end()
    job = moved_away(case)
    end = case.task().end()
    assert end.startswith("RAISED WorkerChanged"), end
    assert "nothing was started, since attempt 1 may be alive on worker local" in end
    assert f"airflow jobdeploy forget {job} --lost" in end
    assert case.starts() == ["1"]
    assert len(case.live()) == 1
    monkeypatch.setenv("AIRFLOW_VAR_JOBDEPLOY_GIVEN_UP", json.dumps({job: {"by": "ann"}}))
    case.world.retry()
    case.go.touch()
    task = case.task()
    assert task.end().startswith("RETURNED"), task.text
    assert case.starts() == ["1", "2"]


def test_a_job_that_failed_is_tried_again_also_on_another_machine(case: Case) -> None:
    case.command += "; exit 3"
    case.go.touch()
    assert case.task().end().startswith("RAISED JobFailed")
    assert case.world["store"]["jobdeploy_intent"]["ended"] == "FAILED"
    moved_away(case)
    task = case.task()
    assert task.end().startswith("RAISED JobFailed"), task.text
    assert case.starts() == ["1", "2"]
