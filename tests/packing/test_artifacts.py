"""Artifacts: chosen, verified, published whole, kept inside, not fetched twice."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import pytest

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.artifacts import DownloadReport, download
from tests.servers import disks


class Store:
    """A source of files; `sent` overrides what is sent from what is promised."""

    def __init__(self, files: dict[str, bytes], *, sent: dict[str, bytes] | None = None, mode: int = 0o600) -> None:
        self.files, self.sent, self.mode = files, sent or {}, mode
        self.asked: list[str] = []

    def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
        return [
            ArtifactFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest(), mode=self.mode)
            for path, data in sorted(self.files.items())
        ]

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        self.asked += paths
        for file in self.manifest(job_id):
            if file.path in paths:
                yield file, io.BytesIO(self.sent.get(file.path, self.files[file.path])[offset:])
                offset = 0


FILES = {"model.json": b"{}", "plots/loss.svg": b"<svg/>", "plots/deep/x.svg": b"<x/>", "log.txt": b"hello"}


def get(store: Store, dest: Path, *patterns: str) -> DownloadReport:
    return download(store, "j1", dest, patterns or ("**",))


def found(dest: Path) -> set[str]:
    return {str(path.relative_to(dest)) for path in dest.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (("**",), set(FILES)),
        (("*",), {"model.json", "log.txt"}),
        (("**/*.svg",), {"plots/loss.svg", "plots/deep/x.svg"}),
        (("plots/*",), {"plots/loss.svg"}),
        (("plots/**",), {"plots/loss.svg", "plots/deep/x.svg"}),
        (("model.json", "log.???"), {"model.json", "log.txt"}),
        (("[lm]o*",), {"model.json", "log.txt"}),
        (("[!m]o*",), {"log.txt"}),
    ],
)
def test_patterns(tmp_path: Path, patterns: tuple[str, ...], names: set[str]) -> None:
    report = get(Store(FILES), tmp_path / "out", *patterns)
    assert found(tmp_path / "out") == {file["path"] for file in report.files} == names


@pytest.mark.parametrize("pattern", ["[", "a(b|c)+$.{2}", "\\d", "[a", "]", "^x", "new\nline"])
def test_what_is_no_wildcard_matches_itself(tmp_path: Path, pattern: str) -> None:
    get(Store({pattern: b"1"}), tmp_path, pattern)
    assert found(tmp_path) == {pattern}


@pytest.mark.parametrize("pattern", ["a[]b", "[z-a]", "[[:alpha:]]", "[!]", "***", "**/**/**", "[a&&b]", "[a--b]"])
def test_odd_patterns_are_an_answer_or_a_sentence(tmp_path: Path, pattern: str) -> None:
    with contextlib.suppress(StagingError):
        get(Store(FILES), tmp_path, pattern)


def test_a_pattern_without_a_match_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        StagingError, match=r"matches 'modle\.json'\. Did you mean 'model\.json'\? The job left 'log\.txt'"
    ):
        get(Store(FILES), tmp_path, "modle.json")
    assert get(Store({}), tmp_path).files == ()


def test_what_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    get(Store(FILES), tmp_path)
    (tmp_path / "model.json").write_bytes(b"xx")  # the same size, other bytes
    (tmp_path / "log.txt").unlink()
    store = Store(FILES)
    report = get(store, tmp_path)
    assert sorted(store.asked) == ["log.txt", "model.json"]
    assert (report.bytes, report.skipped) == (7, 2)
    assert (tmp_path / "model.json").read_bytes() == b"{}"


def test_the_report_is_small_and_counts_all(tmp_path: Path) -> None:
    report = get(Store({f"f{n:03}": b"x" for n in range(150)}), tmp_path).to_dict()
    assert len(report["files"]) == 100
    assert report["file_count"] == 150
    assert report["files"][0] == {"path": "f000", "size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    assert (report["dest"], report["bytes"], report["skipped"]) == (str(tmp_path), 150, 0)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, ...]] = []
    download(Store(FILES), "j1", tmp_path, progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (4, 4, 17, 17)
    assert [line[0] for line in told] == [1, 2, 3, 4]


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..", ".jobdeploy-x/y", "a/../b"])
def test_names_that_leave_are_refused_before_anything_moves(tmp_path: Path, name: str) -> None:
    store = Store({"good": b"1", name: b"pwned"})
    with pytest.raises(StagingError, match="would leave"):
        get(store, tmp_path / "out")
    assert store.asked == []
    assert not (tmp_path / "x").exists()


def test_links_below_the_destination_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plots").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StagingError, match="plots, which is a link: remove it first"):
        get(Store(FILES), tmp_path / "out")
    assert found(tmp_path / "elsewhere") == set()


def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "log.txt").symlink_to(tmp_path / "victim")
    get(Store(FILES), tmp_path / "out")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "out" / "log.txt").read_bytes() == b"hello"


def test_what_stands_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "plots").write_text("a file")
    with pytest.raises(StagingError, match="plots, which is a file: remove it first"):
        get(Store(FILES), tmp_path)
    (tmp_path / "plots").unlink()
    (tmp_path / "log.txt").mkdir()
    with pytest.raises(StagingError, match=r"log\.txt is a directory here and a file there"):
        get(Store(FILES), tmp_path)


@pytest.mark.parametrize("sent", [b"{]", b"{", b"{}extra", b""])
def test_damaged_bytes_never_get_a_name(tmp_path: Path, sent: bytes) -> None:
    with pytest.raises(StagingError, match=r"'model\.json' is not what the manifest says"):
        get(Store(FILES, sent={"model.json": sent}), tmp_path)
    assert found(tmp_path) == {"log.txt"}
    get(Store(FILES), tmp_path)
    assert found(tmp_path) == set(FILES)


def test_files_that_do_not_come_are_named(tmp_path: Path) -> None:
    class Forgetful(Store):
        def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
            return super().fetch(job_id, [path for path in paths if path != "log.txt"], offset)

    with pytest.raises(StagingError, match=r"did not send 'log\.txt'"):
        get(Forgetful(FILES), tmp_path)


def test_files_get_the_usual_mode_and_stay_executable(tmp_path: Path) -> None:
    get(Store({"plain": b"x"}, mode=0o600), tmp_path)
    get(Store({"tool": b"x"}, mode=0o700), tmp_path)
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE((tmp_path / "tool").stat().st_mode) == 0o777 & ~umask


_SLOWLY = """
import io, sys, time
sys.path[:0] = {path!r}
from pathlib import Path
from tests.packing.test_artifacts import Store
from airflow_jobdeploy.packing.artifacts import download

