"""Git repositories for tests."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

#: Names that are hard on shells, terminals, tar and JSON; the last is no UTF-8.
HOSTILE = (
    "with space",
    "quote'\"s",
    "new\nline",
    "; echo pwned",
    "ünïcødé",
    "-rf",
    "$(id)",
    "a\\b",
    "tab\there",
    "n" * 200,
    os.fsdecode(b"latin-\xe9"),
)

_IDENTITY = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "protocol.file.allow=always")


def git(directory: Path, *command: str) -> str:
    """What git answers."""
    line = ["git", *_IDENTITY, "-c", "init.defaultBranch=main", *command]
    done = subprocess.run(line, cwd=directory, check=True, capture_output=True)
    return done.stdout.decode().strip()


def repository(root: Path, files: dict[str, str]) -> Path:
    """A repository with one commit."""
    root.mkdir(parents=True, exist_ok=True)
    git(root, "init", "-q")
    write(root, files)
    commit(root, "first")
    return root


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def commit(root: Path, message: str) -> str:
    """Commit all there is; the id."""
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)
    return git(root, "rev-parse", "HEAD")
