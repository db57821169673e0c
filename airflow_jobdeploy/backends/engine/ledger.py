"""Leases of an engine, made, taken over and given back: each step is a name that is given away once.

grant     the lease's record (a volume), then a container for each GPU: whoever has its name has the GPU
decide    whose the lease is, for good: the first to make the volume of its fate says so, and everybody hears it
clear     what is left of a lease that is over: containers by their ids, volumes by names that nobody uses twice

So it does no harm to be stopped at any point, and to go on when others have long decided otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import config, names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.picture import Held, read
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.hostside import layout

#: Nobody decides for longer than this, in seconds: who holds the line was killed, or is stopped and will find out.
HELD_S = 10.0
#: How long to wait for another's decision, and between two tries, in seconds.
_PATIENCE_S, _PAUSE_S = 0.5, 0.02


class Ledger:
    """Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self._engine = engine
        self._places = places

    # -- one decision at a time --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def deciding(self) -> Iterator[Callable[[], bool] | None]:
        """Hold the line while the block lasts. What is given says whether we still do; None: another does."""
        container = self._held()
        try:
            yield None if container is None else lambda: self._places.is_there(container)
        finally:
            if container is not None:
                self._places.remove_container(container, force=True)

    def _held(self) -> str | None:
        until = time.monotonic() + _PATIENCE_S
        while True:
            try:
                return self._places.create(names.LINE_NAME, config.helper({}))
            except EngineError as error:
                if not error.is_conflict:
                    raise
            self._free()
            if time.monotonic() > until:
                return None
            time.sleep(_PAUSE_S)  # there is nothing to wait for: the engine tells of containers, not of their names

    def _free(self) -> None:
        """Take the line from a holder that was killed."""
        try:
            found = self._engine.get(f"/containers/{names.LINE_NAME}/json")
        except EngineError as error:
            if error.is_missing:
                return
            raise
        if self._places.now() - (seconds(found.get("Created")) or self._places.now()) > HELD_S:
            self._places.remove_container(found["Id"], force=True)

    # -- leases ------------------------------------------------------------------------------------------------------

    def grant(self, record: Mapping[str, Any], is_ours: Callable[[], bool]) -> Held | None:
        """Hold what a record says (picture.Held) under a new id; None: another was quicker.

        `is_ours`: is the decision still ours? Asked when others can see the record.
        """
        lease = os.urandom(16).hex()
        who = str(record["who"])
        common = {names.KIND: names.LEASE_KIND, names.LAYOUT: str(layout.LAYOUT), names.LEASE: lease, names.WHO: who}
        self._places.make_volume(names.lease_volume(lease), {**common, names.HELD: json.dumps(dict(record))})
        claims: dict[str, str] = {}
        held = Held(id=lease, record=dict(record), since=self._places.now(), claims=claims)
        try:
            if is_ours() and all(self._claim(uuid, common, claims) for uuid in record["gpus"]):
                return held
        except EngineError:
            self.clear(held)
            raise
        self.clear(held)
        return None

    def _claim(self, uuid: str, labels: Mapping[str, str], claims: dict[str, str]) -> bool:
        try:
            body = config.helper({}, {**labels, names.GPUS: uuid})
            claims[uuid] = self._places.create(names.gpu_name(uuid), body)
        except EngineError as error:
            if error.is_conflict:
                return False
            raise
        return True

    def take(self, lease: str, who: str, job_id: str) -> Held | None:
        """Take a provisional lease over for a job; None: it is void, or another's."""
        record = self._record(lease)
        if record is None or record.get("who") != who or self._decided(lease, job_id) != job_id:
            return None
        if self._record(lease) is None:  # it was cleared before, and its fate with it
            self._places.remove_volume(names.fate_volume(lease))
            return None
        now = self._places.now()
        return Held(id=lease, record=record, since=now, decided=now, fate=job_id)

    def release(self, lease: str) -> bool:
        """Give a provisional lease back; False: it is void, or a job's."""
        if self._record(lease) is None:
            return False
        mine = f"{names.VOID} {os.urandom(8).hex()}"
        if self._decided(lease, mine) != mine:
            return False
        self.clear(self.look_up(lease))
        return True

    def look_up(self, lease: str) -> Held:
        """A lease of which only the id is known, to be cleared."""
        wanted = {"label": [f"{names.LEASE}={lease}"]}
        found = self._engine.get("/containers/json", all=True, filters=wanted)
        claims = {str(entry["Labels"].get(names.GPUS)): str(entry["Id"]) for entry in found}
        volumes = self._engine.get("/volumes", filters=wanted)["Volumes"] or ()
        stays = [v["Name"] for v in volumes if (v.get("Labels") or {}).get(names.KIND) == names.STAY_KIND]
        return Held(id=lease, since=0.0, claims=claims, stays=tuple(stays))

    def of(self, who: str) -> list[str]:
        """The leases that were granted to a job."""
        wanted = {"label": [f"{names.KIND}={names.LEASE_KIND}", f"{names.WHO}={who}"]}
        found = self._engine.get("/volumes", filters=wanted)["Volumes"] or ()
        return [str((volume.get("Labels") or {}).get(names.LEASE)) for volume in found]

    def clear(self, held: Held) -> bool:
        """Remove what is left of a lease, once it is nobody's or its job has ended. False: a job has it after all."""
        if not held.job and not self._decided(held.id, names.VOID).startswith(names.VOID):
            return False
        for container in held.claims.values():
            self._places.remove_container(container)
        for volume in (*held.stays, names.lease_volume(held.id), names.fate_volume(held.id)):
            self._places.remove_volume(volume)
        return True

    def stay(self, lease: str) -> str:
        """Code and data of its job are on their way: it does not become void for another while. The volume's name."""
        name = names.stay_volume(lease, os.urandom(4).hex())
        self._places.make_volume(name, {names.KIND: names.STAY_KIND, names.LEASE: lease})
        return name

    def _decided(self, lease: str, fate: str) -> str:
        """Whose it is: what is proposed, or what somebody has said before."""
        labels = {names.KIND: names.FATE_KIND, names.LEASE: lease, names.FATE: fate}
        return self._places.make_volume(names.fate_volume(lease), labels).get(names.FATE, "")

    def _record(self, lease: str) -> dict[str, Any] | None:
        if not (lease.isalnum() and lease.isascii() and len(lease) <= 64):
            return None
        labels = self._places.volume_labels(names.lease_volume(lease))
        return None if labels is None else read(labels.get(names.HELD))
