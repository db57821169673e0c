"""`.jobdeployignore`, beside git's own reading of the same patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_jobdeploy.packing.ignoring import Ignored
from tests.packing.repositories import git, write

FILES = [
    "a.log", "a.txt", "b/a.log", "b/keep.log", "b/c/a.txt", "build/x", "sub/build/x", "sub/build/y/z", "data",
    "sub/data/x",    "docs/raw/x", "docs/a/raw/x", "docs/a/b/raw", "x[1].py", "x1.py", "with space", "#hash", "!bang",
    "back\\slash", "Ärger.txt",
]  # fmt: skip

PATTERNS = [
    "*.log", "*.log\n!keep.log", "/a.log", "build/", "build", "/build/", "sub/build", "docs/**/raw", "**/raw/",
    "docs/**", "**/x", "data/", "a.*",
    "x[0-9].py", "x\\[1\\].py", "x[!2].py", "?.txt", "\\#hash", "\\!bang", "# comment\n\n*.txt",
    "b/\n!b/keep.log", "b/*\n!b/keep.log", "*\n!*/\n!*.txt", "with space", "trailing   ", "[", "b/c/../a",
    "*/a.log", "/*",
]  # fmt: skip


@pytest.mark.parametrize("text", PATTERNS)
def test_patterns_mean_what_they_mean_to_git(tmp_path: Path, text: str) -> None:
    root = tmp_path / "r"
    root.mkdir()
    git(root, "init", "-q")
    write(root, {**dict.fromkeys(FILES, "x"), ".gitignore": text + "\n"})
    listed = git(root, "-c", "core.quotePath=false", "ls-files", "-o", "--exclude-standard", "-z").split("\0")
    ignored = Ignored.of(text)
    assert {name for name in FILES if name not in ignored} == {name for name in listed if name in FILES}


def test_nothing_is_ignored_by_default() -> None:
    assert not Ignored(())
    assert "a" not in Ignored(())
    assert "empty/" in Ignored(["empty/"])
    assert "empty" not in Ignored(["empty/"])
