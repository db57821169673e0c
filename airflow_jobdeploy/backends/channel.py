"""Byte streams to a command on a worker: a local process, or an exec channel of an SSH connection.

    connect() -> Client            one connection; called anew for each
      client.open(argv) -> Channel one command on the worker, its stdin, stdout and the tail of its stderr

What is above knows neither sockets nor paramiko. Failures of the stream are OSError or EOFError
(TimeoutError is one); those of a connect are WorkerUnreachable, with what to do about them.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from airflow_jobdeploy.backends import trouble, tuning
from airflow_jobdeploy.backends.gate import connecting

if TYPE_CHECKING:
    import paramiko

#: How much of stderr is kept, for error messages.
STDERR_TAIL = 8 * 1024
#: Unread bytes that the far side may send ahead: 2 to 8 MiB move 300 MB/s, 64 MiB only 67 (paramiko).
WINDOW = 4 * 1024 * 1024
_READ_SIZE = 256 * 1024
#: How long sshd may take for each of the two answers that start a command.
OPEN_TIMEOUT_S = 20.0


class Channel(Protocol):
    """One command on the worker. Used by one thread at a time."""

    def wait(self, timeout_s: float, wake: int | None = None) -> bool:
        """Is there something to read (or the end), within `timeout_s` and before `wake` (a descriptor) is readable?"""

    def read(self) -> bytes:
        """What there is, after `wait` said so; b"" at the end."""

    def write(self, data: bytes, timeout_s: float) -> None:
        """All of `data`. TimeoutError when nothing of it moves for `timeout_s`; OSError when the command is gone."""

    def ending(self, timeout_s: float) -> tuple[int | None, str]:
        """Exit status (None: not known yet) and the tail of stderr, once the end was read."""

    def close(self) -> None:
        """End the command's input and let go of it; a command that does not end by that is killed."""


class Client(Protocol):
    """One connection to a worker."""

    #: The worker's name in messages: "gpu-a (ssh host 10.0.0.7)".
    name: str

    @property
    def is_alive(self) -> bool:
        """False once it is known that the connection is gone, and its channels with it."""

    def open(self, argv: Sequence[str]) -> Channel:
        """Start a command. ChannelRefused when the connection has no room for one more."""

    def close(self) -> None:
        """Let go of the connection and its channels."""


class ChannelRefused(OSError):
    """The worker lets this connection have no further channel (sshd: MaxSessions)."""


class _Deadline:
    def __init__(self, timeout_s: float) -> None:
        self._end = time.monotonic() + timeout_s

    @property
    def left_s(self) -> float:
        return max(0.0, self._end - time.monotonic())


def _readable(fds: Sequence[int], timeout_s: float) -> set[int]:
    poller = select.poll()  # not select(): descriptors beyond 1023 are ordinary in a triggerer
    for fd in fds:
        poller.register(fd, select.POLLIN)
    # Rounded up: a rest of half a millisecond must not spin.
    return {fd for fd, _ in poller.poll(int(timeout_s * 1000) + 1 if timeout_s > 0 else 0)}


# -- this machine ---------------------------------------------------------------------------------------------------


class LocalClient:
    """Commands as child processes of this one."""

    def __init__(self, name: str = "local") -> None:
        self.name = name
        self.is_alive = True
        self._channels: list[LocalChannel] = []

    def open(self, argv: Sequence[str]) -> LocalChannel:
        channel = LocalChannel(argv)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class LocalChannel:
    """A child process. In a session of its own: a Ctrl-C or a kill of our group is not meant for it; it ends at EOF."""

    def __init__(self, argv: Sequence[str]) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            list(argv), stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, cwd="/", bufsize=0
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._in = self._process.stdin.fileno()
        self._out = self._process.stdout.fileno()
        self._err = self._process.stderr.fileno()
        self._err_open = True
        self._stderr = b""
        self._inbox = bytearray()
        self._ended = False
        for fd in (self._in, self._out, self._err):
            os.set_blocking(fd, False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self, timeout_s: float, wake: int | None = None) -> bool:
        deadline = _Deadline(timeout_s)
        while not (self._inbox or self._ended):
            fds = [self._out, *([self._err] if self._err_open else []), *([wake] if wake is not None else [])]
            ready = _readable(fds, deadline.left_s)
            self._take(ready)
            if not ready or wake in ready:
                break
        return bool(self._inbox) or self._ended

    def read(self) -> bytes:
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    def write(self, data: bytes, timeout_s: float) -> None:
        """Takes in what comes while it waits: a command that is stuck writing to us would never read."""
        rest = memoryview(data)
        while rest:
            poller = select.poll()
            poller.register(self._in, select.POLLOUT)
            if not self._ended and len(self._inbox) < WINDOW:
                poller.register(self._out, select.POLLIN)
            ready = dict(poller.poll(int(timeout_s * 1000)))
            if not ready:
                raise TimeoutError(f"the command took no input for {timeout_s:.0f} s")
            self._take(set(ready))
            if self._in in ready:
                rest = rest[os.write(self._in, rest) :]

    def _take(self, ready: set[int]) -> None:
        if self._err_open and self._err in ready:
            data = os.read(self._err, _READ_SIZE)
            self._err_open = bool(data)
            self._stderr = (self._stderr + data)[-STDERR_TAIL:]
        if not self._ended and self._out in ready:
            data = os.read(self._out, _READ_SIZE)
            self._ended = not data
            self._inbox += data

    def ending(self, timeout_s: float) -> tuple[int | None, str]:
        try:
            status: int | None = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            status = None
        if self._err_open:
            self._take(_readable([self._err], 0))
        return status, self._stderr.decode(errors="replace").strip()

    def close(self) -> None:
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None and not stream.closed:
                stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


