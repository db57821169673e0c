"""Which files of a directory are the project: what git would keep, else all but the usual by-products."""

from __future__ import annotations

import fnmatch
import os
import posixpath
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from airflow_jobdeploy.errors import StagingError

#: Never sent: histories, and what our own builds write into a working directory.
ALWAYS_OUT = (".git", ".jd")
#: Left out where git does not say what belongs to the project.
BY_PRODUCTS = (
    ".hg",
    ".svn",
    ".venv",
    "venv",
    "__pycache__",
    "*.pyc",
    ".ipynb_checkpoints",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".tox",
    ".nox",
    "node_modules",
    ".DS_Store",
)

_GIT = ("git", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", "-c", "safe.directory=*")


def list_project(root: Path, ignore: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Relative paths below `root`, sorted: those of the project, and those left out (whole directories end with "/").

    `ignore`: further patterns, matched against the path and against each of its parts. Empty directories are
    listed (with "/") where git does not rule; git knows none. Raises StagingError when git fails.
    """
    listed = _by_git(root) if _git_rules(root) else None
    kept, out = listed if listed is not None else _by_walk(root, BY_PRODUCTS)
    mine = [path for path in kept if not _matches(path, (*ALWAYS_OUT, *ignore))]
    dropped = {path for path in kept if _matches(path, ignore)}
    return sorted(set(mine)), sorted({*out, *dropped} - {".git/", ".git"})


def _matches(path: str, patterns: Sequence[str]) -> bool:
    parts = PurePosixPath(path).parts
    return any(
        fnmatch.fnmatchcase(candidate, pattern.rstrip("/"))
        for pattern in patterns
        for candidate in (path.rstrip("/"), *parts)
    )


# -- git ------------------------------------------------------------------------------------------------------------


def _git_rules(root: Path) -> bool:
    """Is this a work tree, and git there to be asked?"""
    if shutil.which("git") is None:
        return False
    done = subprocess.run(
        [*_GIT, "rev-parse", "--is-inside-work-tree"], cwd=root, env=_env(), capture_output=True, check=False
    )
    return done.returncode == 0 and done.stdout.strip() == b"true"


def _by_git(root: Path) -> tuple[list[str], list[str]] | None:
    """None: the whole directory is ignored by a repository around it, which then says nothing about it."""
    kept = _git_names(root, "-co")
    if not kept and any(root.iterdir()):
        return None
    files: list[str] = []
    out = [name for name in _git_names(root, "-oi", "--directory") if name != "./"]
    for name in kept:
        path = root / name
        if path.is_dir() and not path.is_symlink():  # a submodule, or a repository inside this one
            inner, inner_out = list_project(path)
            files += [posixpath.join(name, file) for file in inner]
            out += [posixpath.join(name, file) for file in inner_out]
        elif os.path.lexists(path):
            files.append(name)
        else:
            out.append(f"{name} (deleted)")
    return files, out


def _git_names(root: Path, *options: str) -> list[str]:
    done = subprocess.run(
        [*_GIT, "ls-files", *options, "--exclude-standard", "-z"],
        cwd=root,
        env=_env(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise StagingError(f"git cannot list the files of {root}: {said}")
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _env() -> dict[str, str]:
    """Ours without GIT_DIR and the like: a hook that calls us means its own repository, not the project's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


# -- no git ---------------------------------------------------------------------------------------------------------


def _by_walk(root: Path, unwanted: Sequence[str]) -> tuple[list[str], list[str]]:
    kept: list[str] = []
    out: list[str] = []
    for name, is_dir in _walk(root, "", unwanted):
        if _matches(posixpath.basename(name.rstrip("/")), unwanted):
            out.append(name + "/" if is_dir else name)
        else:
            kept.append(name)
    return kept, out


def _walk(root: Path, below: str, unwanted: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """Files, links, empty directories (with "/") and unwanted directories (not entered)."""
    try:
        entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
    except PermissionError as error:
        raise StagingError(f"cannot list {error.filename}: {error.strerror}. Make it readable, or ignore it") from error
    if below and not entries:
        yield below + "/", False
    for entry in entries:
        name = posixpath.join(below, entry.name)
        is_dir = entry.is_dir(follow_symlinks=False)
        if is_dir and entry.name in ALWAYS_OUT:
            continue
        if is_dir and not _matches(entry.name, unwanted):
            yield from _walk(root, name, unwanted)
        else:
            yield name, is_dir
