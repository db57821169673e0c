"""Downloads that are cut go on where they were; the output of a running job is delivered whole or left out."""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

import pytest

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.errors import StagingError, WorkerUnreachable
from airflow_jobdeploy.packing.artifacts import Download, DownloadReport, download
from airflow_jobdeploy.packing.folder import Folder
from tests.packing.test_artifacts import Store, found

BIG = random.Random(1).randbytes(5_000_000)
FILES = {"a": b"first", "big": BIG, "z/last": b"last"}


class Cut(Store):
    """A worker whose connection breaks after so many bytes of content; `sent` counts what went over it."""

    def __init__(self, files: dict[str, bytes], *breaks: int) -> None:
        super().__init__(files)
        self.breaks = list(breaks)
        self.bytes = 0

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        left = self.breaks.pop(0) if self.breaks else 1 << 40
        for file, content in super().fetch(job_id, paths, offset):
            wire = Wire(content.read(), left)
            yield file, wire  # type: ignore[misc]
            left -= wire.tell()
            self.bytes += wire.tell()


class Wire(io.BytesIO):
    def __init__(self, data: bytes, left: int) -> None:
        super().__init__(data)
        self.left = left

    def read(self, size: int | None = -1) -> bytes:
        if self.left <= 0:
            raise WorkerUnreachable("cut")
        data = super().read(min(self.left, 300_000, size if size and size > 0 else 1 << 40))
        self.left -= len(data)
        return data


def passes(store: Store, dest: Path, *, partial: bool = False) -> DownloadReport:
    """As the service does it: again after each cut."""
    one: Download[ArtifactFile] = Download("j1", Folder(dest), partial=partial)
    with closing(one):
        while True:
            try:
                return one.run(store)
            except WorkerUnreachable:
                assert "big" not in found(dest), "nothing half has its name"


def test_a_download_that_is_cut_brings_each_byte_once(tmp_path: Path) -> None:
    store = Cut(FILES, 2_000_000, 1_000_000, 1)
    report = passes(store, tmp_path)
    assert report.bytes == sum(map(len, FILES.values()))
    assert (report.skipped, len(report.files)) == (0, 3)
    assert (tmp_path / "big").read_bytes() == BIG
    assert found(tmp_path) == set(FILES)


def test_a_large_beginning_is_kept_for_the_next_download(tmp_path: Path) -> None:
    with pytest.raises(WorkerUnreachable):
        download(Cut(FILES, 3_000_000), "j1", tmp_path)
    (hidden,) = tmp_path.glob(".jobdeploy-*/*")
    assert "big" not in found(tmp_path)
    assert 2_500_000 < hidden.stat().st_size < len(BIG)
    kept = hidden.stat().st_size
    report = download(Cut(FILES), "j1", tmp_path)
    assert report.bytes == sum(map(len, FILES.values())) - len(b"first") - kept
    assert (tmp_path / "big").read_bytes() == BIG
    assert found(tmp_path) == set(FILES)


def test_a_small_beginning_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(WorkerUnreachable):
        download(Cut(FILES, 500_000), "j1", tmp_path)
    assert found(tmp_path) == {"a"}


