"""What a commit holds below a folder: worked out once, kept in the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.core.manifest import Entry, Manifest


@dataclass(frozen=True, kw_only=True)
class Held:
    """What a commit holds below a folder."""

    manifest: Manifest
    #: Pointers of Git LFS whose content is not here.
    pointers: tuple[str, ...] = ()
    #: What stays out by `export-ignore`.
    exported_not: tuple[str, ...] = ()
    #: Submodule -> its commit.
    submodules: Mapping[str, str] = field(default_factory=dict)
    #: The text of its `.jobdeployignore`.
    ignore: str = ""
    #: No attribute changes a file on its way out: `git archive` gives what was committed, byte for byte.
    plain: bool = False


def to_json(held: Held) -> dict[str, Any]:
    lists: dict[str, Sequence[Any]] = {"pointers": held.pointers, "exported_not": held.exported_not}
    single = {"submodules": held.submodules, "ignore": held.ignore, "plain": held.plain}
    return {"entries": held.manifest.entries, **single, **lists}


def from_json(kept: Any) -> Held | None:
    try:
        return Held(
            manifest=Manifest(tuple(Entry(*entry) for entry in kept["entries"])),
            pointers=tuple(kept["pointers"]),
            exported_not=tuple(kept["exported_not"]),
            submodules=dict(kept["submodules"]),
            ignore=str(kept["ignore"]),
            plain=bool(kept["plain"]),
        )
    except (TypeError, KeyError, ValueError):
        return None  # never kept, or damaged
