"""Artifacts to object storage: streamed through, verified, whole or not there, not sent twice."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import IO, Any

import fsspec
import pytest

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.errors import StagingError, WorkerUnreachable
from airflow_jobdeploy.packing.artifacts import Download, DownloadReport
from airflow_jobdeploy.packing.objects import LISTING, ObjectFolder
from tests.packing.test_artifacts import Store
from tests.packing.test_resume import Cut
from tests.servers.s3 import S3

#: Larger than what is sent by one request, and than one part.
BIG = random.Random(2).randbytes(9 * 2**20)
FILES = {"model.json": b"{}", "plots/loss.svg": b"<svg/>", "empty": b"", "odd ü?&#%2F name;'": b"1", "big": BIG}


class Place:
    """A prefix of a bucket of its own."""

    def __init__(self, server: S3) -> None:
        self.server = server
        self.fs = server.fs()
        self.bucket = server.bucket()
        self.path = f"{self.bucket}/runs/one of many"

    def folder(self) -> ObjectFolder:
        return ObjectFolder(self.fs, self.path, f"s3://{self.path}")

    def get(self, store: Store, *patterns: str) -> DownloadReport:
        one: Download[ArtifactFile] = Download("j1", self.folder(), patterns or ("**",))
        with closing(one):
            while True:
                try:
                    return one.run(store)
                except WorkerUnreachable:
                    assert "big" not in self.found(), "nothing half is there"

    def found(self) -> dict[str, int]:
        listed = self.server.fs().find(self.path, detail=True)
        sizes = {name.removeprefix(self.path + "/"): info["size"] for name, info in listed.items()}
        return {name: size for name, size in sizes.items() if name != LISTING}

    def listing(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.server.fs().cat_file(f"{self.path}/{LISTING}"))
        return found


@pytest.fixture
def place(s3: S3) -> Place:
    return Place(s3)


def test_files_become_objects_once(place: Place) -> None:
    report = place.get(Store(FILES))
    assert place.found() == {path: len(data) for path, data in FILES.items()}
    assert place.fs.cat_file(f"{place.path}/big") == BIG
    assert (report.bytes, report.skipped, report.dest) == (sum(map(len, FILES.values())), 0, f"s3://{place.path}")
    puts = len(place.server.requests("PUT", place.bucket))
    report = place.get(Store(FILES))
    assert (report.bytes, report.skipped) == (0, len(FILES))
    assert len(place.server.requests("PUT", place.bucket)) == puts, "not even the listing is written again"


def test_what_was_replaced_or_removed_there_is_brought_again(place: Place) -> None:
    place.get(Store(FILES))
    other = place.server.fs()
    other.pipe_file(f"{place.path}/model.json", b"[]")
    other.rm_file(f"{place.path}/empty")
    report = place.get(Store(FILES))
    assert (report.bytes, report.skipped) == (2, len(FILES) - 2)
    assert place.fs.cat_file(f"{place.path}/model.json") == b"{}"


def test_what_has_changed_on_the_worker_is_brought_again(place: Place) -> None:
    place.get(Store(FILES))
    report = place.get(Store({**FILES, "model.json": b"[]"}))
    assert (report.bytes, report.skipped) == (2, len(FILES) - 1)
    assert place.fs.cat_file(f"{place.path}/model.json") == b"[]"


def test_many_objects_are_looked_for_by_one_listing(place: Place) -> None:
    many = {f"f{number:03}": b"%d" % number for number in range(40)}
    place.get(Store(many))
    assert place.get(Store(many)).skipped == 40
    asked = place.server.requests("HEAD", place.bucket)
    assert [path for path in asked if not path.endswith(LISTING)] == []


def test_others_entries_stay_in_the_listing(place: Place) -> None:
    place.get(Store(FILES), "plots/**")
    place.get(Store(FILES), "model.json")
    assert set(place.listing()["files"]) == {"plots/loss.svg", "model.json"}
    assert place.get(Store(FILES), "plots/**").skipped == 1


@pytest.mark.parametrize("damage", [b"", b"no json", b"[]", b'{"files": 3}', b'{"files": {"model.json": 1}}'])
def test_a_damaged_listing_costs_only_time(place: Place, damage: bytes) -> None:
    place.fs.pipe_file(f"{place.path}/{LISTING}", damage)
    assert place.get(Store({"model.json": b"{}"})).bytes == 2
    assert place.get(Store({"model.json": b"{}"})).skipped == 1


def test_a_cut_wire_costs_no_byte_twice_and_no_object_twice(place: Place) -> None:
    store = Cut(FILES, 5 * 2**20, 2 * 2**20)
    report = place.get(store)
    assert report.bytes == sum(map(len, FILES.values()))
    assert place.fs.cat_file(f"{place.path}/big") == BIG
    assert place.server.uploads(place.bucket) == []


@pytest.mark.parametrize("name", ["big", "model.json"])
def test_damaged_bytes_are_no_object(place: Place, name: str) -> None:
    sent = {name: FILES[name][:-1] + b"?"}
    with pytest.raises(StagingError, match=f"'{name}' is not what the manifest says"):
        place.get(Store(FILES, sent=sent), name)
    assert place.found() == {}
    assert place.server.uploads(place.bucket) == []


def test_a_download_that_is_given_up_leaves_whole_objects_and_says_which(place: Place) -> None:
    one: Download[ArtifactFile] = Download("j1", place.folder())
    files = {**FILES, "z": b"1"}
    del files["odd ü?&#%2F name;'"]
    with closing(one), pytest.raises(WorkerUnreachable):
        one.run(Cut(files, 5_000_000))
    assert place.server.uploads(place.bucket) == []
    assert set(place.listing()["files"]) == set(place.found())
    assert "big" not in place.found()
    there = len(place.found())
    assert place.get(Store(files)).skipped == there


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..", LISTING, "a//b", "./a", "a/."])
def test_names_that_leave_are_refused_before_anything_moves(place: Place, name: str) -> None:
    store = Store({"good": b"1", name: b"pwned"})
    with pytest.raises(StagingError, match="would leave"):
        place.get(store)
    assert store.asked == []
    assert place.found() == {}


def test_names_that_no_store_takes(place: Place) -> None:
    with pytest.raises(StagingError, match=r"'caf\\udce9' is no UTF-8"):
        place.get(Store({"caf\udce9": b"1"}))
    with pytest.raises(StagingError, match=r"makes a name of 1[0-9]{3} bytes"):
        place.get(Store({"/".join(["d" * 100] * 11): b"1"}))


def test_a_bucket_that_is_not_there_is_said_before_anything_moves(place: Place) -> None:
    store = Store(FILES)
    place.path = "no-such-bucket/x"
    with pytest.raises(
        StagingError, match=r"cannot write to s3://no-such-bucket/x: The specified bucket does not exist"
    ):
        place.get(store)
    assert store.asked == []


def test_a_store_that_does_not_answer_is_said_before_anything_moves(place: Place) -> None:
    store = Store(FILES)
    place.fs = S3("http://127.0.0.1:9", place.server.log).fs()
    place.fs.retries = 1
    with pytest.raises(StagingError, match=r"cannot look into s3://.*Could not connect"):
        place.get(store)
    assert store.asked == []


@pytest.mark.parametrize("make", [lambda path: ("memory", "/a b/c"), lambda path: ("file", f"{path}/a b/c")])
def test_other_filesystems(make: Callable[[Any], tuple[str, str]], tmp_path: Any) -> None:
    protocol, path = make(tmp_path)
    fs = fsspec.filesystem(protocol)
    for skipped in (0, len(FILES)):
        one: Download[ArtifactFile] = Download("j1", ObjectFolder(fs, path, f"{protocol}://{path}"))
        with closing(one):
            assert one.run(Store(FILES)).skipped == skipped
    assert fs.cat_file(f"{path}/big") == BIG
    assert {name.partition("/a b/c/")[2] for name in fs.find(path)} == {*FILES, LISTING}


def test_a_store_that_fails_half_way_is_named_once(place: Place) -> None:
    class Removing(Store):
        def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
            for file, content in super().fetch(job_id, paths, offset):
                if file.path == "c":
                    other = place.server.fs()
                    other.rm(place.bucket, recursive=True)
                yield file, content

    with pytest.raises(StagingError, match=r"cannot write to s3://.*bucket does not exist") as raised:
        place.get(Removing({"a": b"1", "b": b"2", "c": b"3"}))
    assert isinstance(raised.value.__cause__, FileNotFoundError)
