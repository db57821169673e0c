"""Code of a repository without a checkout."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from airflow_jobdeploy.core.git_names import ref_fault, url_fault
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.bundle import Bundle, Code
from airflow_jobdeploy.packing.clones import UNUSED_S, Clone
from tests.packing.repositories import commit, git, repository, write


@pytest.fixture
def remote(tmp_path: Path) -> Path:
    return repository(tmp_path / "remote", {"main.py": "1", "sub/model.py": "x"})


def text(bundle: Bundle, path: str) -> str:
    entry = next(entry for entry in bundle.manifest.entries if entry.path == path)
    with bundle.open(entry) as file:
        return file.read().decode()


def test_branches_tags_commits_and_folders(remote: Path) -> None:
    first = git(remote, "rev-parse", "HEAD")
    git(remote, "tag", "v1")
    git(remote, "checkout", "-qb", "side")
    write(remote, {"main.py": "2"})
    second = commit(remote, "second")
    git(remote, "checkout", "-q", "main")
    for ref, wanted, branch in (
        ("", first, "main"), ("main", first, "main"), ("side", second, "side"), ("v1", first, ""), (second, second, ""),
        (first[:12], first, ""), ("side~1", first, ""), ("HEAD", first, ""),
    ):  # fmt: skip
        origin = Code(repo=str(remote), ref=ref).bundle().origin
        assert (origin["commit"], origin["branch"], origin["dirty"]) == (wanted, branch, False), ref
    assert text(Code(repo=f"file://{remote}", ref="side").bundle(), "main.py") == "2"
    assert text(Code(repo=str(remote), subdir="sub/").bundle(), "model.py") == "x"
    with pytest.raises(StagingError, match="has no folder 'nowhere'"):
        Code(repo=str(remote), subdir="nowhere").bundle()
    with pytest.raises(StagingError, match=r"no branch, tag or commit 'sied'\. Did you mean 'side'"):
        Code(repo=str(remote), ref="sied").bundle()


def test_what_is_new_there_is_fetched_and_what_was_rewritten_too(remote: Path) -> None:
    Code(repo=str(remote)).bundle()
    write(remote, {"main.py": "2"})
    second = commit(remote, "second")
    assert Code(repo=str(remote)).bundle().origin["commit"] == second
    git(remote, "reset", "-q", "--hard", "HEAD~1")
    write(remote, {"main.py": "3"})
    third = commit(remote, "third")
    git(remote, "branch", "extra")
    assert Code(repo=str(remote)).bundle().origin["commit"] == third
    assert Code(repo=str(remote), ref=second).bundle().origin["commit"] == second


def test_a_known_commit_needs_no_remote(remote: Path, tmp_path: Path) -> None:
    before = Code(repo=str(remote)).bundle()
    remote.rename(tmp_path / "gone")
    code = Code(repo=str(remote))
    assert code.again(before.name, before.origin).name == before.name
    with pytest.raises(StagingError, match="git cannot fetch"):
        code.bundle()


def test_two_at_once_and_one_that_was_killed(remote: Path) -> None:
    clone = Clone(str(remote))
    os.makedirs(clone.path)
    Path(clone.path, "packed-refs.lock").write_text("")
    Path(clone.path, "HEAD").write_text("ref: refs/heads/main\n")
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(Code(repo=str(remote)).bundle().name)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 3
    assert len(set(names)) == 1


def test_what_nobody_asks_for_goes_and_what_is_asked_for_often_is_packed(remote: Path, tmp_path: Path) -> None:
    old, kept = Clone(str(repository(tmp_path / "old", {"a": ""}))), Clone(str(remote))
    old.commit("")
    long_ago = time.time() - UNUSED_S - 60
    os.utime(f"{old.path}.lock", (long_ago, long_ago))
    kept.commit("")
    assert not os.path.exists(old.path)
    for option, value in (("fetch.unpackLimit", "1"), ("gc.autoPackLimit", "3")):  # instead of 100 and 50
        git(Path(kept.path), "config", option, value)
    for number in range(8):
        write(remote, {"main.py": str(number)})
        newest = commit(remote, "again")
        assert kept.commit("") == newest
    assert len(list(Path(kept.path, "objects", "pack").glob("*.pack"))) <= 4
    assert old.commit(""), "it comes back when it is asked for"


def test_a_remote_without_head(tmp_path: Path, remote: Path) -> None:
    bare = tmp_path / "bare.git"
    git(tmp_path, "init", "-q", "--bare", str(bare))
    git(bare, "symbolic-ref", "HEAD", "refs/heads/nothing")
    git(remote, "push", "-q", str(bare), "main:work")
    assert Code(repo=str(bare), ref="work").bundle().origin["branch"] == "work"
    with pytest.raises(StagingError, match=r"no branch, tag or commit|has no commit"):
        Code(repo=str(bare)).bundle()


@pytest.mark.parametrize(
    "url",
    [
        "ext::sh -c 'touch x'",
        "-oProxyCommand=x",
        "--upload-pack=x",
        "ssh://-oProxyCommand=x/y",
        "ssh://-x@host/y",
        "fd::17",
        "http://example.org/x",
        "ftp://example.org/x",
        "https://user:pass@example.org/x",
        "https://token@example.org/x",
        "ssh://git:pass@example.org/x",
        "a\nb",
        " ",
    ],
)
def test_addresses_that_git_does_not_get(url: str) -> None:
    assert url_fault(url)


@pytest.mark.parametrize(
    "url",
    [
        "https://github.com/a/b.git",
        "ssh://git@example.org:2222/a/b",
        "git@github.com:a/b.git",
        "git://example.org/a",
        "file:///srv/git/a b.git",
        "/srv/git/a.git",
        "../a",
    ],
)
def test_addresses_that_it_gets(url: str) -> None:
    assert not url_fault(url)


def test_refs() -> None:
    assert not [ref for ref in ("main", "v1.0", "a/b", "HEAD~2", "v1^{commit}", "@{u}", "ünï") if ref_fault(ref)]
    assert all(map(ref_fault, ("-x", "^a", "a..b", "a:b", "a b", "a\x00", "*")))
