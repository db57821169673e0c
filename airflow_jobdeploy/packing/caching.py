"""What was worked out once, kept in the user's cache folder. Nothing depends on it: without it all is only slower."""

# Paths are text here, as in all of packing that is done for each file or each job.
# ruff: noqa: PTH103, PTH111, PTH117, PTH105, PTH108, PTH118, PTH123

from __future__ import annotations

import json
import os
import tempfile
from contextlib import suppress
from typing import Any

from airflow_jobdeploy.hostside import layout

#: Entries of one kind that are kept; the least recently used go first.
KEEP = 200
_VERSION = 1


def folder(*parts: str) -> str:
    """A folder below $XDG_CACHE_HOME, else ~/.cache, made if missing, for this account only. May raise OSError."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # as the XDG Base Directory Specification wants it
        base = os.path.expanduser("~/.cache")
    place = os.path.join(base, "airflow-jobdeploy", *parts)
    os.makedirs(place, mode=0o700, exist_ok=True)
    return place


def key(*parts: str | bytes) -> str:
    """A name that follows from `parts`."""
    data = [part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part for part in parts]
    return layout.letters(b"".join(b"%d:%s" % (len(part), part) for part in data), 32)


def load(kind: str, name: str) -> Any:
    """What was saved under this name, or None: never saved, thrown away, damaged, unreadable."""
    try:
        path = os.path.join(folder(kind), f"{name}.json")
        with open(path, "rb") as file:
            kept = json.loads(file.read())
        os.utime(path)
    except (OSError, ValueError):
        return None  # the caller works it out again
    return kept.get("value") if isinstance(kept, dict) and kept.get("version") == _VERSION else None


def save(kind: str, name: str, value: Any) -> None:
    """Keep a JSON value; replaced in one step, so that a reader sees the old or the new one."""
    try:
        place = folder(kind)
        descriptor, beside = tempfile.mkstemp(dir=place, prefix=".")
        try:
            with open(descriptor, "w", encoding="ascii") as file:
                # Not json.dump, whose encoder is not the one in C.
                file.write(json.dumps({"version": _VERSION, "value": value}, separators=(",", ":")))
            os.replace(beside, os.path.join(place, f"{name}.json"))
        except BaseException:
            with suppress(OSError):
                os.unlink(beside)
            raise
        _prune(place)
    except OSError:
        return  # a full disk, a read-only home: the next time is as slow as this one


def _prune(place: str) -> None:
    with os.scandir(place) as found:
        files = [entry for entry in found if entry.name.endswith(".json")]
    if len(files) > KEEP:
        for entry in sorted(files, key=lambda entry: entry.stat().st_mtime)[:-KEEP]:
            os.unlink(entry.path)
