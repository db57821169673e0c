"""Project trees: what belongs to them, what stays, what is refused."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
from pathlib import Path

import pytest

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.project import ProjectArchive, archive

HOSTILE = ("with space", "quote'\"s", "new\nline", "; echo pwned", "ünïcødé", "-rf", "$(id)", "a\\b", "tab\there")


def members(sent: ProjectArchive) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(sent)), mode="r:") as tar:
        return {member.name: member for member in tar.getmembers()}


def contents(sent: ProjectArchive) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(sent)), mode="r:") as tar:
        files = [member for member in tar.getmembers() if member.isreg()]
        return {member.name: tar.extractfile(member).read() for member in files}  # type: ignore[union-attr]


def git(directory: Path, *command: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always"]
    subprocess.run(["git", *identity, *command], cwd=directory, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "my project"
    (root / "src").mkdir(parents=True)
    (root / "main.py").write_text("print('hi')\n")
    (root / "src" / "model.py").write_text("x = 1\n")
    return root


@pytest.fixture
def repository(project: Path) -> Path:
    git(project, "init", "-q")
    (project / ".gitignore").write_text("*.log\nbuild/\n")
    git(project, "add", ".")
    git(project, "commit", "-qm", "first")
    return project


def test_without_git_all_but_by_products_is_sent(project: Path) -> None:
    for by_product in (".venv/bin", "__pycache__", "src/__pycache__", "empty"):
        (project / by_product).mkdir(parents=True)
    (project / "src" / "__pycache__" / "model.pyc").write_bytes(b"x")
    (project / ".env").write_text("A=1")
    sent = archive(project)
    assert set(members(sent)) == {".env", "main.py", "src/model.py", "empty"}
    assert sent.files == 3
    assert sent.bytes == 12 + 6 + 3
    assert sent.left_out == 3
    assert set(sent.first_left_out) == {".venv/", "__pycache__/", "src/__pycache__/"}
    assert "left out: '.venv/'" in str(sent)


def test_git_says_what_belongs_to_the_project(repository: Path) -> None:
    (repository / "untracked.py").write_text("new")
    (repository / "noise.log").write_text("x")
    (repository / "build").mkdir()
    (repository / "build" / "big.bin").write_bytes(b"x" * 100)
    (repository / "src" / "model.py").unlink()
    sent = archive(repository)
    assert set(members(sent)) == {".gitignore", "main.py", "untracked.py"}
    assert set(sent.first_left_out) == {"build/", "noise.log", "src/model.py (deleted)"}


def test_a_subdirectory_of_a_repository_is_a_project_of_its_own(repository: Path) -> None:
    (repository / "src" / "x.log").write_text("ignored by the repository around it")
    assert set(members(archive(repository / "src"))) == {"model.py"}


def test_a_directory_that_its_repository_ignores_is_sent_nevertheless(repository: Path) -> None:
    (repository / "build").mkdir()
    (repository / "build" / "main.py").write_text("generated")
    assert set(members(archive(repository / "build"))) == {"main.py"}


def test_submodules_and_nested_repositories_are_sent(repository: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "lib.py").write_text("lib")
    git(other, "add", ".")
    git(other, "commit", "-qm", "lib")
    git(repository, "submodule", "--quiet", "add", str(other), "vendor")
    git(repository, "clone", "--quiet", str(other), "nested")
    assert {"vendor/lib.py", "nested/lib.py", ".gitmodules"} < set(members(archive(repository)))
    assert not [name for name in members(archive(repository)) if ".git/" in name or name.endswith(".git")]


def test_more_can_be_left_out(project: Path) -> None:
    (project / "data").mkdir()
    (project / "data" / "huge.bin").write_bytes(b"1234")
    sent = archive(project, ignore=["data", "src/*.py"])
    assert set(members(sent)) == {"main.py"}
    assert sent.first_left_out == ("data/huge.bin", "src/model.py")


def test_hostile_names_and_modes_arrive_as_they_are(project: Path) -> None:
    for name in HOSTILE:
        (project / name).write_text(name)
    (project / os.fsdecode(b"latin-\xe9")).write_text("not UTF-8")
    (project / ("deep/" * 30)).mkdir(parents=True)
    (project / ("deep/" * 30) / ("n" * 200)).write_text("long path")
    (project / "run.sh").write_text("#!/bin/sh\n")
    (project / "run.sh").chmod(0o755)
    sent = contents(archive(project))
    assert {sent[name].decode() for name in HOSTILE} == set(HOSTILE)
    assert sent[os.fsdecode(b"latin-\xe9")] == b"not UTF-8"
    assert sent["deep/" * 30 + "n" * 200] == b"long path"
    found = members(archive(project))
    assert found["run.sh"].mode == 0o755
    assert {entry.uid for entry in found.values()} == {0}


def test_the_same_tree_makes_the_same_bytes(project: Path) -> None:
    for name in HOSTILE:
        (project / name).write_text(name)
    assert b"".join(archive(project)) == b"".join(archive(project))
    names = list(members(archive(project)))
    assert names == sorted(names)


def test_links_inside_are_kept_and_never_followed(project: Path) -> None:
    (project / "latest.py").symlink_to("src/model.py")
    (project / "src" / "up").symlink_to("../main.py")
    (project / "dir").symlink_to("src")
    (project / "dangling").symlink_to("nothing")
    (project / "loop").symlink_to("loop")
    found = members(archive(project))
    assert {name: found[name].linkname for name in ("latest.py", "src/up", "dir", "dangling", "loop")} == {
        "latest.py": "src/model.py",
        "src/up": "../main.py",
        "dir": "src",
        "dangling": "nothing",
        "loop": "loop",
    }
    assert "dir/model.py" not in found


def test_links_that_leave_are_refused_all_at_once(project: Path) -> None:
    (project / "a").symlink_to("/etc/passwd")
    (project / "src" / "b").symlink_to("../../outside")
    (project / "c").symlink_to("..")
    with pytest.raises(StagingError, match="leads out of the project") as caught:
        archive(project)
    text = str(caught.value)
    assert all(part in text for part in ("'a'", "'src/b'", "'c'", "make it relative"))


def test_sockets_and_pipes_are_skipped_and_said(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(project / "pipe")
    monkeypatch.chdir(project)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("sock")
        sent = archive(project)
    assert sent.skipped == ("pipe", "sock")
    assert "skipped (no regular files): 'pipe', 'sock'" in str(sent)
    assert set(members(sent)) == {"main.py", "src/model.py"}


_AS_NOBODY = """
import os, sys
sys.path[:0] = {path!r}
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.project import archive
if os.getuid() == 0:
    os.setuid(65534)
