"""Large files of a tree, put together from their parts by a container that has nothing but the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.tar import MTIME, Member
from airflow_jobdeploy.core.manifest import EXECUTABLE, Entry
from airflow_jobdeploy.errors import StagingError

#: The exit code of join.sh for a file that is not what it should be; its number stands in this file.
_DAMAGED_CODE, _DAMAGED = 100, "damaged"
_STORE = f"{names.TOP}/store"


@dataclass(frozen=True, kw_only=True)
class Parted:
    """A file that has come as parts/<number>-0, -1, ..."""

    entry: Entry
    number: int
    parts: int

    def order(self) -> Member:
        """What join.sh is told of it."""
        mode = "555" if self.entry.kind == EXECUTABLE else "444"
        text = f"{self.entry.content}\n{mode}\n{self.parts}\n{self.entry.path}"
        return Member(f"parts/{self.number}.order", text.encode("utf-8", "surrogateescape"), 0o444)


@cache
def _program() -> bytes:
    return Path(__file__).with_name("join.sh").read_bytes()


def join(places: Places, container: str, folder: str, files: Sequence[Parted], shell: str) -> Entry | None:
    """Put them together in `folder`, a place of `container`, by a container of the image `shell`.

    The first that is not what it should be, None: all are. StagingError when it could not be tried.
    """
    if not files:
        return None
    places.put(container, folder, [Member("join", _program(), 0o500), *(file.order() for file in files)])
    command = ["/bin/sh", f"{folder}/join", folder, str(MTIME)]
    code = places.run(shell, command, {names.STORE_VOLUME: _STORE})
    if code == _DAMAGED_CODE:
        told = places.small(container, f"{folder}/{_DAMAGED}", 100).get(_DAMAGED, b"").strip()
        return next((file.entry for file in files if str(file.number).encode() == told), files[0].entry)
    if code:
        text = f"the parts of large files could not be put together on {places.worker} by image {shell}"
        raise StagingError(f"{text} (exit code {code}): is its disk full?")
    return None
