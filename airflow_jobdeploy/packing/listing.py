"""Which files of a directory are the project: what git would keep, else all but the usual by-products."""

# ruff: noqa: PTH118

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing import git

#: Never sent: histories, and what our own builds write into a working directory.
ALWAYS_OUT = frozenset({".git", ".jd"})
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


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Names below a directory, "/" at the end of folders: the project's (only empty folders are named), and others."""

    files: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def by_git(where: git.Folder, status: git.Status) -> Listing | None:
    """What git tracks and does not ignore, as it lies there; submodules and repositories inside it as well.

    None: the repository around the folder ignores it as a whole, and so says nothing about it.
    """
    cut = len(where.prefix)
    files: list[str] = []
    nested: list[str] = []
    out = [name[cut:] for name in status.ignored]
    for is_submodule, name in git.indexed(where.root):
        if where.prefix + name in status.deleted:
            out.append(f"{name} (deleted)")
        else:
            (nested if is_submodule else files).append(name)
    for name in status.untracked:
        (nested if name.endswith("/") else files).append(name[cut:].rstrip("/"))
    for name in nested:
        inner = _inner(os.path.join(where.root, name))
        files += [f"{name}/{file}" for file in inner.files]
        out += [f"{name}/{file}" for file in inner.left_out]
    return None if out and not files else _sorted(files, out)


def _inner(root: str) -> Listing:
    """Of a repository inside a repository."""
    where = git.folder(root)
    if where is None or where.prefix:  # a submodule that is not checked out
        return Listing(files=())
    return by_git(where, git.status(where)) or Listing(files=())


def by_walk(root: str) -> Listing:
    """All files but BY_PRODUCTS; empty folders as well."""
    kept: list[str] = []
    out: list[str] = []
    for name, is_dir in _walk(root, ""):
        if _is_by_product(name.rpartition("/")[2]):
            out.append(name + "/" if is_dir else name)
        else:
            kept.append(name)
    return _sorted(kept, out)


def _sorted(files: list[str], out: list[str]) -> Listing:
    mine = {name for name in files if ALWAYS_OUT.isdisjoint(name.split("/"))}
    return Listing(files=tuple(sorted(mine)), left_out=tuple(sorted(set(out))))


def _is_by_product(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in BY_PRODUCTS)


def _walk(root: str, below: str) -> Iterator[tuple[str, bool]]:
    """Files, links, empty directories (with "/") and by-products (not entered)."""
    try:
        entries = sorted(os.scandir(f"{root}/{below}"), key=lambda entry: entry.name)
    except PermissionError as error:
        raise StagingError(f"cannot list {error.filename}: {error.strerror}. Make it readable, or ignore it") from error
    if below and not entries:
        yield below + "/", False
    for entry in entries:
        name = f"{below}/{entry.name}" if below else entry.name
        is_dir = entry.is_dir(follow_symlinks=False)
        if is_dir and entry.name in ALWAYS_OUT:
            continue
        if is_dir and not _is_by_product(entry.name):
            yield from _walk(root, name)
        else:
            yield name, is_dir
