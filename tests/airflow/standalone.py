"""A whole Airflow for tests, driven through its REST API as its UI does it: `airflow standalone`.

On PostgreSQL where that is installed. On SQLite a request of the API server may hold the database's lock while another
one makes its whole event loop wait for it; on a busy machine the scheduler then waits in vain, and ends.

conftest.py imports the fixture, for all modules to share one. What is stopped or killed here is named by pid.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.airflow import notes
from tests.airflow.far import Far
from tests.airflow.processes import Life, children, command_of, send, tree
from tests.servers import postgres
from tests.servers.gpus import FakeGpus
from tests.servers.ports import free_port

#: A cold start takes 25 s alone on the machine, and much longer beside other tests.
START_S = 240
WAIT_S = 240
#: A triggerer that was silent for so many seconds loses its triggers to the others.
TRIGGERER_LOST_S = 15
DAGS = Path(__file__).parent / "e2e_dags"
_FINAL = ("success", "failed")


def wait_for(ask: Callable[[], Any], what: str, timeout_s: float = WAIT_S, every_s: float = 0.1) -> Any:
    """The first true answer."""
    until = time.monotonic() + timeout_s
    while not (answer := ask()):
        assert time.monotonic() < until, f"waited {timeout_s} s for {what}"
        time.sleep(every_s)
    return answer


class Airflow:
    """A running `airflow standalone`."""

    #: It is up when it knows these.
    DAG_IDS: frozenset[str] = frozenset({"deferred", "patient"})

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.runs = folder / "runs"
        self.runs.mkdir()
        #: Of a model that no other test asks for: all tests of a machine share its line.
        self.gpu = FakeGpus(folder / "tools", count=1, model=f"Fake {uuid.uuid4().hex[:8]}")
        self.port = free_port()
        self.output = folder / "standalone.log"
        self._environment = self._made_environment(settings)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._token = ""
        self._board = Board(self)

    def start(self) -> None:
        """Start what `stop` ends."""
        self._processes.append(self._start("standalone"))

    def _made_environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
        url = f"http://localhost:{self.port}"
        return {
            **inherited,
            # standalone starts its parts as `airflow`.
            "PATH": f"{self.gpu.folder}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            notes.GPU: self.gpu.model,
            "HOME": str(self.home),
            "TMPDIR": str(self.folder),
            "PYTHONPATH": str(DAGS.parents[2]),
            notes.RUNS: str(self.runs),
            "AIRFLOW_HOME": str(self.folder / "airflow"),
            # On a busy machine one of Airflow's processes may hold SQLite's lock for longer than the 5 s that the
            # others wait by default; its scheduler ends of that.
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self.folder}/airflow/airflow.db?timeout=60",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "64",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__BASE_URL": url,
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port()),
            "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
            "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "2",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": str(TRIGGERER_LOST_S),
            "AIRFLOW__JOBDEPLOY__DEFER_AFTER": "0.5",
            "AIRFLOW__JOBDEPLOY__DEPLOYMENT": "e2e",
            **settings,
        }

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with self.output.open("ab") as out:
            return subprocess.Popen(
                [str(Path(sys.executable).with_name("airflow")), *command],
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End each process that we started, with its whole group: each is a session of its own."""
        for process in self._processes:
            left = tree(process.pid)
            for number in (signal.SIGCONT, signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, number)
                    process.wait(0 if number == signal.SIGCONT else 20)
            send(left, signal.SIGKILL)

    # -- its processes -----------------------------------------------------------------------------------------

    def part(self, name: str) -> list[int]:
        """The pids of a part of standalone (`triggerer`), it first, then all below it."""
        main = self._processes[0].pid
        for pid in children(main):
            if name in command_of(pid):
                return tree(pid)
        raise AssertionError(f"no {name} among {[command_of(pid) for pid in children(main)]}")

    def executor_workers(self) -> list[int]:
        """The processes of the LocalExecutor, without their tasks."""
        return [pid for pid in children(self.part("scheduler")[0]) if "LocalExecutor" in command_of(pid)]

    def looked(self, ago_s: float) -> None:
        """As if a task had looked for jobs to reap so many seconds ago: the next one looks after a minute."""
        for looks in self.folder.glob("jobdeploy-connect-*/reaped-*"):
            looks.write_text(json.dumps({"at": time.time() - ago_s, "suspects": []}))

    def another_triggerer(self) -> subprocess.Popen[bytes]:
        """Start one more."""
        self._processes.append(self._start("triggerer", "--skip-serve-logs"))
        return self._processes[-1]

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
            with urllib.request.urlopen(request, timeout=60) as answer:
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
        assert self._processes[0].poll() is None, text[-4000:]
        assert "Exception in thread" not in text, text[-4000:]
        if not self._token:
            answer = self.ask("GET", "/auth/token")
            self._token = answer["access_token"] if answer else ""
        known = self.ask("GET", "/api/v2/dags") if self._token else None
        return bool(known) and {dag["dag_id"] for dag in known["dags"]} >= self.DAG_IDS

    def trigger(self, dag_id: str, **conf: str) -> Run:
        """Start a run."""
        run_id = f"{dag_id}-{uuid.uuid4().hex[:12]}"
        folder = self.runs / run_id
        folder.mkdir()
        body = {"logical_date": None, "dag_run_id": run_id, "conf": {"folder": str(folder), **conf}}
        runs = f"/api/v2/dags/{dag_id}/dagRuns"
        # An API that is too busy to answer in time may have made the run all the same.
        wait_for(lambda: self.ask("GET", f"{runs}/{run_id}") or self.ask("POST", runs, body), f"a run of {dag_id}")
        return Run(self, dag_id, run_id, folder)

    def task(self, run_id: str) -> dict[str, Any]:
        return self._board.task(run_id)


