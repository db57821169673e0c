"""The way to a host: what a connection says, and a TCP proxy that spoils what goes through it.

(This kernel, like many a container's, has no netem.) It runs in a thread of its own; settings take effect at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import paramiko

from airflow_jobdeploy.backends.channel import ParamikoClient

_PIECE = 16 * 1024
#: Pieces under way in one direction: a line has little memory.
_QUEUE = 8
_LOOK_S = 0.02


class Wire:
    """One listening port in front of `address`:`port`, or of a unix socket."""

    def __init__(self, address: str | Path, port: int = 22) -> None:
        self._target = address, port
        #: Seconds that each byte is under way.
        self.delay_s = 0.0
        #: Bytes a second, in each direction; 0: as fast as it goes.
        self.rate = 0
        #: Nothing passes, nothing is refused.
        self.is_hole = False
        #: How many connections were reset.
        self.resets = 0
        self._left: dict[bool, int | None] = {True: None, False: None}
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        # What was sent is not on the line yet: a line has little memory. Those who connect inherit it.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * _PIECE)
        self.port: int = self._listener.getsockname()[1]
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()

    def reset_after(self, count: int, *, down: bool = True) -> None:
        """Let `count` more bytes pass (`down`: from the host to us), then reset that connection, once."""
        self._left[down] = count

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._connected, sock=self._listener)
        await self._stop.wait()
        server.close()
        for writer in list(self._writers):
            _reset(writer)
        # Each ends by the reset of its ends, or by the end of the hole; one that connects just now is given up.
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=2)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._in_hole()
            far_reader, far_writer = await self._far()
        except OSError:
            _reset(writer)
            return
        self._writers.add(far_writer)
        try:
            await _both(self._pass(reader, far_writer, False), self._pass(far_reader, writer, True))
        except OSError:
            pass  # an end is gone, or we are asked to reset
        finally:
            for end in (writer, far_writer):
                self._writers.discard(end)
                _reset(end)

    async def _far(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address, port = self._target
        if isinstance(address, Path):
            return await asyncio.open_unix_connection(address)
        return await asyncio.open_connection(address, port)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, down: bool) -> None:
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUE)
        await _both(self._read(reader, queue), self._write(queue, writer, down))

    async def _read(self, reader: asyncio.StreamReader, queue: asyncio.Queue[tuple[float, bytes]]) -> None:
        data = b"begin"
        while data:
            data = await reader.read(_PIECE)
            await queue.put((self._loop.time() + self.delay_s, data))

    async def _write(self, queue: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter, down: bool) -> None:
        while True:
            due, data = await queue.get()
            await asyncio.sleep(due - self._loop.time())
            await self._in_hole()
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
            left = self._left[down]
            if left is not None and left <= len(data):
                self._left[down] = None
                self.resets += 1
                writer.write(data[:left])
                await writer.drain()
                raise ConnectionResetError
            self._left[down] = None if left is None else left - len(data)
            writer.write(data)
            await writer.drain()
            if not data:
                writer.write_eof()
                return

    async def _in_hole(self) -> None:
        while self.is_hole and not self._stop.is_set():
            await asyncio.sleep(_LOOK_S)
        if self._stop.is_set():
            raise ConnectionAbortedError


async def _both(*todo: Coroutine[None, None, None]) -> None:
    """Until both have ended; the first that fails ends the other, and its error is ours."""
    tasks = [asyncio.create_task(each) for each in todo]
    try:
        for task in (await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION))[0]:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _reset(writer: asyncio.StreamWriter) -> None:
    """An end with RST instead of FIN: socket(7), SO_LINGER of 0."""
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextlib.contextmanager
def wired(address: str | Path, port: int = 22) -> Iterator[Wire]:
    """A wire for the time of a `with`."""
    wire = Wire(address, port)
    try:
        yield wire
    finally:
        wire.close()


@dataclass
class Way:
    """How this side reaches a host: what an Airflow connection would say. Read anew at each connect."""

    address: str
    key_file: Path
    host_key: paramiko.PKey
    user: str
    port: int = 22

    def client(self, name: str) -> ParamikoClient:
        return ParamikoClient(self._connect, name=name)

    def _connect(self) -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        entry = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        client.get_host_keys().add(entry, self.host_key.get_name(), self.host_key)
        login = {
            "username": self.user,
            "key_filename": str(self.key_file),
            "look_for_keys": False,
            "allow_agent": False,
        }
        client.connect(self.address, port=self.port, timeout=10, **login)  # type: ignore[arg-type]
        return client
