"""Where the rows run: an sshd of our own on loopback, an Airflow home of our own, and the processes beside us."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.servers.sshd import Sshd, running

ROOT = Path(__file__).resolve().parent.parent
#: An `ssh` connection; as a worker pool, a pool of that one host.
CONN = "bench"
#: The same host as a pool whose root lies in memory: transfers are measured without the disk.
RAM_POOL = "bench_ram"
#: A `docker` connection to an engine of our own; as a worker pool, a pool of that one, and its worker's name.
ENGINE = "bench_engine"
#: A process apart that takes longer hangs, in seconds.
_LIMIT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Lab:
    """One run's world. `dir` lies on disk, `ram` in memory where the machine has /dev/shm."""

    dir: Path
    ram: Path
    server: Sshd

    @property
    def mark(self) -> str:
        """In the command line or environment of every process of the far side."""
        return str(self.dir)

    def say(self, text: str) -> None:
        """Progress, for a person."""
        print(f"    {text}", file=sys.stderr, flush=True)

    @property
    def ssh(self) -> list[str]:
        """OpenSSH's own client to the host, without the command."""
        options = [
            *("-F", "/dev/null", "-o", f"UserKnownHostsFile={self.server.known_hosts}", "-o", "IdentitiesOnly=yes"),
            *("-o", "BatchMode=yes", "-i", str(self.server.key_file), "-p", str(self.server.port)),
        ]
        return ["ssh", *options, f"{self.server.user}@127.0.0.1"]

    def accepted(self) -> int:
        """Connections that the sshd has let in so far."""
        return (self.server.dir / "log").read_text(errors="replace").count("Accepted publickey")

    def dest(self) -> Path:
        """An empty folder in memory, for what is fetched."""
        folder = self.ram / "dest"
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
        return folder

    def apart(self, module: str, **given: Any) -> dict[str, Any]:
        """Run `module` with `given` in a fresh interpreter; what its `answer` returned."""
        self.say(f"{module.rpartition('.')[2]} {' '.join(f'{k}={v}' for k, v in given.items() if len(str(v)) < 30)}")
        question, answer, log = (self.dir / f"apart.{name}" for name in ("question", "answer", "log"))
        answer.unlink(missing_ok=True)
        question.write_text(json.dumps({"mark": self.mark, "sshd": self.server.process.pid, **given}))
        with log.open("wb") as out:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.apart", module, str(question), str(answer)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                check=False,
                timeout=_LIMIT_S,
            )
        if done.returncode or not answer.exists():
            raise RuntimeError(f"{module} ended with {done.returncode}: {log.read_text(errors='replace')[-3000:]}")
        return dict(json.loads(answer.read_text()))


@contextmanager
def opened() -> Iterator[Lab]:
    """A lab; gone afterwards. Sets this process's environment, before Airflow is imported."""
    assert "airflow" not in sys.modules, "the lab must be opened before Airflow reads its settings"
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="jdbench-") as disk,
        tempfile.TemporaryDirectory(prefix="jdbench-", dir=memory if memory.is_dir() else None) as ram,
        running(Path(disk) / "sshd", MaxStartups="1000", MaxSessions=100) as server,
    ):
        lab = Lab(dir=Path(disk), ram=Path(ram), server=server)
        os.environ.update(_settings(lab))
        (lab.dir / "dags").mkdir()
        yield lab
        _end_jobs(lab)


def _settings(lab: Lab) -> dict[str, str]:
    extra = {"key_file": str(lab.server.key_file), "host_key": lab.server.host_key, "look_for_keys": "false"}
    host = {"conn_type": "ssh", "host": "127.0.0.1", "port": lab.server.port, "login": lab.server.user, "extra": extra}
    ram = {"kind": "ssh", "workers": [{"conn_id": CONN}], "root": str(lab.ram / "root")}
    return {
        "AIRFLOW_HOME": str(lab.dir),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{lab.dir}/airflow.db",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(lab.dir / "dags"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__JOBDEPLOY__DEPLOYMENT": "bench",
        f"AIRFLOW_CONN_{CONN.upper()}": json.dumps(host),
        f"AIRFLOW_CONN_{RAM_POOL.upper()}": json.dumps({"conn_type": "jobdeploy", "extra": ram}),
    }


def _end_jobs(lab: Lab) -> None:
    """Stop what a failed row has left, and free its files."""
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    for pool in (CONN, RAM_POOL):
        with JobDeployHook(pool).get_conn() as workers:
            backend = workers.backend(CONN)
            for job in backend.jobs(live_only=True):
                backend.stop(job["state"]["job_id"], reason="the benchmark is over", grace_s=0)
    for folder in Path("/tmp").glob(f"jd-{os.geteuid()}/*"):
        if not any(folder.iterdir()):
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def task(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The context of a task instance of its own, and an Airflow that answers it (tests/airflow/world.py)."""
    from tests.airflow.world import World

    place = folder / "worlds" / name
    place.mkdir(parents=True)
    with World(place).supervised() as world:
        context = world.context()
        ti: SimpleNamespace = context["ti"]
        ti.try_number = 1
        yield {**context, "task_instance": ti}


def execute(operator: Any, context: Any) -> Any:
    """`operator.execute`, past Airflow's guard against calls by hand."""
    return type(operator).execute.__wrapped__(operator, context)
