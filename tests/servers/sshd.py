"""Real sshds on 127.0.0.1, for tests: no privileges needed; as root also other accounts.

Each has its own port, host key, user key and HOME (an empty directory, so that the developer's own start-up
files change nothing), and is stopped by its pid. Import the fixture `sshd` in the conftest.py that wants it.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import paramiko
import pytest

from airflow_jobdeploy.backends.channel import ParamikoClient
from tests.servers.ports import free_port

_SBIN = "/usr/sbin:/usr/local/sbin:/sbin"

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {dir}/host_key
PidFile {dir}/pid
AuthorizedKeysFile {dir}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UseDNS no
PrintMotd no
PrintLastLog no
AllowTcpForwarding yes
"""


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", os.defpath) + os.pathsep + _SBIN)
    assert found, f"{name} is missing; mark the test with `sshd`"
    return found


@dataclass(frozen=True, kw_only=True)
class Sshd:
    """A running sshd."""

    dir: Path
    port: int
    user: str
    home: Path
    process: subprocess.Popen[bytes]

    @property
    def key_file(self) -> Path:
        return self.dir / "user_key"

    @property
    def host_key(self) -> str:
        """ "ssh-ed25519 AAAA...", as known_hosts and the connection's `host_key` have it."""
        return " ".join((self.dir / "host_key.pub").read_text().split()[:2])

    @property
    def known_hosts(self) -> Path:
        return self.dir / "known_hosts"

    def connect(self, *, user: str = "", **options: object) -> paramiko.SSHClient:
        """A connected paramiko client; the host key is verified."""
        client = paramiko.SSHClient()
        client.load_host_keys(str(self.known_hosts))
        settings: dict[str, object] = {
            "port": self.port,
            "username": user or self.user,
            "key_filename": str(self.key_file),
            "look_for_keys": False,
            "allow_agent": False,
            "timeout": 10,
            **options,
        }
        client.connect("127.0.0.1", **settings)  # type: ignore[arg-type]
        return client

    def client(self, *, user: str = "", **options: object) -> ParamikoClient:
        return ParamikoClient(lambda: self.connect(user=user, **options), name=f"127.0.0.1:{self.port}")

    def stop(self) -> None:
        """End the listener and the sessions that it has left."""
        children = _children(self.process.pid)
        for pid in (self.process.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        self.process.wait(60)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:  # not Linux
        return []


def start(directory: Path, *, env: Mapping[str, str] | None = None, **options: object) -> Sshd:
    """Start an sshd; `options` are lines of sshd_config (MaxSessions=1), `env` what its sessions get."""
    home = directory / "home"
    home.mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "user_key"):
        subprocess.run(
            [_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)], check=True
        )
    shutil.copy(directory / "user_key.pub", directory / "authorized_keys")
    if os.getuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # its privilege separation directory
    for _ in range(5):  # a stranger may take the port in between
        server = _started(directory, free_port(), {"HOME": str(home), **(env or {})}, options)
        if server is not None:
            return server
    raise AssertionError(f"sshd does not start: {(directory / 'log').read_text()}")


def _started(directory: Path, port: int, env: Mapping[str, str], options: Mapping[str, object]) -> Sshd | None:
    config = directory / "sshd_config"
    # The first of several lines of one name counts.
    lines = [f"{name} {value}" for name, value in options.items()]
    lines += [_CONFIG.format(port=port, dir=directory), "SetEnv " + " ".join(f"{k}={v}" for k, v in env.items() if v)]
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([_program("sshd"), "-D", "-f", str(config), "-E", str(directory / "log")])
    if _listens(process, port):
        server = Sshd(dir=directory, port=port, user=getpass.getuser(), home=directory / "home", process=process)
        server.known_hosts.write_text(f"[127.0.0.1]:{port} {server.host_key}\n")
        return server
    process.kill()
    process.wait()
    return None


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    until = time.monotonic() + 30
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            return probe.recv(4) == b"SSH-"
        time.sleep(0.02)  # sshd says nowhere that it listens
    return False


@contextlib.contextmanager
def running(directory: Path, *, env: Mapping[str, str] | None = None, **options: object) -> Iterator[Sshd]:
    """An sshd for the time of a `with`."""
    server = start(directory, env=env, **options)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """One sshd for all tests of this process, roomy enough for them."""
    with running(tmp_path_factory.mktemp("sshd"), MaxStartups="200:30:400", MaxSessions=100) as server:
        yield server


@contextlib.contextmanager
def temporary_user(shell: str, home: Path, password: str = "") -> Iterator[str]:
    """An account with this login shell (root only); gone afterwards, with its processes. No password: by key only."""
    name = "jdt" + secrets.token_hex(4)
    # useradd gives up at once while another one holds its lock.
    _account(["useradd", "-M", "-d", str(home), "-s", shell, "-p", "*", name])
    if password:  # by stdin, and hashed without PAM, which containers may not have set up
        _account(["chpasswd", "-c", "SHA512"], f"{name}:{password}\n")
    shutil.chown(home, name, name)
    uid = pwd.getpwnam(name).pw_uid
    try:
        yield name
    finally:
        _end_processes(uid)
        shutil.rmtree(f"/tmp/jd-{uid}", ignore_errors=True)  # the TMPDIRs of its jobs
        _account(["userdel", "-f", name])  # a killed process counts as a user of it until it is reaped


def _account(command: list[str], told: str = "") -> None:
    argv = [_program(command[0]), *command[1:]]
    for _ in range(50):
        done = subprocess.run(argv, input=told, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return
        if "lock" not in done.stderr:
            break
        time.sleep(0.1)  # the lock file of passwd(5) cannot be waited for
    raise AssertionError(f"{' '.join(command)}: {done.stderr}")


def _end_processes(uid: int) -> None:
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if path.stat().st_uid == uid:
                os.kill(int(path.name), signal.SIGKILL)
