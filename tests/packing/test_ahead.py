"""Objects read before their turn."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from airflow_jobdeploy.core.manifest import FILE, Entry
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import dataset
from airflow_jobdeploy.packing.ahead import HELD_BYTES, SMALL_BYTES, Ahead
from tests.packing.test_dataset import Storage, contents


def entries(count: int, size: int = 1) -> list[Entry]:
    return [Entry(f"{number:05}", FILE, size) for number in range(count)]


@contextmanager
def reading(wanted: list[Entry], read: object = lambda entry: entry.path.encode()) -> Iterator[Ahead]:
    ahead = Ahead(read, wanted)  # type: ignore[arg-type]
    try:
        yield ahead
    finally:
        ahead.close()


def test_several_are_asked_for_at_once() -> None:
    together = threading.Barrier(8)

    class Far(Storage):
        def open(self, path: str, mode: str, *, block_size: int) -> io.BytesIO:
            together.wait(30)  # broken, unless eight come at once
            return super().open(path, mode, block_size=block_size)  # type: ignore[return-value]

    found = dataset.elsewhere(Far({f"b/{number}": b"%d" % number for number in range(16)}), "b", "s3://far/b")
    found.expect(found.manifest.entries)
    assert contents(found) == {str(number): b"%d" % number for number in range(16)}


def test_each_comes_in_its_turn_and_what_is_skipped_does_not_disturb() -> None:
    wanted = entries(2000)
    with reading(wanted) as ahead:
        for entry in wanted[::3]:
            assert ahead.take(entry) == entry.path.encode()
        assert ahead.take(wanted[0]) is None, "it has gone by"
        assert ahead.take(Entry("other", FILE, 1)) is None


def test_only_so_much_is_held() -> None:
    begun: list[str] = []

    def read(entry: Entry) -> bytes:
        begun.append(entry.path)
        return b""

    wanted = [*entries(100, SMALL_BYTES), Entry("huge", FILE, SMALL_BYTES + 1)]
    with reading(wanted, read) as ahead:
        assert ahead.take(wanted[0]) == b""
        assert ahead.take(wanted[-1]) is None
        assert len(begun) <= HELD_BYTES // SMALL_BYTES + 1


def test_what_is_wrong_is_said_at_its_turn() -> None:
    def read(entry: Entry) -> bytes:
        if entry.path == "00001":
            raise StagingError("gone")
        return b"x"

    wanted = entries(3)
    with reading(wanted, read) as ahead:
        assert ahead.take(wanted[0]) == b"x"
        with pytest.raises(StagingError, match="gone"):
            ahead.take(wanted[1])
        assert ahead.take(wanted[2]) == b"x"
