"""Airflow as docker-compose.yaml has it, as processes of this machine: CeleryExecutor, PostgreSQL, Redis.

Each part has a host name and a log file of its own, both of the part's name, so that the API says what runs where.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from airflow_jobdeploy import example_dags
from tests.airflow import hostname
from tests.airflow.processes import send, tree
from tests.airflow.standalone import START_S, Airflow, wait_for
from tests.servers import postgres, redis, sshd
from tests.servers.postgres import Postgres
from tests.servers.redis import Redis
from tests.servers.sshd import Sshd

#: The DAG of `make demo`, as it is shipped.
DEMO = "train_on_demand"
#: After so many seconds without a word a task's process counts as lost.
TASK_LOST_S = 20
POOL = "lab"
WORKERS = ("gpu_1", "gpu_2")
_TRIGGERERS = ("triggerer-1", "triggerer-2")
_HERE = f"{hostname.__name__}.{hostname.of_this_part.__name__}"


class ScaledOut(Airflow):
    """Its parts; Celery workers are started by the test."""

    DAG_IDS = frozenset({DEMO})

    def __init__(self, folder: Path, settings: Mapping[str, str]) -> None:
        super().__init__(folder, settings)
        self._parts: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        migrated = subprocess.run(
            [str(Path(sys.executable).with_name("airflow")), "db", "migrate"],
            env=self._environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert migrated.returncode == 0, migrated.stdout[-2000:] + migrated.stderr[-2000:]
        self.start_part("api-server", "api-server", "--host", "127.0.0.1", "--workers", "1")
        self.start_part("scheduler", "scheduler", "--skip-serve-logs")
        self.start_part("dag-processor", "dag-processor")
        for name in _TRIGGERERS:
            self.start_part(name, "triggerer", "--skip-serve-logs")

    def start_worker(self, name: str, *, defer_after_s: float) -> None:
        """A Celery worker with two slots, whose tasks hand over to a triggerer after so many seconds."""
        words = ("--skip-serve-logs", "--without-mingle", "--without-gossip", "--concurrency", "2")
        self.start_part(
            name, "celery", "worker", *words, "--celery-hostname", f"celery@{name}",
            AIRFLOW__JOBDEPLOY__DEFER_AFTER=str(defer_after_s),
        )  # fmt: skip

    def start_part(self, name: str, *command: str, **more: str) -> None:
        with self.log_of(name).open("ab") as out:
            self._parts[name] = subprocess.Popen(
                [str(Path(sys.executable).with_name("airflow")), *command],
                env={**self._environment, hostname.PART: name, **more},
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._processes.append(self._parts[name])

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def is_up(self) -> bool:
        self.output.touch()
        for name, process in self._parts.items():
            text = self.log_of(name).read_text(errors="replace")
            assert process.poll() is None, f"{name} has ended\n{text[-4000:]}"
        known = super().is_up()
        health = self.ask("GET", "/api/v2/monitor/health") or {}
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return known and all(health.get(part, {}).get("status") == "healthy" for part in parts)

    def worker_is_up(self, name: str) -> bool:
        """Does it take tasks?"""
        return f"celery@{name} ready" in self.log_of(name).read_text(errors="replace")

    def lose(self, name: str) -> None:
        """SIGKILL to a part and all below it: its machine is gone."""
        send(tree(self._parts.pop(name).pid), signal.SIGKILL)

    def stop(self) -> None:
        """All at once and without a word: nothing of it is kept."""
        send([pid for process in self._processes for pid in tree(process.pid)], signal.SIGKILL)
        for process in self._processes:
            process.wait(20)

    def demo(self, **conf: Any) -> DemoRun:
        run_id = f"demo-{secrets.token_hex(6)}"
        body = {"logical_date": None, "dag_run_id": run_id, "conf": conf}
        assert self.ask("POST", f"/api/v2/dags/{DEMO}/dagRuns", body), f"{DEMO} cannot be triggered"
        return DemoRun(self, run_id)


class DemoRun:
    """A run of the demo's DAG."""

    def __init__(self, airflow: ScaledOut, run_id: str) -> None:
        self._airflow = airflow
        self.run_id = run_id
        self._path = f"/api/v2/dags/{DEMO}/dagRuns/{urllib.parse.quote(run_id, safe='')}"

    def task(self, task_id: str) -> dict[str, Any]:
        return self._airflow.ask("GET", f"{self._path}/taskInstances/{task_id}") or {}

    def task_in(self, state: str, task_id: str = "up") -> dict[str, Any]:
        """Wait for the state; what the API says of the task then."""

        def reached() -> dict[str, Any] | None:
            task = self.task(task_id)
            assert task.get("state") != "failed", f"{task_id} failed:\n{self.log(task_id, task['try_number'])}"
            return task if task.get("state") == state else None

        found: dict[str, Any] = wait_for(reached, f"{task_id} to be {state}", every_s=0.3)
        return found

    def until_success(self) -> None:
        def ended() -> str:
            state = (self._airflow.ask("GET", self._path) or {}).get("state", "")
            return state if state in ("success", "failed") else ""

        state = wait_for(ended, f"the end of {self.run_id}", every_s=0.5)
        states = {name: self.task(name).get("state") for name in ("up", "get", "report", "down")}
        assert state == "success", states

    def log(self, task_id: str, try_number: int) -> str:
        path = f"{self._path}/taskInstances/{task_id}/logs/{try_number}?full_content=true"
        answer = self._airflow.ask("GET", path) or {"content": []}
        return "\n".join(str(entry.get("event", entry)) for entry in answer["content"])

    def result(self, task_id: str) -> Any:
        path = f"{self._path}/taskInstances/{task_id}/xcomEntries/return_value"
        return (self._airflow.ask("GET", path) or {}).get("value")


