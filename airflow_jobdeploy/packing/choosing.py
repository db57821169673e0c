"""Which output files are wanted: patterns of paths."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from typing import Protocol, TypeVar

from airflow_jobdeploy.errors import StagingError, nearest

ALL = "**"


class RemoteFile(Protocol):
    """One file of a manifest."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    @property
    def mode(self) -> int: ...


FileT = TypeVar("FileT", bound=RemoteFile)


def select(files: Sequence[FileT], patterns: Sequence[str], job_id: str) -> list[FileT]:
    """The files that match any of the patterns. StagingError when a pattern other than `**` matches none."""
    chosen: set[str] = set()
    for pattern in patterns:
        matcher = re.compile(regex(pattern), re.DOTALL)
        hits = {file.path for file in files if matcher.fullmatch(file.path)}
        if not hits and pattern != ALL:
            names = ", ".join(repr(file.path) for file in files[:10]) or "nothing"
            hint = nearest(pattern, [file.path for file in files])
            raise StagingError(f"no output file of job {job_id} matches {pattern!r}.{hint} The job left {names}")
        chosen |= hits
    return [file for file in files if file.path in chosen]


def regex(*patterns: str) -> str:
    """A regular expression that matches what any of the patterns does, whole and with re.DOTALL.

    `*` and `?` stay within a directory, `**` crosses directories, `[...]` is a set of characters.
    """
    return "|".join(f"(?:{_translated(pattern)})" for pattern in patterns)


def _translated(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(known.get(part) or (_set(part) if part.startswith("[") else re.escape(part)) for part in parts)


def _set(part: str) -> str:
    """By way of fnmatch, which knows what to make of `[z-a]` and the like."""
    text = fnmatch.translate(part)
    return "(?!/)" + text[text.index(":") + 1 : text.rindex(")")]
