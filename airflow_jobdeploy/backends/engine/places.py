"""Volumes of an engine, read and written through containers that are never started."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from airflow_jobdeploy.backends.engine import config, names
from airflow_jobdeploy.backends.engine.api import WORK_S, Engine, EngineError
from airflow_jobdeploy.backends.engine.tar import Member, folder, pack, small_files
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.hostside import layout

#: The longest that a command of ours may take, in seconds.
_RUN_S = 3600.0
#: The image of containers that are never started: the folders of a job's volumes.
_NOTHING = (names.JOB, names.CHECKPOINT, names.RESOURCE_DIR)


class Places:
    """The archive endpoint of one engine, and the objects that it needs."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._has_nothing = False
        #: The engine's clock over ours: as it was told, and what its answers' dates come to.
        self._clock: float | None = None
        self._rough: float | None = None

    @property
    def worker(self) -> str:
        return self._engine.worker

    # -- the engine's clock --------------------------------------------------------------------------------------------

    def set_clock(self, now: str) -> None:
        """`now`: as the engine writes times."""
        self._clock = (seconds(now) or time.time()) - time.monotonic()

    def now(self) -> float:
        """Seconds since 1970, by the engine's clock, which it is asked for once."""
        if self._clock is None:
            self.set_clock(str(self._engine.get("/info").get("SystemTime", "")))
            assert self._clock is not None
        return self._clock + time.monotonic()

    def about_now(self) -> float:
        """The same, but for half a second if it has not been asked for: to say how long ago something was."""
        if self._clock is not None:
            return self._clock + time.monotonic()
        if self._rough is None:
            told, at = self._engine.dated
            self._rough = told + 0.5 - at
        return self._rough + time.monotonic()

    def hear(self, time_now: object) -> None:
        """Something that the engine says has just happened, when it was."""
        told = seconds(time_now)
        if told is not None and abs(told - self.about_now()) <= 1.0:
            self._rough = told - time.monotonic()

    # -- objects -----------------------------------------------------------------------------------------------------

    def make_volume(
        self, name: str, labels: Mapping[str, str], options: Mapping[str, str] | None = None
    ) -> dict[str, str]:
        """Make it, unless it is there; the labels that it has: of two at once one decides."""
        body = {"Name": name, "Labels": dict(labels), "DriverOpts": dict(options or {})}
        made = dict(self._engine.post("/volumes/create", body).get("Labels") or {})
        if made == labels:
            return made
        # An engine that was restarted has forgotten here which labels there were; asked for the volume it knows them.
        return self.volume_labels(name) or made

    def tree_volumes(self) -> list[dict[str, Any]]:
        """The volumes of whole trees, the latest first."""
        wanted = {"label": [f"{names.KIND}={names.TREE_KIND}"]}
        found = self._engine.get("/volumes", filters=wanted)["Volumes"] or []
        return sorted(found, key=lambda volume: str(volume.get("CreatedAt")), reverse=True)

    def volume(self, name: str) -> dict[str, Any] | None:
        """A volume as the engine describes it, None where there is none."""
        try:
            return dict(self._engine.get(f"/volumes/{name}"))
        except EngineError as error:
            if error.is_missing:
                return None
            raise

    def volume_labels(self, name: str) -> dict[str, str] | None:
        """The labels of a volume, None where there is none."""
        found = self.volume(name)
        return None if found is None else dict(found.get("Labels") or {})

    def remove_volume(self, name: str) -> bool:
        """False: a container still has it."""
        try:
            self._engine.delete(f"/volumes/{name}")
        except EngineError as error:
            if error.is_conflict:
                return False
            if not error.is_missing:
                raise
        return True

    def create(self, name: str, body: Mapping[str, Any]) -> str:
        """Create a container; its id. EngineError: `is_conflict` when the name is taken, `is_missing`: no image."""
        if body["Image"] == names.NOTHING_IMAGE:
            self._import_nothing()
        try:
            return str(self._engine.post("/containers/create", dict(body), name=name)["Id"])
        except EngineError as error:
            if not (error.is_missing and body["Image"] == names.NOTHING_IMAGE):
                raise
            self._has_nothing = False  # somebody has removed it
            self._import_nothing()
            return str(self._engine.post("/containers/create", dict(body), name=name)["Id"])

    def _import_nothing(self) -> None:
        if self._has_nothing:
            return
        try:
            self._engine.get(f"/images/{names.NOTHING_IMAGE}/json")
        except EngineError as error:
            if not error.is_missing:
                raise
            nothing = pack([folder(names.TOP[1:], 0o755), *(folder(path[1:], 0o777) for path in _NOTHING)])
            repository, _, tag = names.NOTHING_IMAGE.rpartition(":")
            with self._engine.receive(
                "/images/create", method="POST", data=iter([nothing]), fromSrc="-", repo=repository, tag=tag
            ) as pieces:
                b"".join(pieces)
        self._has_nothing = True

    def listed(self, name: str) -> dict[str, Any] | None:
        """A container as the engine lists it, None where there is none. Answered also while it is busy."""
        for found in self._engine.get("/containers/json", all=True, filters={"name": [name]}):
            if f"/{name}" in found["Names"]:
                return dict(found)
        return None

    def has_image(self, image: str) -> bool:
        """Is the image on the engine?"""
        try:
            self._engine.get(f"/images/{quote(image, safe='/:@')}/json")
        except EngineError as error:
            if error.is_missing or error.status == 400:
                return False
            raise
        return True

    def run(self, image: str, command: Sequence[str], volumes: Mapping[str, str]) -> int:
        """The exit code of a command of ours, in a container of its own that reaches these volumes and nothing else."""
        body = config.helper(volumes)
        body = {**body, "Image": image, "Entrypoint": [*command], "Cmd": [], "User": "0:0"}
        body["HostConfig"] = {**body["HostConfig"], "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges:true"]}
        container = self.create(names.random_name(), body)
        try:
            self._engine.post(f"/containers/{container}/start")
            return int(self._engine.post(f"/containers/{container}/wait", answer_s=_RUN_S)["StatusCode"])
        finally:
            self.remove_container(container, force=True)

    def is_there(self, container: str) -> bool:
        """Is it there, and not about to go?"""
        try:
            self._engine.get(f"/containers/{container}/json")
        except EngineError as error:
            if error.is_missing:
                return False
            raise
        return True

    def remove_container(self, container: str, *, force: bool = False) -> bool:
        """By id or name. False: it runs, and `force` is not given. A container that is gone is fine."""
        try:
            self._engine.delete(f"/containers/{container}", force=force, v=True)
        except EngineError as error:
            if error.is_conflict:
                return "in progress" in error.said
            if not error.is_missing:
                raise
        return True

    @contextlib.contextmanager
    def helper(self, volumes: Mapping[str, str]) -> Iterator[str]:
        """A container that has these volumes ({name: place}), for as long as the block lasts."""
        container = self.create(names.random_name(), config.helper(volumes))
        try:
            yield container
        finally:
            self.remove_container(container, force=True)

    # -- files -------------------------------------------------------------------------------------------------------

    def put(self, container: str, path: str, members: Iterable[Member]) -> None:
        """Write small files below a folder of a container."""
        self.put_stream(container, path, iter([pack(members)]))

    def put_report(self, container: str, members: Iterable[Member]) -> None:
        """Write small files into the report of a job, also where its container has yet to make the folder."""
        below = (member._replace(path=f"report/{member.path}") for member in members)
        self.put(container, names.JOB, [folder("report", 0o777), *below])

    def put_stream(self, container: str, path: str, pieces: Iterable[bytes]) -> None:
        """Unpack a tar stream below a folder of a container."""
        self._engine.send(f"/containers/{container}/archive", pieces, path=path)

    def get(self, container: str, path: str) -> contextlib.AbstractContextManager[Iterator[bytes]]:
        """A folder or file of a container as a tar stream."""
        return self._engine.receive(f"/containers/{container}/archive", answer_s=WORK_S, path=path)

    def has(self, container: str, path: str) -> bool:
        """Is there such a path in a container?"""
        return self._engine.exists(f"/containers/{container}/archive", path=path)

    def stat(self, container: str, path: str) -> tuple[int, str] | None:
        """(size, time of the last change) of a path in a container; None where there is none."""
        found = self._described(container, path)
        return None if found is None else (int(found.get("size") or 0), str(found.get("mtime") or ""))

    def link(self, container: str, path: str) -> str:
        """Where a link leads, as far as the engine follows it; "" for anything else."""
        return str((self._described(container, path) or {}).get("linkTarget") or "")

    def _described(self, container: str, path: str) -> dict[str, Any] | None:
        head = self._engine.head(f"/containers/{container}/archive", path=path)
        if head is None:
            return None
        return dict(json.loads(base64.b64decode(head.get("X-Docker-Container-Path-Stat") or "e30=")))

    def small(self, container: str, path: str, limit: int) -> dict[str, bytes]:
        """The files below a folder, of each at most `limit` bytes; {} where there is no such folder."""
        try:
            with self.get(container, path) as pieces:
                return dict(small_files(pieces, limit))
        except EngineError as error:
            if error.is_missing:
                return {}
            raise


def machine_label() -> dict[str, str]:
    """For the volume that gives an engine its identity."""
    return {names.KIND: names.OTHER_KIND, names.MACHINE: layout.letters(os.urandom(16), 20)}
