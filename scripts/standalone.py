"""Start Airflow with the example DAGs on this machine and say where it is; Ctrl-C stops all of it.

Everything it keeps (SQLite database, logs, password) lies in .airflow/ in this tree; `make clean` removes it.
Ports that are taken are stepped over. JOBDEPLOY_AIRFLOW_HOME chooses another folder, PORT another first port.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

TREE = Path(__file__).resolve().parent.parent
DAGS = TREE / "airflow_jobdeploy" / "example_dags"
START_TIMEOUT_S = 180.0
#: How long the components get to end by themselves before they are killed.
STOP_TIMEOUT_S = 20.0


def free_port(first: int) -> int:
    """The first port from `first` on that nobody listens on."""
    for port in range(first, first + 100):
        with socket.socket() as probe:
            # As servers bind: a port whose last connection is still closing counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("0.0.0.0", port))
                return port
    raise SystemExit(f"no free port between {first} and {first + 99}")


def environment(home: Path, port: int) -> dict[str, str]:
    """What `airflow standalone` is told; what the user has set already wins, but for places and ports."""
    url = f"http://localhost:{port}"
    mine = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(free_port(8793)),
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(free_port(8893)),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
    }
    defaults = {
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        # 32 waiting worker processes cost memory that a laptop may not have.
        "AIRFLOW__CORE__PARALLELISM": "4",
        # Airflow hides "Test" on connections unless asked; here it shows whether an SSH host can be a worker.
        "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
        "AIRFLOW__API__HOST": "127.0.0.1",
        # A new or edited DAG file shows within seconds.
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
    }
    return {**defaults, **os.environ, **mine}


def answers(url: str) -> bool:
    with contextlib.suppress(OSError, urllib.error.URLError), urllib.request.urlopen(url, timeout=2) as reply:
        return bool(reply.status == 200)
    return False


def wait_until_up(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(f"{url}/api/v2/version"):
        try:
            code = process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if time.monotonic() < deadline:
                continue
            raise SystemExit(f"Airflow did not answer at {url} within {START_TIMEOUT_S:.0f} s; see {log}") from None
        raise SystemExit(f"Airflow ended with exit code {code} before it was up; see {log}")


def password(home: Path) -> str:
    """That of user admin, as Airflow made it at the first start."""
    path = home / "simple_auth_manager_passwords.json.generated"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["admin"])
    except (OSError, ValueError, KeyError):
        return f"(see {path})"


@contextlib.contextmanager
def running(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`airflow standalone` in a session of its own: one signal to that group stops all of its processes."""
    with log.open("ab") as output:
        command = [sys.executable, "-m", "airflow", "standalone"]
        process = subprocess.Popen(
            command, env=env, cwd=TREE, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while group_lives(process) and time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
        if not group_lives(process):
            return


def group_lives(process: subprocess.Popen[bytes]) -> bool:
    process.poll()
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    home = Path(os.environ.get("JOBDEPLOY_AIRFLOW_HOME", TREE / ".airflow")).resolve()
    home.mkdir(parents=True, exist_ok=True)
    port = free_port(int(os.environ.get("PORT", "8080")))
    url = f"http://localhost:{port}"
    log = home / "standalone.log"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Also where a script started us in the background, with SIGINT ignored.
        signal.signal(number, interrupt)
    print(f"Starting Airflow (half a minute; its output goes to {log}) ...", flush=True)
    try:
        with running(environment(home, port), log) as process:
            wait_until_up(process, url, log)
            print(f"\n  {url}\n  user: admin\n  password: {password(home)}\n", flush=True)
            print("Open the DAG train_on_demand and press Trigger. Ctrl-C stops Airflow.", flush=True)
            code = process.wait()
        raise SystemExit(f"Airflow ended with exit code {code}; see {log}")
    except KeyboardInterrupt:
        print("\nAirflow is stopped.", flush=True)


if __name__ == "__main__":
    main()
