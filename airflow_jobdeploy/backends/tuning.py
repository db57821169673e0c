"""How paramiko's connections are set up once they stand, and how they end: by itself it does not do it well enough."""

from __future__ import annotations

import contextlib
import socket
import sys
import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import paramiko

#: How often paramiko's thread looks at its clock, in seconds: for keepalives, which need not be exact. By itself it
#: does ten times a second, and that is most of what a quiet connection costs.
TICK_S = 5.0
#: So much may wait in the kernel to be sent, in bytes.
UNSENT_BYTES = 128 * 1024
#: When to ask for new keys: where OpenSSH does by itself (its packet.c, for AES). paramiko would each 512 MiB, and its
#: thread then waits for itself when the other side closes a channel meanwhile: the connection breaks.
REKEY_BYTES, REKEY_PACKETS = 1 << 36, 1 << 31
_TCP_NOTSENT_LOWAT = 25  # linux/tcp.h; named in Python only from 3.12 on


def tune(transport: paramiko.Transport, *, keepalive_s: int) -> None:
    """Small requests at once, also beside a transfer; a dead peer is noticed after 30 s, not the kernel's 15 min; an
    idle connection costs next to nothing."""
    transport.set_keepalive(keepalive_s)
    transport.packetizer.REKEY_BYTES, transport.packetizer.REKEY_PACKETS = REKEY_BYTES, REKEY_PACKETS
    sock = transport.sock
    if not isinstance(sock, socket.socket):
        return  # a channel of another connection
    sock.settimeout(TICK_S)
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        return  # a jump host: a pipe
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux":
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 30_000)
        # tcp(7): the kernel would take in megabytes of a project that a slow line has not sent, and a stop would wait
        # behind them for longer than Airflow lets a task live.
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def hang_up(transport: paramiko.Transport) -> None:
    """End the stream. Closing alone would not while paramiko's thread waits for it: poll(2) holds the socket open."""
    if isinstance(transport.sock, socket.socket):
        with contextlib.suppress(OSError):  # it has ended already
            transport.sock.shutdown(socket.SHUT_RDWR)


def close_half_made(error: Exception) -> None:
    """Close what a failed connect left open: paramiko's client keeps it in a thread, and sshd for two minutes.

    A refused host key or password, again and again, would else use up the connections that sshd lets wait.
    """
    import paramiko

    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in list(frame.f_locals.values()):
            if isinstance(value, paramiko.Transport):
                value.close()