@pytest.mark.parametrize("spoil", [lambda data: b"x" + data[1:], lambda data: data + BIG], ids=["other", "longer"])
def test_a_beginning_that_is_wrong_is_brought_anew(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(WorkerUnreachable):
        download(Cut(FILES, 3_000_000), "j1", tmp_path)
    (hidden,) = tmp_path.glob(".jobdeploy-*/*")
    hidden.write_bytes(spoil(hidden.read_bytes()))
    download(Cut(FILES), "j1", tmp_path)
    assert (tmp_path / "big").read_bytes() == BIG
    assert found(tmp_path) == set(FILES)


def test_a_beginning_that_was_replaced_by_a_link_is_not_followed(tmp_path: Path) -> None:
    with pytest.raises(WorkerUnreachable):
        download(Cut(FILES, 3_000_000), "j1", tmp_path / "got")
    (hidden,) = (tmp_path / "got").glob(".jobdeploy-*/*")
    hidden.unlink()
    (tmp_path / "victim").write_bytes(b"mine")
    hidden.symlink_to(tmp_path / "victim")
    download(Cut(FILES), "j1", tmp_path / "got")
    assert (tmp_path / "victim").read_bytes() == b"mine"
    assert (tmp_path / "got" / "big").read_bytes() == BIG


def test_a_damaged_manifest_is_refused(tmp_path: Path) -> None:
    class Damaged(Store):
        def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
            return [ArtifactFile(path="a", size=1, sha256="../../evil")]

    with pytest.raises(StagingError, match="the manifest is damaged at 'a'"):
        download(Damaged(FILES), "j1", tmp_path / "got")
    assert found(tmp_path) == set()


# -- of a running job -----------------------------------------------------------------------------------------------


class Busy(Store):
    """A job that goes on writing: `change` is called with its files between listing and sending."""

    def __init__(self, files: dict[str, bytes], change: Callable[[dict[str, bytes], int], None]) -> None:
        super().__init__(files)
        self.change = change
        self.listings = 0
        self.matched: list[str | None] = []

    def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
        self.matched.append(match)
        return [file for file in super().manifest(job_id) if re.fullmatch(match or ".*", file.path)]

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        promised = self.manifest(job_id)
        self.change(self.files, self.listings)
        self.listings += 1
        self.asked += paths
        for file in promised:
            if file.path in paths:
                if file.path not in self.files:
                    raise StagingError(f"{file.path}: no such file")
                yield file, io.BytesIO(self.files[file.path][offset:])


def test_a_file_that_grows_is_delivered_as_it_was_listed(tmp_path: Path) -> None:
    def grow(files: dict[str, bytes], _: int) -> None:
        files["log"] += b"more\n"

    report = passes(Busy({"log": b"one\n", "x": b"1"}, grow), tmp_path, partial=True)
    assert (tmp_path / "log").read_bytes() == b"one\n"
    assert report.left_out == ()
    assert found(tmp_path) == {"log", "x"}


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    def change_once(files: dict[str, bytes], time: int) -> None:
        files["model"] = b"new" if time == 0 else files["model"]

    report = passes(Busy({"model": b"old", "x": b"1"}, change_once), tmp_path, partial=True)
    assert (tmp_path / "model").read_bytes() == b"new"
    assert report.to_dict()["files"][0]["size"] == 3
    assert "left_out" not in report.to_dict()


def test_a_file_that_never_rests_is_left_out(tmp_path: Path) -> None:
    def change(files: dict[str, bytes], _: int) -> None:
        files["model"] = os.urandom(8)

    store = Busy({"model": b"old", "x": b"1"}, change)
    report = passes(store, tmp_path, partial=True)
    assert found(tmp_path) == {"x"}
    assert report.to_dict()["left_out"] == ["model"]
    assert [file["path"] for file in report.files] == ["x"]
    assert store.asked.count("model") == 3
    assert store.asked.count("x") == 1


def test_a_file_that_goes_away_is_no_trouble(tmp_path: Path) -> None:
    def remove(files: dict[str, bytes], _: int) -> None:
        files.pop("m.tmp", None)

    report = passes(Busy({"a": b"1", "m.tmp": b"2", "z": b"3"}, remove), tmp_path, partial=True)
    assert found(tmp_path) == {"a", "z"}
    assert len(report.files) == 2


def test_files_that_always_go_away_are_an_error_in_the_end(tmp_path: Path) -> None:
    class Gone(Busy):
        def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
            self.listings += 1
            raise StagingError("no such file")

    store = Gone({"a": b"1"}, lambda files, time: None)
    with pytest.raises(StagingError, match="no such file"):
        passes(store, tmp_path, partial=True)
    assert store.listings == 6


def test_only_what_is_wanted_is_listed_on_the_worker(tmp_path: Path) -> None:
    store = Busy({"a.json": b"1", "huge": b"2"}, lambda files, time: None)
    one: Download[ArtifactFile] = Download("j1", Folder(tmp_path), ("*.json", "b/**/c?[de]"), partial=True)
    with closing(one), pytest.raises(StagingError, match=r"matches 'b/"):
        one.run(store)
    (match,) = store.matched
    assert match is not None
    for path, wanted in {"a.json": True, "b/x/y/cxd": True, "b/c/d": False, "huge": False, "x/a.json": False}.items():
        assert bool(re.compile(match, re.DOTALL).fullmatch(path)) == wanted, path
