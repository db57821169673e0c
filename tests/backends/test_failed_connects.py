"""Connects that fail leave nothing behind: no thread here, no connection that waits for a login over there."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import paramiko
import pytest

from airflow_jobdeploy.errors import WorkerUnreachable
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.sshd


def _transports() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if isinstance(thread, paramiko.Transport)]


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A key that no account knows."""
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "key")]
    subprocess.run(command, check=True)
    return tmp_path / "key"


def test_a_refused_login_is_closed(sshd: Sshd, stranger: Path) -> None:
    before = _transports()
    for _ in range(3):
        with pytest.raises(WorkerUnreachable, match="login, key_file"):
            sshd.client(key_filename=str(stranger))
    assert [
        thread for thread in _transports() if thread not in before and not thread.join(5) and thread.is_alive()
    ] == []
