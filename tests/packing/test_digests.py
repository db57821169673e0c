"""Digests of unchanged files are remembered; those of changed ones are not."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import caching
from airflow_jobdeploy.packing.worktree import Files

OLD_S = time.time() - 100


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one file that was changed long ago (but for its inode)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("airflow_jobdeploy.packing.digests.RACE_NS", 0)
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").write_text("first")
    return tmp_path / "root"


def name(root: Path) -> str:
    return Files(str(root), ["a"]).manifest.name


def cached(root: Path) -> dict[str, list[object]]:
    (file,) = (root.parent / "cache" / "airflow-jobdeploy" / "digests").glob("*.json")
    files: dict[str, list[object]] = json.loads(file.read_text())["value"]["files"]
    return files


def test_an_unchanged_file_is_not_read_again(root: Path) -> None:
    before = name(root)
    (root / "a").chmod(0)  # root may read it all the same: the digest must be the one that was kept
    (file,) = (root.parent / "cache" / "airflow-jobdeploy" / "digests").glob("*.json")
    (root / "a").chmod(0o644)
    kept = json.loads(file.read_text())
    found = (root / "a").stat()
    kept["value"]["files"]["a"] = [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, "0" * 64, False]
    file.write_text(json.dumps(kept))
    assert Files(str(root), ["a"]).manifest.entries[0].content == "0" * 64
    assert name(root) != before


def rewrite(path: Path, text: str) -> None:
    """Write once the clock of the file system has gone on: changes within one tick of it have the same time."""
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        path.write_text(text)


@pytest.mark.parametrize("change", ["size", "mtime", "ctime", "inode"])
def test_any_change_is_seen(root: Path, change: str) -> None:
    name(root)
    found = (root / "a").stat()
    if change == "size":
        (root / "a").write_text("second")
    else:
        if change == "inode":
            (root / "b").write_text("other")
            os.rename(root / "b", root / "a")
        else:
            rewrite(root / "a", "other")
        if change != "mtime":
            os.utime(root / "a", ns=(found.st_atime_ns, found.st_mtime_ns))
    assert Files(str(root), ["a"]).manifest.entries[0].content == Files(str(root), ["a"]).manifest.entries[0].content
    with (root / "a").open("rb") as file:
        import hashlib

        assert Files(str(root), ["a"]).manifest.entries[0].content == hashlib.sha256(file.read()).hexdigest()


def test_a_file_changed_just_now_is_read_again(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_jobdeploy.packing.digests.RACE_NS", 2_000_000_000)
    name(root)
    assert not cached(root), "another change within the same tick of the clock could not be seen"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"version":1}', '{"version":1,"value":{"root":"x","files":7}}'])
def test_a_damaged_cache_is_none(root: Path, damage: str) -> None:
    before = name(root)
    (file,) = (root.parent / "cache" / "airflow-jobdeploy" / "digests").glob("*.json")
    file.write_text(damage)
    assert name(root) == before
    assert "a" in cached(root)


def test_without_a_cache_it_is_only_slower(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = name(root)
    (root / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "file" / "below"))
    assert name(root) == before


def test_files_that_are_gone_are_forgotten(root: Path) -> None:
    (root / "b").write_text("x")
    Files(str(root), ["a", "b"])
    assert set(cached(root)) == {"a", "b"}
    Files(str(root), ["a"])
    assert set(cached(root)) == {"a"}


def test_the_cache_does_not_grow_for_ever(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching, "KEEP", 3)
    for number in range(6):
        caching.save("things", f"n{number}", number)
        place = Path(caching.folder("things"), f"n{number}.json")
        os.utime(place, (OLD_S + number, OLD_S + number))
    caching.save("things", "last", 7)
    assert [caching.load("things", f"n{number}") for number in range(6)] == [None, None, None, None, 4, 5]
    assert caching.load("things", "last") == 7


def test_all_that_cannot_be_read_is_named(root: Path) -> None:
    with pytest.raises(StagingError) as caught:
        Files(str(root), ["a", "gone", "a/below"])
    assert "'gone' cannot be read: No such file" in str(caught.value)
    assert "'a/below' cannot be read: Not a directory" in str(caught.value)
