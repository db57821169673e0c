"""The task log's view of a job's log: bytes in, whole decoded lines out.

The log on the host is byte-exact. Here UTF-8 is decoded without ever cutting a character, what a
progress bar overwrote with a carriage return is left out, and a line is given out when it is whole,
or is longer than `MAX_LINE`, or has waited for `STALE_S`.
"""

from __future__ import annotations

#: A line without an end is given out in pieces of this many bytes.
MAX_LINE = 64 * 1024

#: A bar that has not ended its line shows its latest state after this many seconds.
STALE_S = 10.0


class LogView:
    """One reader's view. Not thread-safe."""

    def __init__(self) -> None:
        self._tail = b""
        self._tail_since: float | None = None
        self._shown = b""

    @property
    def pending_bytes(self) -> int:
        """Bytes taken in and not given out: resume reading this far back."""
        return len(self._tail)

    def feed(self, data: bytes, *, now: float, offset: int = 0, dropped: int = 0) -> str:
        """Take the bytes that begin at `offset`, after `dropped` bytes that are gone; the whole lines so far."""
        gap = ""
        if dropped:
            gap = self.end() + f"[{dropped} bytes dropped at offset {offset - dropped}]\n"
        data = self._tail + data
        cut = data.rfind(b"\n") + 1
        pieces, self._tail = _split_long(data[cut:])
        if cut or pieces or self._tail_since is None:
            self._tail_since = now
        return gap + _decoded(data[:cut]) + pieces + self._stale(now)

    def end(self) -> str:
        """Whatever is left, at the end of the log."""
        tail, self._tail, self._shown = self._tail, b"", b""
        return _decoded(tail) + "\n" if tail else ""

    def _stale(self, now: float) -> str:
        """The latest state of an unfinished line, once it has waited long enough."""
        if not self._tail or self._tail_since is None or now - self._tail_since < STALE_S:
            return ""
        self._tail_since = now
        bar = self._tail.rstrip(b"\r").rpartition(b"\r")[2]
        if bar == self._shown:
            return ""
        self._shown = bar
        return _text(bar) + "\n"


def _split_long(tail: bytes) -> tuple[str, bytes]:
    """What of an unfinished line must go out now for its length, and the rest."""
    if len(tail) <= MAX_LINE:
        return "", tail
    body, bar = tail.rstrip(b"\r"), b""
    head, _, bar = body.rpartition(b"\r")
    if head and len(bar) <= MAX_LINE:
        return "", tail[len(head) + 1 :]
    cut = _character_edge(tail)
    return _decoded(tail[:cut]) + "\n", tail[cut:]


def _character_edge(data: bytes) -> int:
    """How much of `data` ends with a whole UTF-8 character (RFC 3629: at most 4 bytes each)."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        width = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        return len(data) if width <= back else len(data) - back
    return len(data)


def _decoded(data: bytes) -> str:
    if b"\r" not in data:
        return _text(data)
    return "\n".join(_text(line.rstrip(b"\r").rpartition(b"\r")[2]) for line in data.split(b"\n"))


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")
