"""Datasets: from here, and from path-like objects that lead elsewhere."""

from __future__ import annotations

import hashlib
import io
import os
import socket
from pathlib import Path
from typing import IO, Any

import fsspec
import pytest

from airflow_jobdeploy.core.manifest import EXECUTABLE, FOLDER, LINK, Manifest
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import dataset, digests
from airflow_jobdeploy.packing.dataset import Dataset
from tests.packing.repositories import HOSTILE, write


def contents(found: Dataset) -> dict[str, bytes]:
    read = {}
    for entry in found.manifest.entries:
        if entry.is_file:
            with found.open(entry) as file:
                read[entry.path] = file.read()
    return read


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "data set"
    write(root, {"train/a.csv": "1,2\n", "train/deep/b.csv": "3\n", ".hidden": "h", "__pycache__/kept": "k"})
    return root


# -- here -----------------------------------------------------------------------------------------------------------


def test_a_folder_keeps_its_hierarchy(data: Path) -> None:
    write(data, dict.fromkeys(HOSTILE, "x"))
    (data / "empty").mkdir()
    (data / "tool").write_text("#!/bin/sh\n")
    (data / "tool").chmod(0o755)
    (data / "latest").symlink_to("train/a.csv")
    (data / "train" / "up").symlink_to("../train")
    found = dataset.here(data)
    read = contents(found)
    assert read["train/deep/b.csv"] == b"3\n"
    assert set(read) == {"train/a.csv", "train/deep/b.csv", ".hidden", "__pycache__/kept", "tool", *HOSTILE}
    kinds = {entry.path: entry.kind for entry in found.manifest.entries}
    assert (kinds["empty"], kinds["tool"], kinds["latest"], kinds["train/up"]) == (FOLDER, EXECUTABLE, LINK, LINK)
    assert found.manifest.is_known
    assert found.notes[0].startswith(f"Dataset: {len(read) + 2} files, ")
    assert dataset.here(data).manifest.name == found.manifest.name


def test_one_file(data: Path, tmp_path: Path) -> None:
    assert contents(dataset.here(data / "train" / "a.csv")) == {"a.csv": b"1,2\n"}
    (tmp_path / "link").symlink_to(data)
    assert dataset.here(tmp_path / "link").manifest.name == dataset.here(data).manifest.name


def test_what_cannot_be_sent(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StagingError, match=r"the dataset .*nowhere does not exist"):
        dataset.here(data / "nowhere")
    (tmp_path / "none").mkdir()
    with pytest.raises(StagingError, match="none is empty"):
        dataset.here(tmp_path / "none")
    (data / "a").symlink_to("/etc")
    (data / "b").symlink_to("../x")
    with pytest.raises(StagingError) as caught:
        dataset.here(data)
    assert "'a' is a link to '/etc', which leads out" in str(caught.value)
    assert "'b' is a link to '../x', which leads out" in str(caught.value)
    (data / "a").unlink()
    (data / "b").unlink()
    monkeypatch.chdir(data)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        assert "Skipped of the dataset (no regular files): 'sock'" in dataset.here(data).notes


def test_reading_tells_how_far_it_is(tmp_path: Path) -> None:
    """The first look at 40 GB takes a minute, and a log that says nothing looks like a hang."""
    sizes = [0, 10, 3 << 20, 40 << 20]
    for number, size in enumerate(sizes):
        (tmp_path / f"f{number}").write_bytes(bytes(size))
    told: list[tuple[int, ...]] = []
    dataset.here(tmp_path, lambda *numbers: told.append(numbers))
    assert told[-1] == (4, 4, sum(sizes), sum(sizes))
    assert told == sorted(told, key=lambda numbers: numbers[2])
    assert len(told) > 40


def test_a_large_file_is_read_in_pieces(data: Path) -> None:
    with (data / "large").open("wb") as file:
        file.truncate(40 * 1024 * 1024)
    entries = {entry.path: entry for entry in dataset.here(data).manifest.entries}
    assert entries["large"].content == hashlib.sha256(bytes(40 * 1024 * 1024)).hexdigest()


def test_large_files_are_left_to_who_sends_them_and_remembered(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "LEAVE_BYTES", 1000)
    monkeypatch.setattr(digests, "RACE_NS", -(10**18))  # as if all had been written long ago
    for name in ("large", "touched"):
        (data / name).write_bytes(name.encode() * 1000)
    found = dataset.here(data)
    assert sorted(found.unread_sizes) == [5000, 7000]
    assert not found.manifest.is_known
    assert {entry.path for entry in found.manifest.entries if entry.is_file and not entry.content} == {
        "large",
        "touched",
    }
    assert found.version
    sums = {name: hashlib.sha256(contents(found)[name]).hexdigest() for name in ("large", "touched")}
    whole = [entry._replace(content=sums.get(entry.path, entry.content)) for entry in found.manifest.entries]
    (data / "touched").write_bytes(b"x" * 7000)
    found.learn(Manifest.of(whole))
    assert found.manifest.is_known
    assert (found.unread_sizes, found.version) == ((), "")
    again = dataset.here(data)
    assert again.unread_sizes == (7000,), "what was touched while it was sent is not taken for what was sent"
    again.read()
    assert again.manifest.is_known
    entries = {entry.path: entry.content for entry in again.manifest.entries}
    assert entries["large"] == sums["large"]
    assert entries["touched"] == hashlib.sha256(b"x" * 7000).hexdigest()
    assert dataset.here(data).manifest.is_known