def _settings(database: Postgres, broker: Redis, workers: Mapping[str, Sshd]) -> dict[str, str]:
    secret = secrets.token_hex(32)
    pool = {"kind": "ssh", "workers": [{"conn_id": name} for name in workers]}
    return {
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database.url("postgresql+psycopg2"),
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CELERY__BROKER_URL": broker.url,
        "AIRFLOW__CELERY__RESULT_BACKEND": "db+" + database.url("postgresql+psycopg2"),
        "AIRFLOW__API_AUTH__JWT_SECRET": secret,
        "AIRFLOW__API__SECRET_KEY": secret,
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(os.urandom(32)).decode(),
        "AIRFLOW__CORE__HOSTNAME_CALLABLE": _HERE,
        "AIRFLOW__CORE__DAGS_FOLDER": str(Path(str(example_dags.__file__)).parent),
        "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE": "True",
        # What a lost worker cost its tasks is one try.
        "AIRFLOW__CORE__DEFAULT_TASK_RETRIES": "2",
        "AIRFLOW__CORE__DEFAULT_TASK_RETRY_DELAY": "0",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(TASK_LOST_S),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
        f"AIRFLOW_CONN_{POOL.upper()}": json.dumps({"conn_type": "jobdeploy", "extra": pool}),
        **{f"AIRFLOW_CONN_{name.upper()}": json.dumps(_connection(host)) for name, host in workers.items()},
    }


def _connection(host: Sshd) -> dict[str, Any]:
    extra = {"key_file": str(host.key_file), "host_key": host.host_key, "look_for_keys": "false"}
    return {"conn_type": "ssh", "host": "127.0.0.1", "port": host.port, "login": host.user, "extra": extra}


@contextlib.contextmanager
def running(folder: Path) -> Iterator[tuple[ScaledOut, dict[str, Sshd]]]:
    """All of it, without a Celery worker yet, for the time of a `with`; and the hosts of the pool."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(postgres.running())
        broker = stack.enter_context(redis.running(folder))
        hosts = {name: stack.enter_context(sshd.running(folder / name)) for name in WORKERS}
        airflow = ScaledOut(folder, _settings(database, broker, hosts))
        stack.callback(airflow.stop)
        airflow.start()
        yield airflow, hosts


def await_up(airflow: ScaledOut, *workers: str) -> None:
    wait_for(airflow.is_up, "the parts of Airflow", START_S, every_s=1)
    for name in workers:
        wait_for(lambda name=name: airflow.worker_is_up(name), f"{name} to take tasks", START_S, every_s=0.5)
