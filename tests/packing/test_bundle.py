"""Bundles: which code goes, from where, under which name, and what is said about it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.manifest import EXECUTABLE, LINK
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.bundle import Bundle, Code
from tests.packing.repositories import HOSTILE, commit, git, repository, write


def take(root: Path, **how: Any) -> Bundle:
    return Code(project_dir=root, **how).bundle()


def contents(bundle: Bundle) -> dict[str, bytes]:
    found = {}
    for entry in bundle.manifest.entries:
        if entry.is_file:
            with bundle.open(entry) as file:
                found[entry.path] = file.read()
    return found


def names(bundle: Bundle) -> set[str]:
    return {entry.path for entry in bundle.manifest.entries}


def refused(root: Path, **how: Any) -> str:
    with pytest.raises(StagingError) as caught:
        take(root, **how)
    return str(caught.value)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return repository(
        tmp_path / "my project", {"main.py": "print()\n", "src/model.py": "x = 1\n", ".gitignore": "*.log\n"}
    )


# -- what goes ------------------------------------------------------------------------------------------------------


def test_of_a_clean_tree_goes_what_was_committed(project: Path) -> None:
    write(project, {"noise.log": "ignored"})
    bundle = take(project)
    assert contents(bundle) == {"main.py": b"print()\n", "src/model.py": b"x = 1\n", ".gitignore": b"*.log\n"}
    assert bundle.origin["commit"] == git(project, "rev-parse", "HEAD")
    assert bundle.origin["dirty"] is False
    assert bundle.notes == (
        f"Code: 3 files, 20 bytes of {project} at commit {bundle.origin['commit'][:12]} (main: first)",
        "Left out: 'noise.log'",
    )
    assert not bundle.warnings


def test_uncommitted_changes_go_along_and_are_named(project: Path) -> None:
    write(project, {"main.py": "changed", "new.py": "untracked", "noise.log": "ignored", "staged.py": "staged"})
    git(project, "add", "staged.py")
    (project / "src" / "model.py").unlink()
    before = git(project, "status", "--porcelain")
    bundle = take(project)
    assert contents(bundle) == {
        "main.py": b"changed", "new.py": b"untracked", ".gitignore": b"*.log\n", "staged.py": b"staged",
    }  # fmt: skip
    assert bundle.origin["dirty"] is True
    assert bundle.origin["changes"] == ["M main.py", "D src/model.py", "A staged.py", "?? new.py"]
    assert "The code includes uncommitted changes: M main.py, D src/model.py, A staged.py, ?? new.py" in bundle.notes
    assert "Left out: 'noise.log', 'src/model.py (deleted)'" in bundle.notes
    assert git(project, "status", "--porcelain") == before
    assert git(project, "stash", "list") == ""


def test_the_index_is_not_written(project: Path) -> None:
    index = (project / ".git" / "index").stat()
    os.utime(project / "main.py")
    take(project)
    write(project, {"main.py": "changed"})
    take(project)
    assert (project / ".git" / "index").stat().st_mtime_ns == index.st_mtime_ns


def test_refuse_names_all_changes_of_the_whole_repository(project: Path) -> None:
    assert take(project, dirty="refuse").name == take(project).name
    write(project, {"src/model.py": "x = 2", "elsewhere/new\nfile.py": "", "noise.log": "ignored"})
    said = refused(project / "src", dirty="refuse")
    assert "M src/model.py" in said
    assert "?? elsewhere/new\nfile.py" in said
    assert "noise.log" not in said
    git(project, "checkout", "-q", "src")
    assert "?? elsewhere" in refused(project / "src", dirty="refuse")
    assert take(project / "src").origin["dirty"] is False, "what was changed elsewhere does not go along"


def test_a_ref_is_taken_whatever_lies_in_the_work_tree(project: Path) -> None:
    first = git(project, "rev-parse", "HEAD")
    git(project, "tag", "v1")
    write(project, {"main.py": "second", "later.py": ""})
    second = commit(project, "second\n\nwith a body")
    write(project, {"main.py": "dirty", "untracked.py": ""})
    for ref in (first, first[:10], "v1", "HEAD~1", "main^"):
        bundle = take(project, ref=ref)
        assert contents(bundle)["main.py"] == b"print()\n"
        assert names(bundle) == {"main.py", "src/model.py", ".gitignore"}
        assert (bundle.origin["commit"], bundle.origin["message"], bundle.origin["dirty"]) == (first, "first", False)
    head = take(project, ref="main", dirty="refuse").origin
    assert (head["commit"], head["branch"], head["message"]) == (second, "main", "second")


def test_a_folder_of_a_repository_is_a_project_of_its_own(project: Path) -> None:
    assert contents(take(project / "src")) == {"model.py": b"x = 1\n"}
    assert contents(take(project / "src", ref="HEAD")) == {"model.py": b"x = 1\n"}
    write(project, {"src/[a-z]*/x.py": "1", "src/z/y.py": "2"})
    assert contents(take(project / "src" / "[a-z]*")) == {"x.py": b"1"}
    commit(project, "brackets")
    assert contents(take(project / "src" / "[a-z]*", ref="HEAD")) == {"x.py": b"1"}
    assert "has no folder 'src/z'" in refused(project / "src" / "z", ref="HEAD~1")


def test_the_same_content_has_the_same_name_wherever_it_comes_from(project: Path, tmp_path: Path) -> None:
    committed = take(project).name
    assert take(project, ref="HEAD").name == committed
    git(tmp_path, "clone", "-q", str(project), "copy")
    assert take(tmp_path / "copy").name == committed
    assert Code(repo=str(project)).bundle().name == committed
    plain = tmp_path / "plain"
    write(plain, {"main.py": "print()\n", "src/model.py": "x = 1\n", ".gitignore": "*.log\n"})
    assert take(plain).name == committed
    (plain / "main.py").chmod(0o755)
    assert take(plain).name != committed


# -- as git archive has it ------------------------------------------------------------------------------------------


def archived(root: Path, ref: str = "HEAD") -> dict[str, bytes]:
    """What `git archive | tar x` gives."""
    tar = subprocess.run(["git", "archive", "--format=tar", ref], cwd=root, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar), errors="surrogateescape") as files:
        return {member.name: files.extractfile(member).read() for member in files if member.isreg()}  # type: ignore[union-attr]


ATTRIBUTES = "secret.txt export-ignore\ndocs export-ignore\nversion.txt export-subst\n*.bat text eol=crlf\n"


@pytest.mark.parametrize("ref", ["", "HEAD"])
def test_attributes_rule_as_in_git_archive(project: Path, ref: str) -> None:
    files = {
        "secret.txt": "s",
        "docs/a.md": "a",
        "version.txt": "$Format:%H$\n",
        "run.bat": "a\nb\n",
        "src/secret.txt": "s",
    }
    write(project, {**files, ".gitattributes": ATTRIBUTES})
    head = commit(project, "attributes")
    bundle = take(project, ref=ref)
    found = contents(bundle)
    assert found == archived(project)
    assert found["version.txt"] == f"{head}\n".encode()
    assert found["run.bat"] == b"a\r\nb\r\n"
    assert "secret.txt" not in found
    assert "'docs/a.md'" in next(note for note in bundle.notes if note.startswith("Left out"))
    assert take(project / "src", ref=ref).manifest.files == 1, "attributes of the folder above rule here, too"


def test_attributes_of_the_repository_itself(project: Path) -> None:
    take(project)
    (project / ".git" / "info").mkdir(exist_ok=True)
    (project / ".git" / "info" / "attributes").write_text("main.py export-ignore\n")
    assert "main.py" not in names(take(project))


@pytest.mark.parametrize("dirty", [False, True])
def test_hostile_names_modes_and_links(project: Path, dirty: bool) -> None:
    write(project, {name: repr(name) for name in HOSTILE})
    write(project, {f"{'deep/' * 30}{'n' * 100}": "long", "run.sh": "#!/bin/sh\n"})
    (project / "run.sh").chmod(0o755)
    (project / "latest").symlink_to("src/model.py")
    (project / "src" / "up").symlink_to("../" + HOSTILE[2])
    (project / "folder").symlink_to("src")
    (project / "dangling").symlink_to("nothing")
    (project / "loop").symlink_to("loop")
    if not dirty:
        commit(project, "hostile")
        assert contents(take(project)) == archived(project)
    bundle = take(project)
    found = contents(bundle)
    assert {name: found[name] for name in HOSTILE} == {name: repr(name).encode() for name in HOSTILE}
    entries = {entry.path: entry for entry in bundle.manifest.entries}
    assert entries["run.sh"].kind == EXECUTABLE
    assert {path: entry.content for path, entry in entries.items() if entry.kind == LINK} == {
        "latest": "src/model.py",
        "src/up": "../new\nline",
        "folder": "src",
        "dangling": "nothing",
        "loop": "loop",
    }
    assert take(project, ref="HEAD").name == bundle.name or dirty


@pytest.mark.parametrize("committed", [False, True])
def test_links_that_leave_are_refused_all_at_once(project: Path, committed: bool) -> None:
    (project / "a").symlink_to("/etc/passwd")
    (project / "src" / "b").symlink_to("../../outside")
    (project / "here").symlink_to(".")
    (project / "c").symlink_to("here/..")
    if committed:
        commit(project, "links")
    said = refused(project)
    assert all(part in said for part in ("'a'", "'src/b'", "'c'", "leads out of the project", "make it relative"))
    assert "'here'" not in said


# -- repositories in repositories -----------------------------------------------------------------------------------


@pytest.fixture
def library(tmp_path: Path) -> Path:
    return repository(tmp_path / "library", {"lib.py": "lib"})


@pytest.fixture
def with_submodule(project: Path, library: Path) -> Path:
    git(project, "submodule", "--quiet", "add", str(library), "vendor/lib")
    commit(project, "submodule")
    return project


def test_the_files_of_submodules_go_along(with_submodule: Path) -> None:
    clean = take(with_submodule)
    assert contents(clean)["vendor/lib/lib.py"] == b"lib"
    assert clean.origin["dirty"] is False
    assert take(with_submodule, ref="HEAD").name == clean.name
    assert contents(take(with_submodule / "vendor"))["lib/lib.py"] == b"lib"
    write(with_submodule, {"vendor/lib/new.py": "untracked"})
    assert contents(take(with_submodule))["vendor/lib/new.py"] == b"untracked"
    assert contents(take(with_submodule))["vendor/lib/lib.py"] == b"lib"
    assert "vendor/lib" in refused(with_submodule, dirty="refuse")
    assert take(with_submodule, ref="HEAD").name == clean.name


def test_a_submodule_that_is_not_here(with_submodule: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "-q", str(with_submodule), "copy")
    bundle = take(tmp_path / "copy")
    assert "vendor/lib/lib.py" not in names(bundle)
    assert "'vendor/lib' is a submodule" in bundle.warnings[0]
    assert "git submodule update --init" in refused(tmp_path / "copy", ref="HEAD")
    with pytest.raises(StagingError, match="'vendor/lib' is a submodule: they are not fetched along"):
        Code(repo=str(with_submodule)).bundle()


def test_a_repository_inside_another_goes_along_as_it_lies(project: Path, library: Path) -> None:
    git(project, "clone", "-q", str(library), "nested")
    bundle = take(project)
    assert contents(bundle)["nested/lib.py"] == b"lib"
    assert not [name for name in names(bundle) if ".git/" in name]
    assert bundle.origin["changes"] == ["?? nested/"]


# -- no repository, none to speak of --------------------------------------------------------------------------------


def test_without_git_all_but_by_products_goes(tmp_path: Path) -> None:
    root = tmp_path / "plain"
    write(
        root, {"main.py": "", ".venv/bin/x": "", "src/__pycache__/a.pyc": "", "a.pyc": "", ".jd/x": "", "keep/b.py": ""}
    )
    (root / "empty").mkdir()
    bundle = take(root)
    assert names(bundle) == {"main.py", "keep/b.py", "empty"}
    assert "Left out: '.venv/', 'a.pyc', 'src/__pycache__/'" in bundle.notes
    assert "commit" not in bundle.origin
    for how in ({"ref": "main"}, {"dirty": "refuse"}):
        assert "is not in a git repository, so" in refused(root, **how)


def test_the_origin_of_a_folder_without_git_may_be_known(tmp_path: Path) -> None:
    """A DAG bundle is a commit without its .git."""
    write(tmp_path / "plain", {"main.py": ""})
    bundle = take(tmp_path / "plain", given_origin={"commit": "a" * 40, "dirty": False})
    assert bundle.origin["commit"] == "a" * 40
    assert "at commit aaaaaaaaaaaa" in bundle.notes[0]


def test_where_git_is_not_installed(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(project))
    assert names(take(project)) == {"main.py", "src/model.py", ".gitignore"}
    assert "cannot be asked about: git is not installed, so ref 'HEAD'" in refused(project, ref="HEAD")
    with pytest.raises(StagingError, match="git is not installed here"):
        Code(repo=str(project)).bundle()


def test_files_that_this_account_may_not_read_are_named() -> None:
    # In a process of its own, and where everybody may go: root reads everything, so it becomes somebody else there.
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        for name in ("a.key", "b.key", "ok"):
            (Path(place) / name).write_text("x")
        for name in ("a.key", "b.key"):
            (Path(place) / name).chmod(0)
        code = _AS_NOBODY.format(path=sys.path)
        done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=False)
    assert "'a.key' cannot be read by this account: make it readable, or leave it out" in done.stdout, done.stderr
    assert "'b.key' cannot be read" in done.stdout
    assert "'ok'" not in done.stdout


_AS_NOBODY = """
import os, sys
sys.path[:0] = {path!r}
from pathlib import Path
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.bundle import Code
if os.getuid() == 0:
    os.setuid(65534)
