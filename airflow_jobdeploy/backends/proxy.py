"""Connections through another program: the ProxyCommand of ~/.ssh/config, or the `ssh -W` that a ProxyJump means.

paramiko has a ProxyCommand of its own. It does not notice when the program ends, spins meanwhile, cannot use
descriptors beyond 1023, which are ordinary in a triggerer, and loses what the program says. Here the program has one
end of a socket pair, so that its end is the end of the stream, and its complaints are kept for the error.
"""

from __future__ import annotations

import contextlib
import shlex
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import IO

#: How long a program may take to end after it has closed its output, and how much of its complaints is told.
_END_S = 2.0
_TOLD_BYTES = 600


class ProxyFailed(ConnectionError):
    """The program ended before there was a connection; the text says how, and with which words."""


@contextlib.contextmanager
def through(command: str) -> Iterator[socket.socket]:
    """A stream through `command` (words as a shell has them, no shell), to make a connection on inside the `with`.

    Afterwards it belongs to the connection; closing it ends the program. An error inside closes it, and becomes
    ProxyFailed when the program has failed by then.
    """
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as complaints:
        try:
            with theirs:
                end = theirs.fileno()
                program = subprocess.Popen(
                    shlex.split(command), stdin=end, stdout=end, stderr=complaints, start_new_session=True
                )
        except OSError as error:
            ours.close()
            raise ProxyFailed(f"cannot run `{command}`: {error.strerror}") from error
        try:
            yield ours
        except Exception as error:
            failed = _has_failed(program)
            ours.close()
            if failed:
                raise ProxyFailed(f"`{command}` ended with status {program.returncode}{_told(complaints)}") from error
            raise
        threading.Thread(target=program.wait, name="jobdeploy-proxy", daemon=True).start()  # so that it is reaped


def _has_failed(program: subprocess.Popen[bytes]) -> bool:
    """Did it end by itself, and badly? It has ended afterwards."""
    try:
        return program.wait(_END_S) != 0
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
        return False


def _told(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    said = complaints.read()[-_TOLD_BYTES:].decode(errors="replace").strip()
    return f"; it said: {said!r}" if said else ""
