"""A whole Airflow, driven through its REST API as its UI does: scheduler, triggerer, LocalExecutor, SQLite."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.airflow

#: A cold start takes 25 s alone on the machine, and much longer beside other tests.
START_S = 240
WAIT_S = 180
DAGS = Path(__file__).parent / "e2e_dags"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(ask: Callable[[], Any], what: str, timeout_s: float = WAIT_S, every_s: float = 0.25) -> Any:
    """The first true answer. Logs are asked for seldom: each answer costs the one API server of them all dear."""
    until = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < until, f"waited {timeout_s} s for {what}"
        time.sleep(every_s)
    return answer


class Airflow:
    """A running `airflow standalone`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.port = _free_port()
        self.output = folder / "standalone.log"
        with self.output.open("wb") as out:
            self.process = subprocess.Popen(
                [str(Path(sys.executable).with_name("airflow")), "standalone"],
                env=self._environment(),
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._token = ""

    def _environment(self) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        url = f"http://localhost:{self.port}"
        return {
            **inherited,
            # standalone starts its parts as `airflow`.
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(self.home),
            "PYTHONPATH": str(DAGS.parents[2]),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__PARALLELISM": "4",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(_free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(_free_port()),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__JOBDEPLOY__DEFER_AFTER": "0.5",
            "AIRFLOW__JOBDEPLOY__DEPLOYMENT": "e2e",
        }

    def stop(self) -> None:
        """End the whole group: it is a session of its own."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue

    # -- REST --------------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON answer of the API; None while it does not answer, or has no such thing."""
        request = urllib.request.Request(
            f"http://localhost:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json", **self._login()},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:500]!r}") from error
        except OSError:
            return None
        return json.loads(text) if text else {}

    def _login(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token}"} if self._token else {}

    def is_up(self) -> bool:
        text = self.output.read_text(errors="replace")
        assert self.process.poll() is None, text[-4000:]
        assert "Exception in thread" not in text, text[-4000:]
        if not self._token:
            answer = self.ask("GET", "/auth/token")
            self._token = answer["access_token"] if answer else ""
        return bool(self._token) and self.ask("GET", "/api/v2/dags/deferred") is not None

    def trigger(self, dag_id: str, folder: Path) -> Run:
        folder.mkdir()
        body = {"logical_date": None, "conf": {"folder": str(folder)}}
        answer = self.ask("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)
        return Run(self, dag_id, answer["dag_run_id"], folder)


class Run:
    """A DAG run with its one task, and what its job wrote."""

    def __init__(self, airflow: Airflow, dag_id: str, run_id: str, folder: Path) -> None:
        self.airflow = airflow
        self.dag_id = dag_id
        self.run_id = run_id
        self.folder = folder

    @property
    def _task(self) -> str:
        run_id = urllib.request.quote(self.run_id, safe="")  # type: ignore[attr-defined]
        return f"/api/v2/dags/{self.dag_id}/dagRuns/{run_id}/taskInstances/run"

    def task(self) -> dict[str, Any]:
        return self.airflow.ask("GET", self._task) or {}

    def until(self, state: str, *, try_number: int = 1) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            task = self.task()
            assert task.get("state") == state or task.get("state") not in ("success", "failed"), self.log()
            return task if (task.get("state"), task.get("try_number")) == (state, try_number) else None

        return wait_for(reached, f"{self.dag_id} to be {state} in try {try_number}")

    def log(self, try_number: int = 1) -> str:
        answer = self.airflow.ask("GET", f"{self._task}/logs/{try_number}?full_content=true") or {"content": []}
        return "\n".join(str(entry.get("event", entry)) for entry in answer["content"])

    def result(self) -> Any:
        return (self.airflow.ask("GET", f"{self._task}/xcomEntries/return_value") or {}).get("value")

    def set_state(self, state: str) -> None:
        self.airflow.ask("PATCH", self._task, {"new_state": state})

    def clear(self) -> None:
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": ["run"], "only_failed": False}
        self.airflow.ask("POST", f"/api/v2/dags/{self.dag_id}/clearTaskInstances", body)

    # -- the job -----------------------------------------------------------------------------------------------

    def starts(self) -> list[tuple[int, int]]:
        """(attempt, pid) of each start of the job."""
        path = self.folder / "started"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def begun(self, count: int = 1) -> int:
        """Wait for so many starts; the pid of the last."""
        return wait_for(lambda: len(self.starts()) >= count and self.starts()[-1][1], f"start {count} of the job")

    def go(self) -> None:
        (self.folder / "go").touch()


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    started = Airflow(tmp_path_factory.mktemp("standalone"))
    try:
        wait_for(started.is_up, "airflow standalone", START_S)
        yield started
    finally:
        started.stop()


@pytest.fixture
def run(airflow: Airflow, tmp_path: Path) -> Iterator[Callable[[str], Run]]:
    runs = []

    def trigger(dag_id: str) -> Run:
        runs.append(airflow.trigger(dag_id, tmp_path / f"job {len(runs)}".replace(" ", "-")))
        return runs[-1]

    yield trigger
    for made in runs:
        made.go()


@pytest.mark.timeout(START_S + 600)
def test_a_deferred_task_tells_its_log_and_result(run: Callable[[str], Run]) -> None:
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


@pytest.mark.timeout(START_S + 600)
@pytest.mark.parametrize("state", ["failed", "success"])
def test_marking_a_deferred_task_stops_its_job(run: Callable[[str], Run], state: str) -> None:
    made = run("deferred")
    pid = made.begun()
    made.until("deferred")
    # The task saw it begin; the trigger, a second later, says for how long it has been running.
    wait_for(lambda: "Running for" in made.log(), "the trigger", every_s=2)
    made.set_state(state)
    wait_for(lambda: _is_gone(pid), "the job's end")
    assert made.starts() == [(1, pid)]


@pytest.mark.timeout(START_S + 600)
def test_clearing_a_deferred_task_starts_anew(run: Callable[[str], Run]) -> None:
    made = run("deferred")
    first = made.begun()
    made.until("deferred")
    made.clear()
    second = made.begun(2)
    assert _is_gone(first)
    made.until("deferred", try_number=2)
    time.sleep(3)  # the old trigger's on_kill comes 1 to 2 s after the clear: it must leave the new attempt alone
    assert not _is_gone(second)
    made.go()
    made.until("success", try_number=2)
    assert [attempt for attempt, _ in made.starts()] == [1, 2]
    assert made.result()["attempt"] == 2


@pytest.mark.timeout(START_S + 600)
def test_a_killed_task_process_is_retried_and_reattaches(run: Callable[[str], Run]) -> None:
    made = run("waiting")
    made.begun()
    task = made.until("running")
    os.kill(int(task["pid"]), signal.SIGKILL)
    made.until("running", try_number=2)
    made.go()
    made.until("success", try_number=2)
    assert len(made.starts()) == 1
    assert "Found an earlier submission" in made.log(2)
    assert made.log(2).count("begun in attempt 1") == 1


@pytest.mark.timeout(START_S + 600)
def test_marking_a_waiting_task_failed_stops_its_job(run: Callable[[str], Run]) -> None:
    made = run("waiting")
    pid = made.begun()
    made.until("running")
    made.set_state("failed")
    wait_for(lambda: _is_gone(pid), "the job's end")
    assert made.starts() == [(1, pid)]
