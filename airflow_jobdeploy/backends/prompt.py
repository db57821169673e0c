"""TCP connections that acknowledge at once.

sshd leaves Nagle's algorithm on until a session has a terminal: a small packet of its waits until the one before
is acknowledged, which a kernel that sees no hurry delays by 40 ms (RFC 1122, 4.2.3.2). Between a connect and the
first answer of a worker that happens two or three times.
"""

from __future__ import annotations

import socket


class PromptSocket(socket.socket):
    """Asks the kernel, after each receive, not to delay the acknowledgement: TCP_QUICKACK lasts for one (tcp(7))."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        if data:
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data


def connect(host: str, port: int, timeout_s: float) -> socket.socket:
    """Connect to the first address of `host` that answers. OSError (gaierror, TimeoutError, ...) when none does."""
    plain = socket.create_connection((host, port), timeout_s)
    if not hasattr(socket, "TCP_QUICKACK"):  # Linux only
        return plain
    prompt = PromptSocket(fileno=plain.detach())
    prompt.settimeout(timeout_s)
    return prompt
