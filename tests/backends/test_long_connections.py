"""A connection that has moved much: keys are changed by sshd, when it wants to, never in our own way."""

from __future__ import annotations

import paramiko
import pytest

from tests.servers.sshd import Sshd


@pytest.mark.sshd
def test_many_transfers_do_not_break_the_connection(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """paramiko's own limit, made small: it would ask for new keys with each transfer, and break at their ends."""
    monkeypatch.setattr(paramiko.packet.Packetizer, "REKEY_BYTES", 64 * 1024)
    client = sshd.client()
    try:
        for _ in range(20):
            channel = client.open(["head", "-c", "300000", "/dev/zero"])
            size = 0
            while channel.wait(10) and (data := channel.read()):
                size += len(data)
            assert size == 300_000
            channel.close()
        assert client.is_alive
    finally:
        client.close()
