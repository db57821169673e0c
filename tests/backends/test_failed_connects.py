"""Connects that fail leave nothing behind: no thread here, no connection that waits for a login over there."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from airflow_jobdeploy.errors import WorkerUnreachable
from tests.faults.processes import descendants, eventually
from tests.servers import sshd as servers

pytestmark = pytest.mark.sshd


@pytest.fixture
def sshd(tmp_path: Path) -> Iterator[servers.Sshd]:
    """One of this test's own: what others have left to their threads may connect to theirs at any time."""
    with servers.running(tmp_path / "sshd") as server:
        yield server


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A key that no account knows."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    return tmp_path / "key"


def _transports(port: int) -> list[paramiko.Transport]:
    """Those that are connected to a port, or have been and live on."""
    found = [thread for thread in threading.enumerate() if isinstance(thread, paramiko.Transport)]
    return [transport for transport in found if transport.is_alive() and _peer(transport) in (port, None)]


def _peer(transport: paramiko.Transport) -> int | None:
    try:
        return int(transport.getpeername()[1])
    except OSError:
        return None  # closed


def test_a_refused_login_is_closed(sshd: servers.Sshd, stranger: Path) -> None:
    for _ in range(3):
        with pytest.raises(WorkerUnreachable, match="login, key_file"):
            sshd.client(key_filename=str(stranger))
    eventually(lambda: not descendants(sshd.process.pid))
    eventually(lambda: not _transports(sshd.port))