# -- elsewhere ------------------------------------------------------------------------------------------------------


class Storage:
    """Objects by key, asked for as filesystems of fsspec are."""

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.opened: list[str] = []
        self.trouble: Exception | None = None

    def find(self, path: str, *, detail: bool) -> dict[str, dict[str, Any]]:
        if self.trouble:
            raise self.trouble
        found = {key: data for key, data in self.objects.items() if key == path or key.startswith(f"{path}/")}
        return {key: {"size": len(data), "ETag": hashlib.md5(data).hexdigest()} for key, data in found.items()}

    def open(self, path: str, mode: str, *, block_size: int) -> IO[bytes]:
        self.opened.append(path)
        file = io.BytesIO(self.objects[path])
        file.size = len(self.objects[path])  # type: ignore[attr-defined]  # as fsspec's files have it
        return file


@pytest.fixture
def bucket() -> Storage:
    return Storage(
        {"b/d/train/a.csv": b"1,2\n", "b/d/train/deep/b.csv": b"3\n", "b/d/": b"", "b/d/Ä b": b"x", "b/other": b""}
    )


def test_objects_are_read_when_they_are_sent_and_their_digests_remembered(bucket: Storage) -> None:
    url = f"s3://conn@bucket/{os.urandom(4).hex()}"
    found = dataset.elsewhere(bucket, "b/d", url)
    assert not bucket.opened, "nothing is read to list them"
    assert not found.manifest.is_known
    assert found.version
    read = contents(found)
    assert read == {"train/a.csv": b"1,2\n", "train/deep/b.csv": b"3\n", "Ä b": b"x"}
    entry = next(entry for entry in found.manifest.entries if entry.path == "train/a.csv")
    with found.open(entry, 2) as file:
        assert file.read(1) == b"2"

    digests = {path: hashlib.sha256(data).hexdigest() for path, data in read.items()}
    found.learn(
        type(found.manifest).of(entry._replace(content=digests[entry.path]) for entry in found.manifest.entries)
    )
    again = dataset.elsewhere(bucket, "b/d", url)
    assert again.manifest.is_known
    assert again.version == ""
    bucket.objects["b/d/train/a.csv"] = b"1,3\n"
    changed = dataset.elsewhere(bucket, "b/d", url)
    assert [entry.path for entry in changed.manifest.entries if not entry.content] == ["train/a.csv"]
    assert changed.version != found.version


def test_one_object(bucket: Storage) -> None:
    assert contents(dataset.elsewhere(bucket, "b/d/train/a.csv", "s3://b/d/train/a.csv")) == {"a.csv": b"1,2\n"}


def test_trouble_with_a_storage(bucket: Storage) -> None:
    with pytest.raises(StagingError, match=r"the dataset s3://b/nowhere does not exist"):
        dataset.elsewhere(bucket, "b/nowhere", "s3://b/nowhere")
    with pytest.raises(StagingError, match=r"is empty"):
        dataset.elsewhere(Storage({"b/x/": b""}), "b/x", "s3://b")
    found = dataset.elsewhere(bucket, "b/d", "s3://b/d")
    bucket.objects["b/d/train/a.csv"] = b"longer now"
    with pytest.raises(StagingError, match=r"'train/a.csv' of the dataset s3://b/d had 4 bytes and has 10 now"):
        found.open(next(entry for entry in found.manifest.entries if entry.path == "train/a.csv"))
    bucket.trouble = RuntimeError("403: no such key for you")
    with pytest.raises(StagingError, match=r"s3://b/d cannot be read: RuntimeError: 403"):
        dataset.elsewhere(bucket, "b/d", "s3://b/d")


def test_keys_that_are_no_paths() -> None:
    keys = ["b/d/../up", "b/d/./x", "b/d/a//b", "b/d/ok"]
    with pytest.raises(StagingError) as caught:
        dataset.elsewhere(Storage(dict.fromkeys(keys, b"x")), "b/d", "s3://b/d")
    assert all(name in str(caught.value) for name in ("'../up'", "'./x'", "'a//b'"))
    assert "'ok'" not in str(caught.value)


def test_filesystems_of_fsspec(data: Path) -> None:
    found = dataset.elsewhere(fsspec.filesystem("file"), str(data), f"file:{data}")
    assert set(contents(found)) == {"train/a.csv", "train/deep/b.csv", ".hidden", "__pycache__/kept"}
