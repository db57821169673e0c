"""Small text files of a project, to be read before anything is sent."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from airflow_jobdeploy.core.manifest import TreeSource

#: No requirements file is longer, in bytes.
_MOST = 4 * 1024 * 1024


def texts_of_folder(folder: Path) -> Callable[[str], str | None]:
    """Reads files below a folder by their relative paths; None for what is no text file there."""

    def read(path: str) -> str | None:
        try:
            inside = (folder / path).resolve(strict=True)
            if not inside.is_relative_to(folder.resolve()):
                return None
            # Never waits for a pipe.
            fd = os.open(inside, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except (OSError, ValueError, RuntimeError):
            return None
        with os.fdopen(fd, "rb") as file:
            return _text(file.read(_MOST + 1)) if stat.S_ISREG(os.fstat(fd).st_mode) else None

    return read


def texts_of_tree(source: TreeSource) -> Callable[[str], str | None]:
    """Reads files of a tree by their paths; None for what is no text file there."""

    def read(path: str) -> str | None:
        entry = next((entry for entry in source.manifest.entries if entry.path == path and entry.is_file), None)
        if entry is None:
            return None
        with source.open(entry) as file:
            return _text(file.read(_MOST + 1))

    return read


def _text(data: bytes) -> str | None:
    try:
        return data.decode() if len(data) <= _MOST else None
    except UnicodeDecodeError:
        return None
