"""`airflow jobdeploy ...` in this process, through Airflow's own parser, with a HOME of the test's own.

Airflow's home must be chosen before Airflow is imported; where tests/airflow has done so in this process, that stands.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.sshd import Sshd
from tests.servers.sshd import sshd as sshd

if "airflow" not in sys.modules and os.environ.get("AIRFLOW__JOBDEPLOY__DEPLOYMENT") != "tests":
    _HOME = Path(tempfile.mkdtemp(prefix="jobdeploy-cli-"))
    atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
    os.environ.update(
        {
            "AIRFLOW_HOME": str(_HOME),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(_HOME / "dags"),
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__JOBDEPLOY__DEPLOYMENT": "tests",
        }
    )


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """HOME, and the current directory: pool `local` keeps its jobs below it."""
    path = tmp_path / "home of ; 'nobody'"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(path)
    yield path
    end_jobs(path / ".jobdeploy")


def end_jobs(root: Path) -> None:
    """End the supervisors that a failed test left, by their pids."""
    for state in root.glob("hosts/*/jobs/*/state.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if not (state.parent / "exit.json").exists():
                os.kill(int(json.loads(state.read_text())["pid"]), signal.SIGTERM)


@pytest.fixture
def cli(home: Path, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command: cli("run", "job.yaml") -> code, out, err."""
    from airflow.cli.cli_parser import get_parser

    def run(*words: str | Path) -> Done:
        capfd.readouterr()
        args = get_parser().parse_args(["jobdeploy", *map(str, words)])
        code = 0
        try:
            args.func(args)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capfd.readouterr()
        return Done(code=code, out=said.out, err=said.err)

    return run


def begun(cli: Cli, name: str, *at: str) -> str:
    """A job that was started with `-d`, once its command runs: `run -d` does not wait for that."""
    until = time.monotonic() + 60
    while cli("status", name, *at, "-o", "json").data["status"] == "PENDING":
        assert time.monotonic() < until, f"{name} has not begun within 60 s"
    return name


@pytest.fixture
def airflow_db() -> None:
    """The metadata database."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture
def host(sshd: Sshd, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of an ssh connection, given in the environment, to a real sshd; its host key is verified."""
    extra = {"key_file": str(sshd.key_file), "host_key": sshd.host_key, "look_for_keys": "false"}
    connection = {"conn_type": "ssh", "host": "127.0.0.1", "port": sshd.port, "login": sshd.user, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_GPU_A", json.dumps(connection))
    return "gpu_a"


SERVICE = """\
params:
  name: {type: string, default: web}
  port: {type: integer, default: 8000, maximum: 9000}
builds:
  up:
    type: script
    content: |
      echo "serving {{ params.name }} on {{ params.port }}"
      nohup sleep 300 >/dev/null 2>&1 &
  watch: {type: script, content: "exit 3"}
  down: {type: script, content: "echo taken down"}
  purge: {type: script, content: "echo purged"}
"""


@pytest.fixture
def service_yaml(home: Path) -> Path:
    """A template whose `up` leaves a process."""
    path = home / "service.yaml"
    path.write_text(SERVICE)
    return path


@pytest.fixture
def job(home: Path) -> Callable[..., str]:
    """Write a job spec with this command; its file's name."""

    def write(command: str, name: str = "it's a job.yaml", **fields: Any) -> str:
        (home / name).write_text(json.dumps({"job_name": "a job", "command": command, "grace": 1, **fields}))
        return name

    return write
