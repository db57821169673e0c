"""Trees through one real `serve`, op by op."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from airflow_jobdeploy.hostside import protocol
from airflow_jobdeploy.hostside.layout import StorePaths
from tests.contract.trees import Tree
from tests.hostside.client import Serve


def offer(serve: Serve, source: Tree, **params: Any) -> dict[str, Any]:
    text = source.manifest.text
    name = source.manifest.name if source.manifest.is_known else ""
    wanted = {"name": name, "version": source.version, "size": len(text), **params}
    return serve.give("offer", [zlib.compress(text)], **wanted)


def lacking(source: Tree, answer: Mapping[str, Any]) -> bytes:
    """The bytes that are asked for."""
    offsets = dict(answer["offsets"])
    indexes = [index for first, count in answer["lacks"] for index in range(first, first + count)]
    entries = [(index, source.manifest.entries[index]) for index in indexes]
    return b"".join(source.contents[entry.path][offsets.get(index, 0) :] for index, entry in entries if entry.is_file)


def send(serve: Serve, source: Tree) -> str:
    """The whole way; its name."""
    answer = offer(serve, source)
    if not answer["have"]:
        answer = serve.give("fill", [lacking(source, answer)])
    return str(answer["name"])


def begin_fill(serve: Serve, data: bytes) -> int:
    """Send bytes, but not their end."""
    number = serve.send("fill")
    for start in range(0, len(data), protocol.MAX_FRAME):
        serve.write(protocol.pack(b"B", data[start : start + protocol.MAX_FRAME]))
    return number


def give(serve: Serve, job: str, name: str, role: str = "work") -> None:
    serve.ask("use", job=job, role=role, name=name)


def store(root: Path) -> StorePaths:
    return StorePaths(str(root / "store"))


def place(root: Path, name: str) -> Path:
    """The files of a tree."""
    return Path(store(root).tree(name).tree)


def names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []


def leftovers(root: Path) -> list[str]:
    """What lies in the store beside whole trees."""
    paths = store(root)
    return [*names(paths.incoming), *names(paths.trash)]


def unused_since(root: Path, name: str, seconds: float, pieces: Iterable[str] = ("trees", "incoming")) -> None:
    """As if it had been used last so long ago."""
    for folder in pieces:
        lock = root / "store" / folder / name / "lock"
        if lock.exists():
            then = lock.stat().st_mtime - seconds
            os.utime(lock, (then, then))
