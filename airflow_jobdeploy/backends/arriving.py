"""Files out of a tar stream while it arrives, each byte copied as seldom as can be.

`tarfile` reads a stream in records of 10 KiB and copies each byte four times: 40 % of what a fetch cost. Only
its headers are used here. What is known of PAX (POSIX.1-2017, pax): the names and sizes that a plain header
cannot hold.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterable, Iterator

_HEADERS = (tarfile.XHDTYPE, tarfile.XGLTYPE)
#: A PAX header holds a few names; more than this is no stream of ours.
_HEADER_LIMIT = 1024 * 1024


class Pieces:
    """The pieces of a stream, to be read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def some(self, limit: int) -> bytes:
        """What there is, at most `limit` bytes: the rest of a piece, or the next one. b"" at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._pieces, b""))
        taken, self._rest = self._rest[:limit], self._rest[limit:]
        return bytes(taken)

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end."""
        found = []
        while size and (piece := self.some(size)):
            found.append(piece)
            size -= len(piece)
        return found[0] if len(found) == 1 else b"".join(found)

    def skip(self, size: int) -> None:
        """Leave out `size` bytes."""
        while size and (piece := self.some(size)):
            size -= len(piece)

    def drain(self) -> None:
        """To the end, so that the session is free again."""
        self._rest = memoryview(b"")
        for _ in self._pieces:
            pass


def lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of a stream as they come, without their ends."""
    rest = b""
    for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


class Content:
    """The bytes of one file; to be read before the next file is asked for."""

    def __init__(self, pieces: Pieces, size: int) -> None:
        self._pieces = pieces
        #: Bytes not read yet.
        self.left = size

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes, all that are left where it is negative; b"" at the end. tarfile.TarError when cut."""
        wanted = self.left if size < 0 else min(size, self.left)
        data = self._pieces.read(wanted)
        if len(data) < wanted:
            raise tarfile.ReadError(f"the stream ended {self.left - len(data)} bytes before the end of a file")
        self.left -= len(data)
        return data


class Explained:
    """The same, read by somebody else than who asked for the stream: what breaks it (`errors`) is `explain`ed there."""

    def __init__(
        self, content: Content, errors: tuple[type[Exception], ...], explain: Callable[[Exception], Exception]
    ) -> None:
        self._content, self._errors, self._explain = content, errors, explain

    def read(self, size: int = -1) -> bytes:
        try:
            return self._content.read(size)
        except self._errors as error:
            raise self._explain(error) from error


def files(pieces: Pieces) -> Iterator[tuple[str, Content]]:
    """(name, content) of each regular file. tarfile.TarError when it is no whole tar stream."""
    records: dict[str, str] = {}
    while True:
        block = pieces.read(tarfile.BLOCKSIZE)
        if block == tarfile.NUL * tarfile.BLOCKSIZE:
            return
        if len(block) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("the stream ended before its end mark")
        name, size, kind = _header(block)
        content = Content(pieces, int(records["size"]) if records.get("size", "").isdigit() else size)
        padding = -content.left % tarfile.BLOCKSIZE
        if kind in _HEADERS:
            records = _records(content)
        else:
            if kind == tarfile.REGTYPE:
                yield records.get("path", name), content
            records = {}
        pieces.skip(content.left)
        pieces.skip(padding)


def _header(block: bytes) -> tuple[str, int, bytes]:
    """Name, size and type; 40 us sooner than tarfile for a plain header, whose text ssh has brought unharmed."""
    size, kind = block[124:135], block[156:157]
    if kind == tarfile.REGTYPE and size.isdigit() and block[257:263] == b"ustar\0" and not block[345]:
        return block[:100].rstrip(b"\0").decode("utf-8", "surrogateescape"), int(size, 8), kind
    entry = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    return entry.name, entry.size, tarfile.REGTYPE if entry.isreg() else entry.type


def _records(content: Content) -> dict[str, str]:
    """A PAX header: lines "<length> <key>=<value>", the length that of the whole line."""
    if content.left > _HEADER_LIMIT:
        raise tarfile.ReadError(f"a header of {content.left} bytes")
    data, found = content.read(), {}
    while data:
        length, _, rest = data.partition(b" ")
        if not length.isdigit() or int(length) <= len(length) or int(length) > len(data):
            raise tarfile.ReadError(f"not a header: {data[:40]!r}")
        key, _, value = rest[: int(length) - len(length) - 2].partition(b"=")
        found[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        data = data[int(length) :]
    return found