try:
    Code(project_dir=Path(".")).bundle()
except StagingError as error:
    print(error)
"""


def test_before_the_first_commit(tmp_path: Path) -> None:
    root = tmp_path / "new"
    root.mkdir()
    git(root, "init", "-q")
    assert take(root).manifest.files == 0
    write(root, {"main.py": "print()", ".gitignore": "x"})
    assert names(take(root)) == {"main.py", ".gitignore"}
    assert "has no commit yet" in refused(root, dirty="refuse")
    assert "has no commit yet" in refused(root, ref="HEAD")
    with pytest.raises(StagingError, match="has no commit yet"):
        Code(repo=str(root)).bundle()


def test_a_folder_that_its_repository_ignores_goes_nevertheless(project: Path) -> None:
    write(project, {".gitignore": "build/\n", "build/sub/main.py": "generated"})
    commit(project, "ignore")
    assert names(take(project / "build")) == {"sub/main.py"}
    assert names(take(project / "build" / "sub")) == {"main.py"}


def test_a_file_replaced_by_a_link_to_a_folder(project: Path) -> None:
    """What git tracks below the folder that was is not found through the link."""
    write(project, {"other/model.py": "x"})
    (project / "src" / "model.py").unlink()
    (project / "src").rmdir()
    (project / "src").symlink_to("other")
    assert names(take(project)) == {"main.py", ".gitignore", "other/model.py", "src"}


def test_in_the_middle_of_a_merge(project: Path) -> None:
    git(project, "checkout", "-qb", "side")
    write(project, {"main.py": "side"})
    commit(project, "side")
    git(project, "checkout", "-q", "main")
    write(project, {"main.py": "main"})
    commit(project, "main")
    with pytest.raises(Exception, match="merge"):
        git(project, "merge", "-q", "side")
    bundle = take(project)
    assert b"<<<<<<<" in contents(bundle)["main.py"]
    assert bundle.origin["changes"] == ["UU main.py"]


def test_wrong_refs_and_folders(project: Path) -> None:
    assert "knows no branch, tag or commit 'mian'. Did you mean 'main'?" in refused(project, ref="mian")
    for ref in ("--output=/x", "a..b", "HEAD:src", "^HEAD", "a b", "x\ny"):
        assert f"ref {ref!r}" in refused(project, ref=ref)
    assert "does not exist" in refused(project / "nowhere")
    assert "is no directory" in refused(project / "main.py")


# -- left out, large, secret ----------------------------------------------------------------------------------------

IGNORE = "# not for workers\n*.ipynb\n/data\n!/data/small.csv\nnotes/\n\ndocs/**/raw\n"


@pytest.mark.parametrize("how", ["include", "ref", "dirty", "plain"])
def test_jobdeployignore(tmp_path: Path, how: str) -> None:
    files = {
        "a.ipynb": "",
        "sub/b.ipynb": "",
        "data/x": "",
        "sub/data/x": "",
        "notes/n": "",
        "sub/notes": "",
        "docs/1/raw/x": "",
    }
    root = tmp_path / "p"
    write(root, {**files, "main.py": "", ".jobdeployignore": IGNORE})
    if how != "plain":
        repository(root, {})
    if how == "dirty":
        write(root, {"main.py": "changed"})
    bundle = take(root, **({"ref": "HEAD"} if how == "ref" else {}))
    assert names(bundle) == {"main.py", ".jobdeployignore", "sub/data/x", "sub/notes"}
    assert "'a.ipynb'" in next(note for note in bundle.notes if note.startswith("Left out"))


def test_a_change_that_stays_here_is_none(project: Path) -> None:
    write(project, {".jobdeployignore": "scratch\n"})
    commit(project, "ignore")
    write(project, {"scratch/a": ""})
    assert take(project).origin["dirty"] is False


def test_files_with_passwords_never_go(project: Path) -> None:
    write(project, {"task.yaml": "password: x"})
    commit(project, "oh no")
    for how in ({}, {"ref": "HEAD"}):
        bundle = take(project, never=(project / "task.yaml",), **how)
        assert "task.yaml" not in names(bundle)
    write(project, {"main.py": "changed"})
    assert "task.yaml" not in names(take(project, never=(project / "task.yaml",)))


@pytest.mark.parametrize("committed", [False, True])
def test_a_bundle_over_its_limit_names_the_largest(project: Path, committed: bool) -> None:
    write(project, {"big.bin": "x" * 5000, "small.bin": "y" * 3000})
    if committed:
        commit(project, "big")
    said = refused(project, limit_bytes=6000)
    assert "more than its bundle_limit of 5.9 KiB" in said
    assert said.index("4.9 KiB  'big.bin'") < said.index("2.9 KiB  'small.bin'")
    if committed:
        assert "big.bin" in refused(project, limit_bytes=6000, ref="HEAD")


def test_large_files_pointers_and_secrets_are_named(project: Path) -> None:
    with (project / "model.bin").open("wb") as file:
        file.truncate(60 * 1000 * 1000)
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
    write(project, {"data.csv": pointer, ".env": "A=1", "keys/a.pem": "", ".env.example": ""})
    for how in ("first", "again"):
        bundle = take(project)
        assert "Large files: 'model.bin' (57.2 MiB)" in bundle.notes, how
        assert "pointers of Git LFS go instead of files: 'data.csv'. Run `git lfs pull` first" in bundle.warnings, how
        assert any("'.env', 'keys/a.pem'. Leave them out" in warning for warning in bundle.warnings)
    git(project, "add", "data.csv")
    git(project, "commit", "-qm", "pointer")
    assert any("'data.csv'" in warning for warning in take(project, ref="HEAD").warnings)


# -- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("remote", "url", "link"),
    [
        ("git@github.com:ann/digits.git", "git@github.com:ann/digits.git", "https://github.com/ann/digits/commit/{}"),
        ("https://ann:s3cret@github.com/ann/digits.git", "https://github.com/ann/digits.git", "https://github.com/ann/digits/commit/{}"),
        ("ssh://git@gitlab.example.org:2222/a/b/c.git", "ssh://git@gitlab.example.org:2222/a/b/c.git", "https://gitlab.example.org/a/b/c/-/commit/{}"),
        ("https://oauth2:tok@gitlab.com:8443/a/b", "https://gitlab.com:8443/a/b", "https://gitlab.com:8443/a/b/-/commit/{}"),
        ("https://bitbucket.org/a/b.git", "https://bitbucket.org/a/b.git", "https://bitbucket.org/a/b/commits/{}"),
        ("https://codeberg.org/a/b", "https://codeberg.org/a/b", "https://codeberg.org/a/b/commit/{}"),
        ("git@gitea.lan:a/b.git", "git@gitea.lan:a/b.git", "https://gitea.lan/a/b/commit/{}"),
        ("https://tok@git.example.org/a/b.git", "https://git.example.org/a/b.git", ""),
        ("/srv/git/digits.git", "", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_the_remote_without_secrets_and_the_page_of_the_commit(project: Path, remote: str, url: str, link: str) -> None:
    if remote:
        git(project, "remote", "add", "origin", remote)
    origin = take(project).origin
    assert (origin["url"], origin["link"]) == (url, link.format(origin["commit"]))
    assert "s3cret" not in str(take(project))


def test_a_hostile_message(project: Path) -> None:
    write(project, {"x": ""})
    git(project, "-c", "i18n.commitEncoding=latin1", "add", "-A")
    head = commit(project, "a\x1b[31m" + "x" * 500 + "\nbody")
    origin = take(project).origin
    assert origin["commit"] == head
    assert len(origin["message"]) == 200


# -- while it is sent -----------------------------------------------------------------------------------------------


def test_files_are_read_from_any_offset(project: Path) -> None:
    for how in ({}, {"ref": "HEAD"}):
        bundle = take(project, **how)
        entry = next(entry for entry in bundle.manifest.entries if entry.path == "src/model.py")
        with bundle.open(entry, 2) as one, bundle.open(entry) as other:
            assert (one.read(2), other.read(1), one.read(), other.read()) == (b"= ", b"x", b"1\n", b" = 1\n")


def test_a_file_that_changes_while_it_is_sent(project: Path) -> None:
    write(project, {"main.py": "dirty"})
    bundle = take(project)
    entry = next(entry for entry in bundle.manifest.entries if entry.path == "main.py")
    write(project, {"main.py": "longer than it was"})
    with pytest.raises(StagingError, match=r"'main\.py' of the project had 5 bytes and has 18 now"):
        bundle.open(entry)
    (project / "main.py").unlink()
    with pytest.raises(StagingError, match=r"'main\.py' of the project cannot be read: No such file"):
        bundle.open(entry)
    (project / "main.py").symlink_to("/etc/passwd")
    with pytest.raises(StagingError, match=r"'main\.py' of the project cannot be read"):
        bundle.open(entry)
    (project / "main.py").unlink()
    os.mkfifo(project / "main.py")
    with pytest.raises(StagingError, match="it is no regular file any more"):
        bundle.open(entry)


def test_pipes_are_skipped_and_said(project: Path) -> None:
    write(project, {"main.py": "dirty"})
    os.mkfifo(project / "src" / "pipe")
    (project / "plain").mkdir()
    bundle = take(project)
    assert "src/pipe" not in names(bundle)


# -- again ----------------------------------------------------------------------------------------------------------


def test_a_clean_bundle_is_made_again_after_the_project_went_on(project: Path) -> None:
    bundle = take(project)
    write(project, {"main.py": "second"})
    commit(project, "second")
    write(project, {"main.py": "dirty"})
    again = Code(project_dir=project, dirty="refuse").again(bundle.name, bundle.origin)
    assert contents(again) == contents(bundle)
    git(project, "checkout", "-q", "--orphan", "fresh")
    assert Code(project_dir=project).again(bundle.name, bundle.origin).name == bundle.name


def test_a_dirty_bundle_is_made_again_only_from_the_same_files(project: Path) -> None:
    write(project, {"main.py": "dirty"})
    bundle = take(project)
    os.utime(project / "main.py")
    assert Code(project_dir=project).again(bundle.name, bundle.origin).name == bundle.name
    write(project, {"main.py": "dirtier"})
    with pytest.raises(StagingError) as caught:
        Code(project_dir=project).again(bundle.name, bundle.origin)
    said = str(caught.value)
    assert "the project has changed since the attempt before" in said
    assert "with uncommitted changes" in said
    assert "Clear the task" in said


def test_a_project_that_is_gone_cannot_be_made_again(project: Path) -> None:
    bundle = take(project)
    project.rename(project.with_name("elsewhere"))
    with pytest.raises(StagingError, match=r"does not exist.*Clear the task"):
        Code(project_dir=project).again(bundle.name, bundle.origin)