try:
    archive(".")
except StagingError as error:
    print(error)
"""


def test_unreadable_files_are_named() -> None:
    # In a process of its own, and where everybody may go: root reads everything, so it becomes somebody else there.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "secret.key").write_text("x")
        (Path(place) / "secret.key").chmod(0)
        code = _AS_NOBODY.format(path=sys.path)
        done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert "'secret.key' cannot be read by this account" in done.stdout, done.stderr


def test_a_file_that_shrinks_or_goes_while_it_is_sent(project: Path) -> None:
    (project / "main.py").write_bytes(b"x" * 1_000_000)
    sent = archive(project)
    os.truncate(project / "main.py", 300_000)
    with pytest.raises(StagingError, match=r"'main.py' shrank while it was sent: 300000 of 1000000 bytes"):
        b"".join(sent)
    (project / "main.py").unlink()
    with pytest.raises(StagingError, match=r"'main\.py' of the project cannot be read: No such file"):
        b"".join(sent)


def test_a_file_that_grows_is_sent_as_it_was_seen(project: Path) -> None:
    sent = archive(project)
    with (project / "main.py").open("a") as file:
        file.write("more")
    assert contents(sent)["main.py"] == b"print('hi')\n"


def test_a_file_replaced_by_a_link_is_not_followed(project: Path) -> None:
    sent = archive(project)
    (project / "main.py").unlink()
    (project / "main.py").symlink_to("/etc/passwd")
    with pytest.raises(StagingError, match=r"'main\.py' of the project cannot be read"):
        b"".join(sent)


def test_no_such_directory(tmp_path: Path) -> None:
    with pytest.raises(StagingError, match="nowhere does not exist"):
        archive(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(StagingError, match="file is no directory"):
        archive(tmp_path / "file")


def test_an_empty_project_is_a_whole_archive(tmp_path: Path) -> None:
    assert members(archive(tmp_path)) == {}


def test_memory_is_bounded_and_small_files_travel_together(project: Path) -> None:
    with (project / "large.bin").open("wb") as file:
        file.truncate(200 * 1024 * 1024)
    for number in range(2000):
        (project / f"small-{number}").write_text("x")
    sent = archive(project)
    tracemalloc.start()
    pieces = [len(piece) for piece in sent]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(pieces) > 200 * 1024 * 1024
    assert peak < 8 * 1024 * 1024
    assert max(pieces) < 1024 * 1024
    assert len(pieces) < 1000
