"""Output files arrive as they were sent, whatever their names and however the stream is cut into pieces."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.backends import arriving
from airflow_jobdeploy.hostside import pack

NAMES = ["plain", "a b", "it's; echo", "new\nline", "ü/ß", "x" * 99, "x" * 100, "long/" * 60 + "name", "\udcff\udcfe"]
CONTENTS = [b"", b"x", b"y" * 511, b"z" * 512, os.urandom(100_000)]


def _sent(folder: Path) -> tuple[dict[str, bytes], bytes]:
    files = {name: CONTENTS[number % len(CONTENTS)] for number, name in enumerate(NAMES)}
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    parts: list[bytes] = []
    pack.send_files(str(folder), list(files), parts.append)
    return files, b"".join(parts)


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], bytes]:
    return _sent(tmp_path_factory.mktemp("output"))


def _cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    position, turn = 0, 0
    while position < len(data):
        size = sizes[turn % len(sizes)]
        yield data[position : position + size]
        position, turn = position + size, turn + 1


@given(sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=5), read=st.integers(1, 200_000))
def test_any_pieces_give_the_same_files(sent: tuple[dict[str, bytes], bytes], sizes: list[int], read: int) -> None:
    files, stream = sent
    if sum(sizes) < 50 * len(sizes):
        sizes = [*sizes, 4096]  # a byte at a time would only take long
    got = {}
    for name, content in arriving.files(arriving.Pieces(_cut(stream, sizes))):
        got[name] = b"".join(iter(lambda content=content: content.read(read), b""))  # type: ignore[misc]
    assert got == files


def test_files_that_are_not_read_are_passed_over(sent: tuple[dict[str, bytes], bytes]) -> None:
    files, stream = sent
    pieces = arriving.Pieces([stream, b"more"])
    assert [name for name, _ in arriving.files(pieces)] == list(files)
    pieces.drain()
    assert pieces.read(1) == b""


def test_what_is_sent_is_a_tar_stream(sent: tuple[dict[str, bytes], bytes]) -> None:
    files, stream = sent
    with tarfile.open(fileobj=BytesIO(stream), encoding="utf-8", errors="surrogateescape") as archive:
        read = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert read == files


@pytest.mark.parametrize("keep", [0, 100, 512, 700, -1024, -513])
def test_a_cut_stream_is_an_error(sent: tuple[dict[str, bytes], bytes], keep: int) -> None:
    _, stream = sent
    with pytest.raises(tarfile.TarError):
        for _, content in arriving.files(arriving.Pieces([stream[:keep]])):
            content.read()


@given(st.binary(min_size=512, max_size=4096))
def test_noise_is_an_error_or_nothing(noise: bytes) -> None:
    with pytest.raises(tarfile.TarError):
        for _, content in arriving.files(arriving.Pieces([b"\x01" + noise])):
            content.read()