# -- SSH ------------------------------------------------------------------------------------------------------------


class ParamikoClient:
    """A paramiko connection.

    `connect` gives a connected client, `SSHHook(..., conn_retry_attempts=1).get_conn` say: whoever
    made the hook has decided on keys, passwords, jump hosts and host key checks. It is called once,
    here, behind the gate of `gate.py`, and again after a refusal that a busy sshd gives.
    """

    def __init__(self, connect: Callable[[], paramiko.SSHClient], *, name: str, keepalive_s: int = 15) -> None:
        self.name = name
        self._client = self._connected(connect)
        transport = self._client.get_transport()
        if transport is None:
            raise trouble.unreachable(name, EOFError("the connection was closed at once"))
        self._transport = transport
        tuning.tune(transport, keepalive_s=keepalive_s)

    def _connected(self, connect: Callable[[], paramiko.SSHClient]) -> paramiko.SSHClient:
        errors = trouble.connect_errors()
        for pause_s in (*trouble.busy_pauses_s(), None):
            began = time.monotonic()
            try:
                with connecting(self.name):
                    return connect()
            except errors as error:
                tuning.close_half_made(error)
                if pause_s is None or not trouble.is_busy(error, time.monotonic() - began):
                    raise trouble.unreachable(self.name, error) from error
                time.sleep(pause_s)  # nothing tells when the sshd has room again
        raise AssertionError("the last attempt returns or raises")

    def open(self, argv: Sequence[str]) -> ParamikoChannel:
        import paramiko

        try:
            channel = self._transport.open_session(window_size=WINDOW, timeout=OPEN_TIMEOUT_S)
            # paramiko waits for the answer to this without end; a host that hangs gives none.
            with _closed_after(OPEN_TIMEOUT_S, channel):
                channel.exec_command("exec " + " ".join(shlex.quote(word) for word in argv))
        except paramiko.ChannelException as error:
            raise ChannelRefused(f"{self.name} refuses another session on this connection ({error})") from error
        except (paramiko.SSHException, EOFError) as error:
            raise ConnectionError(f"the connection broke ({str(error) or type(error).__name__})") from error
        return ParamikoChannel(channel)

    @property
    def is_alive(self) -> bool:
        return self._transport.is_active()

    def close(self) -> None:
        tuning.hang_up(self._transport)
        self._client.close()


@contextlib.contextmanager
def _closed_after(timeout_s: float, channel: paramiko.Channel) -> Iterator[None]:
    """Close the channel when what is done with it takes longer: whoever waits for it gets an SSHException."""
    timer = threading.Timer(timeout_s, channel.close)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class ParamikoChannel:
    """One exec channel."""

    def __init__(self, channel: paramiko.Channel) -> None:
        self._channel = channel
        self._stderr = b""
        self._fd = channel.fileno()  # readable when stdout or stderr has something, or at the end

    def wait(self, timeout_s: float, wake: int | None = None) -> bool:
        if self._channel.recv_ready():  # while much is coming: no system call, at which another thread takes the GIL
            return True
        deadline = _Deadline(timeout_s)
        while True:
            ready = _readable([self._fd, *([wake] if wake is not None else [])], deadline.left_s)
            if self._fd in ready:
                self._drain_stderr()
                if self._channel.recv_ready() or self._channel.eof_received or self._channel.closed:
                    return True
            if not ready or wake in ready:
                return False

    def read(self) -> bytes:
        return self._channel.recv(_READ_SIZE)

    def write(self, data: bytes, timeout_s: float) -> None:
        self._channel.settimeout(timeout_s)
        view: Any = memoryview(data)  # is cut into packets: of bytes, the whole rest would be copied for each
        self._channel.sendall(view)

    def _drain_stderr(self) -> None:
        while self._channel.recv_stderr_ready():
            self._stderr = (self._stderr + self._channel.recv_stderr(_READ_SIZE))[-STDERR_TAIL:]

    def ending(self, timeout_s: float) -> tuple[int | None, str]:
        known = self._channel.status_event.wait(timeout_s)
        self._drain_stderr()
        status = self._channel.exit_status if known and self._channel.exit_status >= 0 else None
        return status, self._stderr.decode(errors="replace").strip()

    def close(self) -> None:
        try:
            self._channel.close()
        except (OSError, EOFError):
            pass  # its connection is gone, so it is closed
