"""A real PostgreSQL of the test's own, on a free port of 127.0.0.1, stopped by its pid.

It refuses to run as root: as root it gets the account `postgres`, which comes with the package.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.ports import free_port

_START_S = 60.0
_ACCOUNT = "postgres"
#: What is lost when the machine fails is no loss here.
_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "shared_buffers": "64MB",
}


def program(name: str) -> str | None:
    """Where a program of PostgreSQL is: Debian keeps them out of PATH, a folder for each version."""

    def version(path: Path) -> int:
        return int(re.sub(r"\D", "", path.parts[4]) or 0)

    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=version)
    return str(found[-1]) if found else shutil.which(name)


def _program(name: str) -> str:
    found = program(name)
    assert found, f"{name} of PostgreSQL is missing; mark the test with `scaled`"
    return found


@dataclass(frozen=True, kw_only=True)
class Postgres:
    """A running server with an empty database `airflow`."""

    dir: Path
    port: int
    password: str

    def url(self, driver: str) -> str:
        """As SQLAlchemy has it; driver: `postgresql+psycopg2` and such."""
        return f"{driver}://airflow:{self.password}@127.0.0.1:{self.port}/airflow"


@contextlib.contextmanager
def running() -> Iterator[Postgres]:
    """A server for the time of a `with`."""
    # Not in pytest's folders: those are closed to other accounts.
    folder = Path(tempfile.mkdtemp(prefix="jdp-"))
    process = None
    try:
        server, process = _start(folder)
        yield server
    finally:
        if process is not None:
            process.send_signal(signal.SIGINT)  # "fast": whoever is connected is thrown out
            process.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path) -> tuple[Postgres, subprocess.Popen[bytes]]:
    password = secrets.token_hex(16)
    _initialise(folder, password)
    for _ in range(5):  # a stranger may take the port in between
        server = Postgres(dir=folder, port=free_port(), password=password)
        options = {**_OPTIONS, "port": str(server.port), "unix_socket_directories": str(folder)}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (folder / "log").open("ab") as log:
            process = subprocess.Popen(
                [_program("postgres"), "-D", str(folder / "data"), *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, **_as_other(),
            )  # fmt: skip
        if _answers(process, server):
            _ask(server, "createdb", "airflow")
            return server, process
        process.kill()
        process.wait()
    raise AssertionError(f"PostgreSQL does not start: {(folder / 'log').read_text()}")


def _initialise(folder: Path, password: str) -> None:
    secret = folder / "password"
    secret.write_text(password)
    if os.geteuid() == 0:
        for path in (folder, secret):
            shutil.chown(path, _ACCOUNT)
    command = [_program("initdb"), "-D", str(folder / "data"), "-U", "airflow", "--auth=scram-sha-256", "--no-sync"]
    command += [f"--pwfile={secret}", "--encoding=UTF8", "--locale=C.UTF-8"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **_as_other())
    assert done.returncode == 0, f"initdb: {done.stdout}{done.stderr}"


def _as_other() -> dict[str, Any]:
    """Arguments of a process that is not root's."""
    if os.geteuid() != 0:
        return {}
    return {"user": _ACCOUNT, "group": _ACCOUNT, "extra_groups": []}


def _answers(process: subprocess.Popen[bytes], server: Postgres) -> bool:
    until = time.monotonic() + _START_S
    while time.monotonic() < until and process.poll() is None:
        if _ask(server, "psql", "-c", "select 1", "postgres").returncode == 0:
            return True
        time.sleep(0.05)  # it tells nobody but its log that it listens
    return False


def _ask(server: Postgres, name: str, *words: str) -> subprocess.CompletedProcess[bytes]:
    login = {"PGHOST": "127.0.0.1", "PGPORT": str(server.port), "PGUSER": "airflow", "PGPASSWORD": server.password}
    return subprocess.run(
        [_program(name), *words], env={**os.environ, **login}, cwd=server.dir, capture_output=True, check=False
    )
