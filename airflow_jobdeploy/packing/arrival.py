"""One file on its way: what came so far, its sha256, and the place that it is written to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Protocol

from airflow_jobdeploy.packing.choosing import RemoteFile


class Sink(Protocol):
    """Where one file is written, out of sight until it is published."""

    def begun(self) -> Iterator[bytes]:
        """What is there of it from an earlier call that was cut."""

    def write(self, data: bytes) -> None:
        """The next bytes."""

    def publish(self) -> None:
        """Give the file its name, in one step, in place of what was there."""

    def leave(self) -> None:
        """Write no more for now. What is there may stay for a later call."""

    def discard(self) -> None:
        """Leave nothing of it."""


class Arrival:
    """A file that is being written. It outlives the stream that brought its beginning."""

    def __init__(self, file: RemoteFile, sink: Sink) -> None:
        self.file = file
        #: Bytes that are there.
        self.size = 0
        self._sink = sink
        self._digest = hashlib.sha256()
        for data in sink.begun():
            self._count(data)
        #: Bytes that an earlier call has left.
        self.inherited = self.size

    def is_of(self, file: RemoteFile) -> bool:
        """Does `file` begin with the bytes that are there, and go on?"""
        return (file.path, file.sha256, file.size) == (self.file.path, self.file.sha256, self.file.size)

    @property
    def left(self) -> int:
        """Bytes that are missing."""
        return self.file.size - self.size

    def write(self, data: bytes) -> None:
        """The next bytes. StagingError when there is no place for them."""
        self._sink.write(data)
        self._count(data)

    def _count(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += len(data)

    @property
    def is_right(self) -> bool:
        """Are all bytes there, and the right ones?"""
        return self.size == self.file.size and self._digest.hexdigest() == self.file.sha256

    @property
    def described(self) -> str:
        """What is there beside what was expected."""
        return described(self.size, self._digest.hexdigest(), self.file)

    def publish(self) -> None:
        self._sink.publish()

    def leave(self) -> None:
        self._sink.leave()

    def discard(self) -> None:
        self._sink.discard()


def described(size: int, sha256: str, file: RemoteFile) -> str:
    """What came of a file, beside what was expected."""
    return f"{size} bytes with sha256 {sha256[:12]}..., expected {file.size} with {file.sha256[:12]}..."
