"""A connection on which nothing happens costs next to nothing, and ends at once all the same."""

from __future__ import annotations

import time
from pathlib import Path

import paramiko
import pytest

from airflow_jobdeploy.backends import tuning
from airflow_jobdeploy.backends.channel import ParamikoClient
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.sshd


def _connected(sshd: Sshd) -> tuple[ParamikoClient, paramiko.Transport]:
    connection = sshd.connect()
    transport = connection.get_transport()
    assert transport is not None
    return ParamikoClient(lambda: connection, name="h"), transport


def _wakes(transport: paramiko.Transport) -> int:
    """How often its thread has slept so far, proc(5)."""
    lines = Path(f"/proc/self/task/{transport.native_id}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def test_a_quiet_connection_sleeps(sshd: Sshd) -> None:
    client, transport = _connected(sshd)
    client.open(["cat"])
    until = time.monotonic() + 30
    while True:  # what the start has left to do comes first, on a busy machine late
        before = _wakes(transport)
        time.sleep(1.5)
        if _wakes(transport) - before <= 2:
            break
        assert time.monotonic() < until, "it never sleeps"
    client.close()


def test_a_sleeping_connection_ends_at_once(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "TICK_S", 600.0)
    client, transport = _connected(sshd)
    channel = client.open(["cat"])
    assert not channel.wait(0.2)  # its thread sleeps by now
    client.close()
    transport.join(30)
    assert not transport.is_alive()
    assert not client.is_alive
