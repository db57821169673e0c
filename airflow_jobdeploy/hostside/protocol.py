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
        self._buffer += data
        frames: List[tuple] = []
        for kind, payload in self._whole():
            if kind == b"P":
                self._pieces += payload
            elif kind == b"J":
                text = bytes(self._pieces) + payload
                self._pieces = bytearray()
                frames.append((kind, _decoded(text)))
            else:
                frames.append((kind, payload))
        return frames

    def _whole(self) -> List[Tuple[bytes, bytes]]:
        """Take the whole frames from the buffer; each byte is copied once."""
        found, start, size = [], 0, len(self._buffer)
        with memoryview(self._buffer) as view:
            while size - start >= _HEAD.size:
                kind, length = _HEAD.unpack_from(view, start)
                if kind not in (b"J", b"B", b"P") or length > MAX_FRAME:
                    raise ProtocolError("not a frame: %r" % bytes(view[start : start + 40]))
                end = start + _HEAD.size + length
                if size < end:
                    break
                found.append((kind, bytes(view[start + _HEAD.size : end])))
                start = end
        del self._buffer[:start]
        return found

    @property
    def partial(self) -> bool:
        """Is a frame begun and not ended? At the end of a stream that means it was cut."""
        return bool(self._buffer or self._pieces)


def _decoded(text: bytes) -> dict:
    try:
        message = json.loads(text.decode())
    except ValueError:
        raise ProtocolError("not JSON: %r" % text[:80]) from None
    if not isinstance(message, dict):
        raise ProtocolError("not an object: %r" % text[:80])
    return message
