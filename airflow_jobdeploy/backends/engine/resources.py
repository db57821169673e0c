"""What an `up` leaves on an engine: a volume with its record in labels, its builds, and its working directory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.tar import Member, folder
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.core.plan import Plan, ResourcePlan, Step

_BUILDS_LIMIT = 64 * 1024 * 1024


class Resources:
    """Used by one thread at a time."""

    def __init__(self, places: Places) -> None:
        self._places = places

    def make(self, resource: ResourcePlan, plan: Plan) -> None:
        """The volume, unless it is there."""
        record = {key: value for key, value in resource.to_dict().items() if key != "builds"}
        record.update(
            build_names=sorted(resource.builds),
            workdir=plan.workdir,
            jobs=[plan.job_id],
            container=dict(plan.container),
        )
        labels = {names.KIND: names.RESOURCE_KIND, names.RESOURCE: resource.id, names.RECORD: json.dumps(record)}
        self._places.make_volume(names.resource_volume(resource.id), labels)

    def members(self, resource: ResourcePlan) -> list[Member]:
        """The files of the volume."""
        builds = json.dumps(resource.to_dict()["builds"]).encode("utf-8", "surrogateescape")
        folders = [folder(path, 0o777) for path in (".", "work", "tmp", "alive")]
        return [*folders, Member("builds.json", builds, 0o600)]

    def record(self, resource_id: str, now: float) -> dict[str, Any] | None:
        """The record, or None. `now`: the engine's clock."""
        name = names.resource_volume(resource_id)
        found = self._places.volume(name)
        if found is None:
            return None
        with self._places.helper({name: names.RESOURCE_DIR}) as helper:
            if self._places.has(helper, f"{names.RESOURCE_DIR}/purged"):
                return None
            stopped = self._places.has(helper, f"{names.RESOURCE_DIR}/stopped")
        made = seconds(found.get("CreatedAt")) or now
        record: dict[str, Any] = json.loads((found.get("Labels") or {}).get(names.RECORD) or "{}")
        ago = {"created_ago_s": max(0.0, now - made), "stopped_ago_s": 0.0 if stopped else None}
        return {**record, "created": found.get("CreatedAt"), "stopped": stopped, **ago}

    def container(self, record: Mapping[str, Any], listing: Listing) -> dict[str, Any]:
        """What a later build runs in: as its `up`, in the very image that was made for that, and without its GPUs."""
        found = {key: value for key, value in (record.get("container") or {}).items() if key != "gpus"}
        pinned = listing.notes.get((names.PINNED, str(record["id"])))
        if pinned:
            found = {key: value for key, value in found.items() if key not in ("dockerfile", "context", "apt_packages")}
            found.update(image=pinned, pull="never")
        return found

    def builds(self, resource_id: str) -> Mapping[str, tuple[Step, ...]]:
        """Build name -> its steps, as stored at `up`."""
        with self._places.helper({names.resource_volume(resource_id): names.RESOURCE_DIR}) as helper:
            found = self._places.small(helper, f"{names.RESOURCE_DIR}/builds.json", _BUILDS_LIMIT)
        stored = json.loads(found.get("builds.json") or b"{}")
        return {name: tuple(Plan.from_wire({"uid": "0", "steps": steps}).steps) for name, steps in stored.items()}
