"""The pool's storage in a container: a folder of the engine's machine, or a volume; and links to folders of it.

    /mnt/data -> /jobdeploy/storage/<path>          storage:<path>:/mnt/data
    /mnt/data -> /jobdeploy/storage-ro/<path>       storage:<path>:/mnt/data:ro

Not one mount for each folder: its path would be resolved on the engine's machine, where a job that may write to the
storage could have put a link to anywhere in the meantime. A link inside a container leads nowhere but inside it.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.tar import MTIME
from airflow_jobdeploy.errors import StagingError

WRITABLE, READABLE = f"{names.TOP}/storage", f"{names.TOP}/storage-ro"
#: Links of a container whose own files cannot be written; and the folder of a dataset that is one file.
_LINKS, _DATASET = f"{names.JOB}/volumes", f"{names.JOB}/dataset"
#: Go's bits of a mode -> ours (io/fs.FileMode).
_DIRECTORY, _BITS = 1 << 31, {1 << 23: 0o4000, 1 << 22: 0o2000, 1 << 20: 0o1000}


class _Path(NamedTuple):
    """What lies at a path. `link`: where it leads, "" for no link."""

    mode: int
    is_folder: bool
    link: str


def mounts(plan: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The storage, as a job of this plan needs it."""
    kept = plan.get("storage") or {}
    volumes = plan.get("volumes") or ()
    reads = any(volume.get("read_only") for volume in volumes) or (plan.get("dataset") or {}).get("storage") is not None
    writes = any(not volume.get("read_only") for volume in volumes)
    found = [*([(WRITABLE, False)] if writes else []), *([(READABLE, True)] if reads else [])]
    return [_mount(kept, target, read_only) for target, read_only in found]


def _mount(kept: Mapping[str, Any], target: str, read_only: bool) -> dict[str, Any]:
    if kept.get("volume"):
        options: dict[str, Any] = {"VolumeOptions": {"NoCopy": True}}
        return {"Type": "volume", "Source": kept["volume"], "Target": target, "ReadOnly": read_only, **options}
    options = {"BindOptions": {"Propagation": "rprivate"}}
    return {"Type": "bind", "Source": kept.get("root"), "Target": target, "ReadOnly": read_only, **options}


def environment(plan: Mapping[str, Any], *, read_only_root: bool) -> dict[str, str]:
    """What a job is told of it. A dataset that is one file is found by `attach` only: its folder is one of links."""
    found = {}
    if plan.get("volumes"):
        found["JOBDEPLOY_VOLUMES_DIR"] = _LINKS if read_only_root else ""
    if (plan.get("dataset") or {}).get("storage") is not None:
        found["JOBDEPLOY_DATASET_DIR"] = f"{_DATASET}/it"
    return found


def attach(engine: Engine, container: str, plan: Mapping[str, Any], *, user: str, read_only_root: bool) -> None:
    """Make the links in a container that has not started, and folders that are missing. StagingError.

    `user`: whom new folders belong to, where that is a number (1000:1000); else to root.
    """
    found = _Attaching(engine, container, user)
    links = {}
    for volume in plan.get("volumes") or ():
        read_only = bool(volume.get("read_only"))
        place = found.place(str(volume["path"]), READABLE if read_only else WRITABLE, make=not read_only)
        links[f"{_LINKS if read_only_root else ''}/{volume['link']}"] = place
    dataset = (plan.get("dataset") or {}).get("storage")
    if dataset is not None:
        place = found.place(str(dataset), READABLE, make=False)
        is_file = not found.is_folder(place)
        links[f"{_DATASET}/it/{dataset.rpartition('/')[2]}" if is_file else f"{_DATASET}/it"] = place
    found.link(links)


class _Attaching:
    """One container."""

    def __init__(self, engine: Engine, container: str, user: str) -> None:
        self._engine = engine
        self._container = container
        numbers = user.split(":")
        self._owner = tuple(int(part) if part.isdigit() else 0 for part in (*numbers, *numbers)[:2])

    def place(self, path: str, top: str, *, make: bool) -> str:
        """The place of a folder of the storage; with `make` it is made where it is missing."""
        at, before = top, self._seen(top)
        missing: list[str] = []
        for part in path.split("/") if path else ():
            at = f"{at}/{part}"
            seen = None if missing else self._seen(at)
            if seen is None:
                missing.append(at)
                continue
            if seen.link and not f"{seen.link}/".startswith(f"{top}/"):
                raise StagingError(f"storage:{path} leads out of the pool's storage, by a link to {seen.link}")
            before = seen
        if missing and not make:
            raise StagingError(f"storage:{path} is not in the pool's storage on {self._engine.worker}")
        if missing:
            folders = self._folders(missing, before.mode if before else 0o755)
            self._put(top, list(folders), f"storage:{path}")
        return at

    def is_folder(self, place: str) -> bool:
        seen = self._seen(place)
        if seen is not None and seen.link:
            seen = self._seen(seen.link)
        return seen is not None and seen.is_folder

    def link(self, links: Mapping[str, str]) -> None:
        """Make links {path: target}, and the folders that they lie in."""
        for top in (names.JOB, ""):
            mine = {path: to for path, to in links.items() if path.startswith(f"{names.JOB}/") == bool(top)}
            if mine:
                self._link(top or "/", mine)

    def _link(self, top: str, links: Mapping[str, str]) -> None:
        members: list[tarfile.TarInfo] = []
        for path, target in links.items():
            parents = [path[:end] for end, sign in enumerate(path) if sign == "/" and end]
            members += self._folders([at for at in parents if self._seen(at) is None], 0o755)
            entry = tarfile.TarInfo(path[1:])
            entry.type, entry.linkname, entry.mtime = tarfile.SYMTYPE, target, MTIME
            members.append(entry)
        self._put(top, members, f"the volume at {', '.join(links)}")

    def _folders(self, paths: Sequence[str], mode: int) -> Iterator[tarfile.TarInfo]:
        for path in paths:
            entry = tarfile.TarInfo(path[1:])
            entry.type, entry.mode, entry.mtime = tarfile.DIRTYPE, mode, MTIME
            entry.uid, entry.gid = self._owner
            yield entry

    def _put(self, top: str, members: Sequence[tarfile.TarInfo], what: str) -> None:
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as archive:
            for member in members:
                member.name = f"/{member.name}"[len(top.rstrip("/")) + 1 :]
                archive.addfile(member)
        try:
            self._engine.send(f"/containers/{self._container}/archive", iter([out.getvalue()]), path=top)
        except EngineError as error:
            raise StagingError(f"{what} cannot be made on {self._engine.worker}: {error.said}") from error

    def _seen(self, path: str) -> _Path | None:
        head = self._engine.head(f"/containers/{self._container}/archive", path=path)
        if head is None:
            return None
        found = json.loads(base64.b64decode(head.get("X-Docker-Container-Path-Stat") or "e30="))
        bits = int(found.get("mode") or 0)
        mode = bits & 0o777 | sum(ours for theirs, ours in _BITS.items() if bits & theirs)
        return _Path(mode, bool(bits & _DIRECTORY), str(found.get("linkTarget") or ""))
