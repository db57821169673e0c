"""Which Pythons a worker has: on the job's PATH, and where uv and pyenv keep theirs."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

_NAME = re.compile(r"(python|pypy)(\d+(\.\d+)*)?\Z")
#: How long an interpreter may take to say who it is, in seconds.
_ASK_S = 30.0
_LABEL = "jobdeploy-python:"
_PROBE = (
    "import sys; v = sys.version_info; print('%s' + '\\t'.join([' '.join(sys.version.split()), sys.executable, "
    "sys.implementation.cache_tag, '%%d.%%d' %% v[:2]]))" % _LABEL
)
_ELSEWHERE = (("~/.local/share/uv/python", "bin"), ("~/.pyenv/versions", "bin"))


class Unmade(Exception):
    """No environment can be made of a Python, or with what was asked for; the text says why and what to do."""

    def __init__(self, text: str, disk: Optional[Dict[str, Any]] = None) -> None:
        super().__init__(text)
        #: Facts of a disk that was full (evidence.full_disk); empty: it was not that.
        self.disk = disk or {}


def candidates(wanted: str, path: str) -> List[str]:
    """Programs that may be the Python `wanted` (a name or a path; "": python3, else python), the likeliest first."""
    if "/" in wanted:
        return [os.path.expanduser(wanted)]
    names = [wanted] if wanted else ["python3", "python"]
    folders = [*_folders(path), *_elsewhere()]
    found = [os.path.join(folder, name) for name in names for folder in folders]
    if re.match(r"python\d+\.\d+\Z", wanted):  # python3 may be this one: that is seen when it is asked
        found += [os.path.join(folder, name) for name in ("python3", "python") for folder in _folders(path)]
    return [_behind(full) for full in dict.fromkeys(found) if _runs(full)]


def seen(path: str) -> str:
    """The Pythons that are there, for a message; each once, whatever links lead to it."""
    found: Dict[str, str] = {}
    for folder in [*_folders(path), *_elsewhere()]:
        for name in _names(folder):
            full = os.path.join(folder, name)
            if _NAME.match(name) and _runs(full):
                found.setdefault(os.path.realpath(full), full)
    return ", ".join(list(found.values())[:12]) or "none"


def ask(program: str) -> Tuple[Optional[List[str]], str]:
    """([version, real path, ABI and machine, "3.11"], ""), or (None, what it said instead)."""
    told, tell = os.pipe()
    try:
        actions: List[tuple] = [(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, tell, 1), (os.POSIX_SPAWN_DUP2, tell, 2)]
        # Not by `subprocess`, which takes longer to import than most interpreters to answer.
        pid = os.posix_spawn(program, [program, "-I", "-S", "-c", _PROBE], os.environ, file_actions=actions)
    except OSError as error:
        os.close(told)
        return None, str(error)
    finally:
        os.close(tell)
    try:
        text = _heard(told, pid).decode("utf-8", "surrogateescape")
    finally:
        os.close(told)
        os.waitpid(pid, 0)
    for line in text.splitlines():
        parts = line.partition(_LABEL)[2].split("\t")
        if len(parts) == 4:
            version, path, abi, short = parts
            return [version, os.path.realpath(path), "%s %s" % (abi, os.uname().machine), short], ""
    # A shim without its program, a Python 2, something else of that name.
    return None, (text.strip().splitlines() or ["nothing"])[-1]


def _heard(fd: int, pid: int) -> bytes:
    until, heard = time.monotonic() + _ASK_S, b""
    while select.select([fd], [], [], max(0.0, until - time.monotonic()))[0]:
        data = os.read(fd, 4096)
        if not data:
            return heard
        heard += data
    os.kill(pid, signal.SIGKILL)
    return heard + b"\nnothing for %d s" % _ASK_S


def _behind(path: str) -> str:
    """The program behind a shim of pyenv, which takes 0.1 s to read in a file what we read there."""
    top, name = os.path.split(os.path.dirname(path))
    if name != "shims" or not os.path.isdir(os.path.join(top, "versions")):
        return path
    for version in _chosen(top):
        full = os.path.join(top, "versions", version, "bin", os.path.basename(path))
        if _runs(full):
            return full
    return path


def _chosen(top: str) -> List[str]:
    if os.environ.get("PYENV_VERSION"):
        return os.environ["PYENV_VERSION"].split(":")
    try:
        with open(os.path.join(top, "version"), encoding="utf-8") as file:
            return file.read().split()
    except (OSError, ValueError):
        return []


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
