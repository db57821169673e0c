"""The log of a container as numbered bytes, from an engine that knows messages and their times.

An engine gives messages (lines, or 16 KiB of one) with the nanosecond of each, from a time on. A `Log` counts their
bytes once, keeps where it is, and asks on from the last time: nothing is given twice, nothing is left out. Whether
there is news is asked by the last message alone, which costs the engine next to nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import NamedTuple

from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.times import seconds

#: 2026-11-20T13:49:03.260682821Z and a blank, before each message.
_STAMP = 31
_HEAD = struct.Struct(">BxxxL")
#: A message of so many bytes is a piece of a longer line; the pieces of a line share one time.
_PARTIAL = 16 * 1024
#: So many messages are asked for from the end; when they do not reach back far enough, all are.
_TAIL = 2000
#: A place to go on from is noted each so many bytes.
_MARK_BYTES = 1024 * 1024


class Mark(NamedTuple):
    """The first message with `stamp` begins at `offset`; `owes`: with the newline of the line before (see `joined`)."""

    offset: int
    stamp: str
    owes: bool = False


class Message(NamedTuple):
    stamp: str
    data: bytes


_START = Mark(0, "")
_NONE = Message("", b"")


def messages(pieces: Iterable[bytes]) -> Iterator[Message]:
    """The messages of a multiplexed stream (Docker Engine API, "ContainerAttach"), of both streams."""
    held = bytearray()
    for piece in pieces:
        held += piece
        start = 0
        while len(held) - start >= _HEAD.size:
            _, size = _HEAD.unpack_from(held, start)
            end = start + _HEAD.size + size
            if len(held) < end:
                break
            body = bytes(held[start + _HEAD.size : end])
            yield Message(body[: _STAMP - 1].decode("ascii", "replace"), body[_STAMP:])
            start = end
        del held[:start]


def joined(found: Iterable[Message], owes: bool = False) -> Iterator[tuple[Message, bool]]:
    """The messages with the newlines that engines before 23 forget at the end of lines of more than 16 KiB, and whether
    one was owed before each: only the pieces of one line have the same time, so where it changes a line has ended."""
    before = ""
    for message in found:
        owed = owes and message.stamp != before
        yield (Message(message.stamp, b"\n" + message.data) if owed else message), owed
        before, owes = message.stamp, not message.data.endswith(b"\n")


class Log:
    """The log of one container. Used by one thread at a time."""

    def __init__(self, engine: Engine, container: str) -> None:
        self._engine = engine
        self.container = container
        #: Bytes known so far; of those, the first that an engine's cap has dropped.
        self.size = 0
        self.dropped = 0
        self._marks = [_START]
        self._last = _START
        self._latest = _NONE
        self._is_final = False
        #: A stream that is not at its end: where it was left, and what was read of it too much.
        self._open: tuple[int, Iterator[tuple[int, bytes]], bytearray] | None = None

    def grow(self, *, final: bool = False) -> int:
        """Count what has come since; the size. `final`: nothing will come any more."""
        if not self._is_final and self._has_news():
            for _ in self._counted(self._last):
                pass
        self._is_final = self._is_final or final
        return self.size

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        """(where it begins, at most `limit` bytes) from `offset` on.

        Turn by turn in order it is one stream: an engine reads a log from its begin for each question.
        """
        if limit <= 0 or (self._is_final and offset >= self.size):
            return offset, b""
        stream, held = self._stream_at(offset)
        for at, data in stream:
            if at + len(data) > offset:
                held += data[max(0, offset - at) :]
            if len(held) >= limit:
                self._open = (offset + limit, stream, held[limit:])
                return offset, bytes(held[:limit])
        return offset, bytes(held)

    def _stream_at(self, offset: int) -> tuple[Iterator[tuple[int, bytes]], bytearray]:
        """The stream that was left at `offset`, with what was read of it too much; else a new one."""
        before, self._open = self._open, None
        if before is not None and before[0] == offset:
            return before[1], before[2]
        known = (*self._marks, self._last)
        mark = max((mark for mark in known if mark.offset <= offset), key=lambda mark: mark.offset)
        return self._counted(mark), bytearray()

    def last_lines(self, count: int) -> bytes:
        """The end of the log."""
        with self._ask(tail=count) as pieces:
            return b"".join(message.data for message, _ in joined(messages(pieces)))

    # -- asking ------------------------------------------------------------------------------------------------------

    def _has_news(self) -> bool:
        with self._ask(tail=1) as pieces:
            last = next(messages(pieces), None)
        if last is None:
            return False
        if last.stamp < self._latest.stamp:  # the engine's clock was set back: times say nothing, all is counted again
            self._marks, self._last = [_START], _START
        return last != self._latest or len(last.data) >= _PARTIAL

    def _counted(self, mark: Mark) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of the messages from a mark on; those that are new are counted on the way."""
        offset = mark.offset
        for message, owed in joined(self._messages(mark), mark.owes):
            if offset >= self._last.offset and message.stamp != self._last.stamp:
                self._last = Mark(offset, message.stamp, owed)
                if offset - self._marks[-1].offset >= _MARK_BYTES:
                    self._marks.append(self._last)
            begin, offset = offset, offset + len(message.data)
            if offset > self.size:
                self.size, self._latest = offset, Message(message.stamp, message.data[owed:])
            yield begin, message.data

    def _messages(self, mark: Mark) -> Iterator[Message]:
        since = _since(mark.stamp)
        if since is not None and mark == self._last:
            with self._ask(since=since, tail=_TAIL) as pieces:
                near = list(messages(pieces))
            if len(near) < _TAIL:  # they reach back to the mark: what is older has been left out
                yield from near
                return
        with self._ask(since=since) as pieces:
            yield from messages(pieces)

    def _ask(self, **params: object) -> AbstractContextManager[Iterator[bytes]]:
        path = f"/containers/{self.container}/logs"
        return self._engine.receive(path, stdout=True, stderr=True, timestamps=True, **params)  # type: ignore[arg-type]