class Slow(io.BytesIO):
    def read(self, size=-1):
        data = super().read(1000)
        print("read", flush=True)
        time.sleep(60 if self.tell() > 5000 else 0)
        return data

class Half(Store):
    def fetch(self, job_id, paths, offset=0):
        for file, content in super().fetch(job_id, paths, offset):
            yield file, Slow(content.read())

download(Half({{"big": b"x" * 10_000}}), "j1", Path({dest!r}))
"""


def test_killed_half_way_nothing_half_is_there(tmp_path: Path) -> None:
    code = _SLOWLY.format(path=[str(Path(__file__).parents[2])], dest=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(4):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    assert "big" not in found(tmp_path)
    assert any(path.name.startswith(".jobdeploy-") for path in tmp_path.iterdir())
    get(Store({"big": b"x" * 10_000}), tmp_path)
    assert found(tmp_path) == {"big"}


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    code = _SLOWLY.format(path=[str(Path(__file__).parents[2])], dest=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        get(Store({"other": b"1"}), tmp_path)
        assert "other" in found(tmp_path)
        assert any(path.name.startswith(".jobdeploy-") for path in tmp_path.iterdir()), "the other's was taken away"
        process.send_signal(signal.SIGKILL)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with disks.small(tmp_path / "small", "1m") as place:
        yield place


def test_a_full_disk_is_said_before_and_leaves_nothing(small_disk: Path) -> None:
    with pytest.raises(StagingError, match=r"bytes free, the artifacts need 2000000"):
        get(Store({"big": b"x" * 2_000_000}), small_disk)
    assert found(small_disk) == set()


def test_a_disk_that_fills_up_meanwhile(small_disk: Path) -> None:
    class Filling(Store):
        def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
            for number, item in enumerate(super().fetch(job_id, paths, offset)):
                if number == 1:
                    (small_disk / "filler").write_bytes(b"x" * 900_000)
                yield item

    with pytest.raises(StagingError, match="is full: what is there is whole"):
        get(Filling({"a": b"1" * 50_000, "b": b"2" * 500_000}), small_disk)
    assert found(small_disk) == {"a", "filler"}


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StagingError, match="cannot write artifacts to"):
        get(Store(FILES), tmp_path / "file" / "below")
