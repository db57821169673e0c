"""`.jobdeployignore`: patterns as in `.gitignore`, for files that git keeps and a worker does not need.

    # a comment
    *.ipynb            any file or folder of this name
    /data              only at the root of the project
    docs/build         below the root: a slash inside ties it there
    cache/             only folders
    **/raw/**          ** crosses folders
    !data/small.csv    back in, unless a folder above it stays out

The last pattern that matches decides. A folder that stays out takes all below it along.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: The file's name, at the root of a project.
FILE = ".jobdeployignore"

_PARTS = re.compile(r"(\\.|\*\*/|/\*\*$|\*\*|\*|\?|\[[!^]?\]?[^\]]*\])", re.DOTALL)


@dataclass(frozen=True)
class _Pattern:
    regex: re.Pattern[str]
    back_in: bool
    only_folders: bool


class Ignored:
    """What a list of patterns keeps out of a tree."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._patterns = [pattern for pattern in map(_read, lines) if pattern is not None]
        #: Folder -> does it stay out? Asked for each of its files.
        self._folders: dict[str, bool] = {"": False}

    @classmethod
    def of(cls, text: str) -> Ignored:
        """Of the text of a `.jobdeployignore`."""
        return cls(text.splitlines())

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def __contains__(self, path: str) -> bool:
        """Does this file or link (a folder, when it ends with "/") stay out?"""
        if not self._patterns:
            return False
        if path.endswith("/"):
            return self._folder(path[:-1])
        return self._folder(path.rpartition("/")[0]) or self._says(path, folder=False)

    def _folder(self, path: str) -> bool:
        known = self._folders.get(path)
        if known is None:
            known = self._folder(path.rpartition("/")[0]) or self._says(path, folder=True)
            self._folders[path] = known
        return known

    def _says(self, path: str, *, folder: bool) -> bool:
        for pattern in reversed(self._patterns):
            if (folder or not pattern.only_folders) and pattern.regex.fullmatch(path):
                return not pattern.back_in
        return False

    def split(self, paths: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those that go and those that stay out."""
        if not self._patterns:
            return list(paths), []
        return [path for path in paths if path not in self], [path for path in paths if path in self]


def _read(line: str) -> _Pattern | None:
    text = line.rstrip("\r\n")
    text = re.sub(r"(?<!\\) +$", "", text)
    if not text or text.startswith("#"):
        return None
    back_in = text.startswith("!")
    text = text[1:] if back_in else text
    only_folders = text.endswith("/")
    text = text.rstrip("/") if only_folders else text
    if not text:
        return None
    tied = "/" in text
    text = text.removeprefix("/")
    regex = "".join(map(_translated, _PARTS.split(text)))
    try:
        compiled = re.compile(regex if tied else f"(?:.*/)?{regex}", re.DOTALL)
    except re.error:
        return None  # as git: a pattern that cannot match matches nothing
    return _Pattern(compiled, back_in, only_folders)


def _translated(part: str) -> str:
    known = {"**/": "(?:.*/)?", "/**": "/.*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    if part in known:
        return known[part]
    if part.startswith("\\") and len(part) == 2:
        return re.escape(part[1])
    if part.startswith("[") and part.endswith("]") and len(part) > 2:
        body = part[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        return f"(?!/)[^{body[1:]}]" if body[0] in "!^" else f"[{body}]"
    return re.escape(part)