class Board:
    """What the API says of all tasks, asked once for all who want to know: each answer costs the machine dear."""

    _FRESH_S = 0.4

    def __init__(self, airflow: Airflow) -> None:
        self._airflow = airflow
        self._lock = threading.Lock()
        self._asked_at = 0.0
        self._tasks: dict[str, dict[str, Any]] = {}

    def task(self, run_id: str) -> dict[str, Any]:
        with self._lock:
            if time.monotonic() - self._asked_at > self._FRESH_S:
                answer = self._airflow.ask("GET", "/api/v2/dags/~/dagRuns/~/taskInstances?limit=100&order_by=-id")
                if answer is not None:
                    self._tasks = {task["dag_run_id"]: task for task in answer["task_instances"]}
                self._asked_at = time.monotonic()
            return self._tasks.get(run_id, {})


class Run:
    """A DAG run with its one task, and what its job wrote."""

    def __init__(self, airflow: Airflow, dag_id: str, run_id: str, folder: Path) -> None:
        self.airflow = airflow
        self.dag_id = dag_id
        self.run_id = run_id
        self.folder = folder
        self._path = f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"
        self._task = f"{self._path}/taskInstances/run"

    def task(self) -> dict[str, Any]:
        return self.airflow.task(self.run_id)

    def until(self, state: str, *, try_number: int = 1) -> dict[str, Any]:
        def reached() -> dict[str, Any] | None:
            task = self.task()
            there = (task.get("state"), task.get("try_number")) == (state, try_number)
            ended = task.get("state") in _FINAL and task.get("try_number") == try_number
            assert there or not ended, f"{task['state']}, expected {state}\n{self.log(try_number)}"
            return task if there else None

        found = wait_for(reached, f"{self.run_id} to be {state} in try {try_number}")
        if state == "deferred":
            wait_for(lambda: self._scheduler_knows(try_number), f"the scheduler to take note of {self.run_id}")
        return found

    def _scheduler_knows(self, try_number: int) -> bool:
        """Has the scheduler heard of the end of the process that has deferred?

        Seen in Airflow 3.3.2: one that is busy hears of it only when the trigger has fired and the task is queued
        again; it then takes the task for killed, and fails it.
        """
        told = f"event with state success for task instance TaskInstanceKey(dag_id='{self.dag_id}', task_id='run', "
        line = f"{told}run_id='{self.run_id}', try_number={try_number}, "
        return line in self.airflow.output.read_text(errors="replace")

    def log(self, try_number: int = 1) -> str:
        answer = self.airflow.ask("GET", f"{self._task}/logs/{try_number}?full_content=true") or {"content": []}
        return "\n".join(str(entry.get("event", entry)) for entry in answer["content"])

    def result(self) -> Any:
        return (self.airflow.ask("GET", f"{self._task}/xcomEntries/return_value") or {}).get("value")

    def notes(self, what: str) -> list[float]:
        """When Airflow called what (probes.py), as time.time()."""
        path = self.folder / what
        return [float(line) for line in path.read_text().splitlines()] if path.exists() else []

    # -- what a person does in the UI --------------------------------------------------------------------------

    def act(self, what: str) -> None:
        {
            "mark failed": lambda: self._set(self._task, {"new_state": "failed"}),
            "mark success": lambda: self._set(self._task, {"new_state": "success"}),
            "fail the run": lambda: self._set(self._path, {"state": "failed"}),
            "clear": self._clear,
        }[what]()

    def _set(self, path: str, body: Any) -> None:
        assert self.airflow.ask("PATCH", path, body) is not None

    def _clear(self) -> None:
        body = {"dry_run": False, "dag_run_id": self.run_id, "task_ids": ["run"], "only_failed": False}
        assert self.airflow.ask("POST", f"/api/v2/dags/{self.dag_id}/clearTaskInstances", body) is not None

    # -- the job -----------------------------------------------------------------------------------------------

    def starts(self) -> list[tuple[int, int]]:
        """(attempt, pid) of each start of the job."""
        path = self.folder / "started"
        lines = path.read_text().splitlines() if path.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def begun(self, count: int = 1) -> Life:
        """Wait for so many starts; the last of them."""
        starts = wait_for(lambda: self.starts()[count - 1 :], f"start {count} of the job of {self.run_id}")
        return Life(starts[0][1])

    def records(self, home: Path | None = None) -> list[Path]:
        """The directories of the run's attempts on the worker, in order."""
        found = []
        for plan in (home or self.airflow.home).glob(".jobdeploy/hosts/*/jobs/*/plan.json"):
            with contextlib.suppress(OSError, ValueError):
                content = json.loads(plan.read_text())
                if content["key"]["run_id"] == self.run_id:
                    found.append((content["attempt"], plan.parent))
        return [path for _, path in sorted(found)]

    def go(self) -> None:
        """Let the job come to its end."""
        (self.folder / "go").touch()


@contextlib.contextmanager
def running(folder: Path, settings: Mapping[str, str]) -> Iterator[Airflow]:
    """An `airflow standalone` for the time of a `with`; no job outlives it."""
    started = Airflow(folder, settings)
    try:
        started.start()
        wait_for(started.is_up, "airflow standalone", START_S, every_s=1)
        yield started
    finally:
        for run in started.runs.iterdir():
            (run / "go").touch()
        started.stop()


@pytest.fixture(scope="session")
def airflow(far: Far, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Airflow]:
    """One for all tests of this process."""
    with contextlib.ExitStack() as stack:
        settings = dict(far.settings())
        if postgres.program("postgres"):
            database = stack.enter_context(postgres.running())
            settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = database.url("postgresql+psycopg2")
        yield stack.enter_context(running(tmp_path_factory.mktemp("standalone"), settings))
