"""A TCP connection that acknowledges at once, and says what is wrong as any other does."""

from __future__ import annotations

import socket
import threading

import pytest

from airflow_jobdeploy.backends import prompt
from tests.servers.ports import free_port


def test_what_is_sent_arrives() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        answering = threading.Thread(target=_echo, args=(server,))
        answering.start()
        with prompt.connect("127.0.0.1", server.getsockname()[1], 5.0) as client:
            client.sendall(b"x" * 100_000)
            client.shutdown(socket.SHUT_WR)
            assert b"".join(iter(lambda: client.recv(4096), b"")) == b"x" * 100_000
            assert client.gettimeout() == 5.0
        answering.join(5)


def _echo(server: socket.socket) -> None:
    peer, _ = server.accept()
    with peer:
        peer.sendall(b"".join(iter(lambda: peer.recv(4096), b"")))


def test_nobody_listens() -> None:
    with pytest.raises(ConnectionRefusedError):
        prompt.connect("127.0.0.1", free_port(), 5.0)


def test_no_such_host() -> None:
    with pytest.raises(socket.gaierror):
        prompt.connect("no-such-host.invalid", 22, 5.0)
