"""A real Redis of the test's own, on a free port of 127.0.0.1, stopped by its pid; nothing of it is kept."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.servers.ports import free_port

_START_S = 20.0


@dataclass(frozen=True, kw_only=True)
class Redis:
    """A running server. It asks for a password: other accounts of this machine reach its port, too."""

    port: int
    password: str

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Redis]:
    """A server for the time of a `with`."""
    for _ in range(5):  # a stranger may take the port in between
        server = Redis(port=free_port(), password=secrets.token_hex(16))
        process = _started(folder, server)
        if process is not None:
            break
    else:
        raise AssertionError(f"redis does not start: {(folder / 'redis.log').read_text()}")
    try:
        yield server
    finally:
        process.terminate()
        process.wait(20)


def _started(folder: Path, server: Redis) -> subprocess.Popen[bytes] | None:
    program = shutil.which("redis-server")
    assert program, "redis-server is missing; mark the test with `scaled`"
    # The password comes by stdin: arguments are seen by everybody.
    lines = ["bind 127.0.0.1", f"port {server.port}", f"requirepass {server.password}", f'dir "{folder}"', 'save ""']
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen([program, "-"], stdin=subprocess.PIPE, stdout=log, stderr=log)
    assert process.stdin is not None
    process.stdin.write("\n".join(lines).encode() + b"\n")
    process.stdin.close()
    if _answers(process, server):
        return process
    process.kill()
    process.wait()
    return None


def _answers(process: subprocess.Popen[bytes], server: Redis) -> bool:
    until = time.monotonic() + _START_S
    question = f"AUTH {server.password}\r\nPING\r\n".encode()
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=1) as probe:
            probe.sendall(question)
            answer = b""
            while part := probe.recv(64):
                answer += part
                if answer.endswith(b"+PONG\r\n"):
                    return True
                if b"-" in answer:  # somebody else's
                    return False
        time.sleep(0.02)  # it tells nobody but its log that it listens
    return False
