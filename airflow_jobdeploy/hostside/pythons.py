"""Which Pythons a worker has: on the job's PATH, and where uv and pyenv keep theirs."""

from __future__ import annotations

import os
import re
from typing import Dict, Iterator, List

_NAME = re.compile(r"(python|pypy)(\d+(\.\d+)*)?\Z")
_ELSEWHERE = (("~/.local/share/uv/python", "bin"), ("~/.pyenv/versions", "bin"))


def candidates(wanted: str, path: str) -> List[str]:
    """Programs that may be the Python `wanted` (a name or a path; "": python3, else python), the likeliest first."""
    if "/" in wanted:
        return [os.path.expanduser(wanted)]
    names = [wanted] if wanted else ["python3", "python"]
    folders = [*_folders(path), *_elsewhere()]
    found = [os.path.join(folder, name) for name in names for folder in folders]
    if re.match(r"python\d+\.\d+\Z", wanted):  # python3 may be this one: that is seen when it is asked
        found += [os.path.join(folder, name) for name in ("python3", "python") for folder in _folders(path)]
    return [full for full in dict.fromkeys(found) if _runs(full)]


def seen(path: str) -> str:
    """The Pythons that are there, for a message; each once, whatever links lead to it."""
    found: Dict[str, str] = {}
    for folder in [*_folders(path), *_elsewhere()]:
        for name in _names(folder):
            full = os.path.join(folder, name)
            if _NAME.match(name) and _runs(full):
                found.setdefault(os.path.realpath(full), full)
    return ", ".join(list(found.values())[:12]) or "none"


def _folders(path: str) -> List[str]:
    return [folder for folder in path.split(os.pathsep) if folder]


def _elsewhere() -> Iterator[str]:
    for place, inner in _ELSEWHERE:
        top = os.path.expanduser(place)
        for name in sorted(_names(top), reverse=True):
            yield os.path.join(top, name, inner)


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _runs(path: str) -> bool:
    return os.access(path, os.X_OK) and not os.path.isdir(path)