def _since(stamp: str) -> str | None:
    """A time of the engine as it wants to be asked: seconds since 1970, all nine digits."""
    if not stamp:
        return None
    whole = seconds(stamp[:19] + "Z")
    assert whole is not None
    return f"{int(whole)}.{stamp[20:29]}"


class CappedLog(Log):
    """A log that its engine cuts at the head. Process 1 of the container counts, and says now and then how far it is,
    in the stream: else nobody could tell how much is gone. What is there is bounded, so it is read from its begin."""

    def __init__(self, engine: Engine, container: str, job_id: str) -> None:
        super().__init__(engine, container)
        self._prefix = f"\x01jobdeploy {job_id} ".encode()

    def _has_news(self) -> bool:
        if super()._has_news():
            self._find_begin()
            return True
        return False

    def read(self, offset: int, limit: int) -> tuple[int, bytes]:
        if self._open is None or self._open[0] != offset:
            self._find_begin()
        return super().read(max(offset, self.dropped), limit)

    def _find_begin(self) -> None:
        """What has been dropped, from the first count that is told."""
        seen = 0
        with self._ask() as pieces:
            for part in unmarked(self._all(pieces), self._prefix):
                if isinstance(part, int):
                    self.dropped = max(self.dropped, part - seen)
                    break
                seen += len(part.data)
        self._marks, self._last = [Mark(self.dropped, "")], Mark(self.dropped, "")

    def last_lines(self, count: int) -> bytes:
        with self._ask(tail=count) as pieces:
            parts = unmarked((message for message, _ in joined(messages(pieces))), self._prefix)
            return b"".join(part.data for part in parts if isinstance(part, Message))

    def _counted(self, mark: Mark) -> Iterator[tuple[int, bytes]]:
        offset = self.dropped
        with self._ask() as pieces:
            for part in unmarked(self._all(pieces), self._prefix):
                if isinstance(part, Message):
                    begin, offset = offset, offset + len(part.data)
                    self.size = max(self.size, offset)
                    yield begin, part.data

    def _all(self, pieces: Iterable[bytes]) -> Iterator[Message]:
        for message, _ in joined(messages(pieces)):
            self._latest = message
            yield message


def unmarked(found: Iterable[Message], prefix: bytes) -> Iterator[Message | int]:
    """The messages without the counts in them (prefix, digits, newline), which come as numbers, in their places."""
    held, stamp = b"", ""
    for message in found:
        held, stamp = held + message.data, message.stamp
        while (begin := held.find(prefix)) >= 0 and (end := held.find(b"\n", begin)) >= 0:
            if begin:
                yield Message(stamp, held[:begin])
            digits, held = held[begin + len(prefix) : end], held[end + 1 :]
            if digits.isdigit():
                yield int(digits)
        keep = len(held) - begin if begin >= 0 else _overlap(held, prefix)
        if len(held) > keep:
            yield Message(stamp, held[: len(held) - keep])
        held = held[len(held) - keep :]
    if held.startswith(prefix) and held[len(prefix) :].isdigit():
        yield int(held[len(prefix) :])
    elif held:
        yield Message(stamp, held)


def _overlap(data: bytes, prefix: bytes) -> int:
    """How much of the end of `data` may be the begin of `prefix`."""
    sizes = range(min(len(data), len(prefix) - 1), 0, -1)
    return next((size for size in sizes if data.endswith(prefix[:size])), 0)
