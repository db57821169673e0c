"""Ways into a real sshd through an Airflow connection: passwords, jump hosts; and what is said of a wrong way."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.errors import WorkerUnreachable
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from tests.contract.steps import outcome
from tests.servers import sshd as servers
from tests.servers.sshd import Sshd
from tests.servers.sshd import sshd as sshd

pytestmark = [pytest.mark.airflow, pytest.mark.sshd]

Connect = Callable[..., JobDeployHook]


@pytest.fixture
def connect(airflow_db: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Makes an `ssh` connection to a host; the hook of that pool."""

    def make(host: str, port: int, login: str, password: str = "", **extra: Any) -> JobDeployHook:
        fields = {"conn_type": "ssh", "host": host, "port": port, "login": login, "password": password}
        monkeypatch.setenv("AIRFLOW_CONN_GPU", json.dumps({**fields, "extra": {"look_for_keys": "false", **extra}}))
        return JobDeployHook("gpu")

    return make


def ran(hook: JobDeployHook, command: str) -> tuple[str, bytes]:
    """(how it ended, its log)."""
    handle = hook.start(job_spec={"command": command})
    with hook.get_conn() as workers:
        state = outcome(workers.backend(handle["worker"]), handle["job_id"])
    return state.status.value, hook.read_log(handle)


@contextlib.contextmanager
def with_password(password: str) -> Iterator[tuple[Sshd, str]]:
    """An sshd that asks for a password, and an account there. Below /tmp: other accounts may enter it."""
    with tempfile.TemporaryDirectory(prefix="jd-logins-") as name:
        place = Path(name)
        place.chmod(0o755)
        account = place / "account"
        account.mkdir()
        with servers.running(place / "sshd", env={"HOME": str(account)}, PasswordAuthentication="yes") as server:
            with servers.temporary_user("/bin/sh", account, password) as user:
                yield server, user


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make accounts")
def test_a_password_logs_in(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    password = "it's; a `pass` word"
    with with_password(password) as (server, user):
        hook = connect("127.0.0.1", server.port, user, password, host_key=server.host_key)
        well, line = hook.test_connection()
        assert well, line
        assert user in line
        assert ran(hook, "id -un") == ("SUCCEEDED", f"{user}\n".encode())
        assert password not in caplog.text


@pytest.mark.skipif(os.getuid() != 0, reason="only root may make accounts")
def test_a_wrong_password_says_what_to_check_and_shows_none(connect: Connect) -> None:
    with with_password("right") as (server, user):
        well, line = connect("127.0.0.1", server.port, user, "wr0ng one", host_key=server.host_key).test_connection()
    assert not well
    assert "Check the connection's login" in line
    assert "wr0ng" not in line


def test_a_jump_host_of_the_ssh_config(connect: Connect, sshd: Sshd, home: Path, tmp_path: Path) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    with servers.running(tmp_path / "bastion") as bastion:
        lines = [
            "Host localhost\n  ProxyJump bastion",
            f"Host bastion\n  HostName 127.0.0.1\n  Port {bastion.port}\n  User {bastion.user}",
            f"  IdentityFile {bastion.key_file}\n  IdentitiesOnly yes\n  UserKnownHostsFile {bastion.known_hosts}",
        ]
        (home / ".ssh" / "config").write_text("\n".join(lines) + "\n")
        hook = connect("localhost", sshd.port, sshd.user, key_file=str(sshd.key_file), host_key=sshd.host_key)
        assert ran(hook, "echo behind") == ("SUCCEEDED", b"behind\n")
        assert "Accepted publickey" in (bastion.dir / "log").read_text()


def test_a_jump_host_that_refuses_says_so(connect: Connect, sshd: Sshd, home: Path, tmp_path: Path) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "config").write_text("Host localhost\n  ProxyJump nobody@127.0.0.1:1\n")
    hook = connect("localhost", sshd.port, sshd.user, key_file=str(sshd.key_file), host_key=sshd.host_key)
    well, line = hook.test_connection()
    assert not well
    assert "-W localhost:" in line
    assert "Connection refused" in line
    assert "Run that command by hand" in line


#: A ProxyCommand: says its pid, then passes bytes between the port and its stdin and stdout.
RELAY = """
import os, select, socket, sys
open(sys.argv[2], "w").write(str(os.getpid()))
port = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
while True:
    ready = select.select([0, port], [], [])[0]
    for source in ready:
        data = os.read(0, 65536) if source == 0 else port.recv(65536)
        if not data:
            sys.exit()
        port.sendall(data) if source == 0 else os.write(1, data)
"""


def test_the_end_of_a_proxy_command_is_that_of_the_connection(
    connect: Connect, sshd: Sshd, home: Path, tmp_path: Path
) -> None:
    (home / ".ssh").mkdir(mode=0o700)
    (tmp_path / "relay.py").write_text(RELAY)
    words = [sys.executable, str(tmp_path / "relay.py"), str(sshd.port), str(tmp_path / "pid")]
    (home / ".ssh" / "config").write_text(f"Host behind\n  ProxyCommand {shlex.join(words)}\n")
    hook = connect("behind", sshd.port, sshd.user, key_file=str(sshd.key_file), host_key=sshd.host_key)
    with hook.get_conn() as workers:
        worker = workers.backend("gpu")
        assert worker.facts().user == sshd.user
        first = int((tmp_path / "pid").read_text())
        os.kill(first, signal.SIGKILL)
        began = time.monotonic()
        with contextlib.suppress(WorkerUnreachable):  # unless its end was noticed before this question
            worker.poll(["j" + "a" * 20])
        assert time.monotonic() - began < 15, "it was not waited for"
        assert worker.poll(["j" + "a" * 20])
        second = int((tmp_path / "pid").read_text())
        assert second != first
    until = time.monotonic() + 30
    while Path(f"/proc/{second}").exists():  # ended with its connection, and reaped
        assert time.monotonic() < until
        time.sleep(0.02)


def test_another_host_key_than_known_says_what_to_do(connect: Connect, sshd: Sshd, tmp_path: Path) -> None:
    with servers.running(tmp_path / "other") as other:
        hook = connect("127.0.0.1", sshd.port, sshd.user, key_file=str(sshd.key_file), host_key=other.host_key)
        well, line = hook.test_connection()
    assert not well
    assert "The host key is another one than known" in line
    assert "known_hosts" in line
