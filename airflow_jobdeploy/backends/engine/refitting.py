"""The GPUs that a job was granted, given to its container before that is started.

A container's devices cannot be changed, so another takes its name that is like it but for them: made under a name of
its own first. Whoever is killed in between leaves it there for the next look, which goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import devices, names
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.devices import Gpus
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.picture import read
from airflow_jobdeploy.backends.engine.places import Places

#: So long nobody needs to bring it to an end, in seconds.
_STALE_S = 10.0


def fits(listed: Mapping[str, Any], lease: str, gpus: Gpus) -> bool:
    """Was a job's container made for this lease (with the same GPUs: they tell nothing of the lease)?"""
    told = read((listed.get("Labels") or {}).get(names.LEASED))
    return (str(told.get("id") or ""), told.get("gpus") or [], told.get("seen") or []) == (lease, *_told(gpus))


def refit(engine: Engine, places: Places, job_id: str, listed: Mapping[str, Any], lease: str, gpus: Gpus) -> bool:
    """Give it these GPUs. False: it runs or is gone, or another is at it. EngineError: its image is gone."""
    uuids, seen = _told(gpus)
    told = json.dumps({"id": lease, "gpus": uuids, "seen": seen})
    try:
        body = devices.refitted(engine.get(f"/containers/{listed['Id']}/json"), gpus, {names.LEASED: told})
    except EngineError as error:
        if error.is_missing:
            return False
        raise
    try:
        made = places.create(names.fit_name(job_id), body)
    except EngineError as error:
        if not error.is_conflict:
            raise
        _free(engine, places, job_id)
        return False
    if not places.remove_container(listed["Id"]):  # it runs
        places.remove_container(made)
        return False
    return _renamed(engine, places, made, job_id)


def _told(gpus: Gpus) -> tuple[list[str], list[str]]:
    """Its GPUs; and those that it sees, where these are more."""
    return list(gpus.uuids), [] if gpus.seen == gpus.uuids else list(gpus.seen)


def recover(engine: Engine, places: Places, job_id: str, listing: Listing) -> bool:
    """Bring to an end what somebody has begun: True when something has changed."""
    begun = listing.containers.get(names.fit_name(job_id))
    if begun is None or job_id in listing.containers:
        return False
    if places.now() - float(begun.get("Created") or 0.0) < _STALE_S:
        return False
    return _renamed(engine, places, str(begun["Id"]), job_id)


def _renamed(engine: Engine, places: Places, container: str, job_id: str) -> bool:
    try:
        engine.post(f"/containers/{container}/rename", name=job_id)
    except EngineError as error:
        if not (error.is_conflict or error.is_missing):
            raise
        places.remove_container(container)  # the submitter has made one meanwhile
        return False
    return True


def _free(engine: Engine, places: Places, job_id: str) -> None:
    """Take the name from who was killed."""
    found = places.listed(names.fit_name(job_id))
    if found is not None and places.now() - float(found.get("Created") or 0.0) > _STALE_S:
        places.remove_container(str(found["Id"]))
