"""The wire: frames over a pair of byte streams. Protocol 1.

A frame is one type byte, a 4-byte big-endian length, a payload of at most 64 KiB.

    J  one JSON object           B  raw bytes (log, archive)

Requests are J frames {"id": n, "op": name, ...}; each is answered by one J frame
{"id": n, "ok": true, ...} or {"id": n, "ok": false, "error": code, "message": sentence}. Changes that
were subscribed to come as J frames without an "id": {"event": "state", ...}. Where an op carries
bytes, B frames follow its J frame; an empty B frame ends them. Only durations cross the wire, never
instants: the clocks of two machines do not agree.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Callable, Dict, List, Optional, Tuple, Union

#: Version of frames and ops. Only added to; a peer answers "hello" with its own.
PROTOCOL = 1

#: The most a frame may carry, in bytes.
MAX_FRAME = 64 * 1024
#: How a warning of `hello` and `room` begins where GPUs could not be looked at.
GPUS_UNKNOWN = "GPUs are not known: "

#: Starts a session: everything before it is noise of a login shell and is skipped.
MARK = b"\x00jobdeploy\x01"

_HEAD = struct.Struct(">cI")


class ProtocolError(Exception):
    """The other side does not speak this protocol, or the stream was cut inside a frame."""


class OpError(Exception):
    """The answer is no: `code` for programs, the text for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reply(Dict[str, Any]):
    """An answer, and what is to be sent after it: a function that is given `send(bytes)`."""

    after: Optional[Callable[[Callable[[bytes], None]], None]] = None


def pack(kind: bytes, payload: Union[bytes, memoryview]) -> bytes:
    """One frame. ValueError over MAX_FRAME."""
    if len(payload) > MAX_FRAME:
        raise ValueError("frame of %d bytes, at most %d" % (len(payload), MAX_FRAME))
    return b"".join((_HEAD.pack(kind, len(payload)), payload))


def pack_bytes(data: Union[bytes, memoryview]) -> bytes:
    """As many B frames as it takes, each byte copied once."""
    view = memoryview(data)
    parts: List[Union[bytes, memoryview]] = []
    for start in range(0, len(view), MAX_FRAME):
        part = view[start : start + MAX_FRAME]
        parts += [_HEAD.pack(b"B", len(part)), part]
    return b"".join(parts)


def pack_json(message: dict) -> bytes:
    """A J frame, or several: an object too large for one frame is sent as "P" pieces and a last J."""
    data = json.dumps(message, separators=(",", ":")).encode()
    frames = []
    while len(data) > MAX_FRAME:
        frames.append(pack(b"P", data[:MAX_FRAME]))
        data = data[MAX_FRAME:]
    frames.append(pack(b"J", data))
    return b"".join(frames)


class Reader:
    """Takes bytes as they come, gives whole frames: (b"J", dict) or (b"B", bytes)."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._pieces = bytearray()

    def feed(self, data: bytes) -> List[tuple]:
        frames: List[tuple] = []
        for kind, payload in self._whole(data):
            if kind == b"P":
                self._pieces += payload
            elif kind == b"J":
                text = bytes(self._pieces) + payload
                self._pieces = bytearray()
                frames.append((kind, _decoded(text)))
            else:
                frames.append((kind, payload))
        return frames

    def _whole(self, data: bytes) -> List[Tuple[bytes, bytes]]:
        """The frames that are whole now. Each byte is copied once, but those of a frame that came in two pieces."""
        found: List[Tuple[bytes, bytes]] = []
        view = memoryview(data)
        while self._buffer and view:
            lacking = self._lacking()
            self._buffer += view[:lacking]
            view = view[lacking:]
            if not self._lacking():
                found.append((bytes(self._buffer[:1]), bytes(self._buffer[_HEAD.size :])))
                self._buffer.clear()
        start, size = 0, len(view)
        while size - start >= _HEAD.size:
            kind, length = _checked_head(view[start : start + _HEAD.size])
            end = start + _HEAD.size + length
            if size < end:
                break
            found.append((kind, bytes(view[start + _HEAD.size : end])))
            start = end
        self._buffer += view[start:]
        return found

    def _lacking(self) -> int:
        """Bytes until the begun frame is whole; until its head is, when not even that is."""
        if len(self._buffer) < _HEAD.size:
            return _HEAD.size - len(self._buffer)
        return _HEAD.size + _checked_head(self._buffer[: _HEAD.size])[1] - len(self._buffer)

    @property
    def partial(self) -> bool:
        """Is a frame begun and not ended? At the end of a stream that means it was cut."""
        return bool(self._buffer or self._pieces)


def _checked_head(head: Union[bytearray, memoryview]) -> Tuple[bytes, int]:
    kind, length = _HEAD.unpack(head)
    if kind not in (b"J", b"B", b"P") or length > MAX_FRAME:
        raise ProtocolError("not a frame: %r" % bytes(head))
    return kind, length


def _decoded(text: bytes) -> dict:
    try:
        message = json.loads(text.decode())
    except ValueError:
        raise ProtocolError("not JSON: %r" % text[:80]) from None
    if not isinstance(message, dict):
        raise ProtocolError("not an object: %r" % text[:80])
    return message
