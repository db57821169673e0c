"""What is told of an engine's line, to people and to those who wait. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.backends.engine.picture import Picture
from airflow_jobdeploy.core.leases import SeekAnswer

_SHOWN = ("priority", "waited_s", "demand", "reserves")

#: Tickets by their uids in the line.
Users = Mapping[str, Mapping[str, Any]]


def leases_of(picture: Picture, capacity: Mapping[str, Any]) -> list[dict[str, Any]]:
    """As hostside/queueing.py has them, with those that have all GPUs."""
    every = [gpu["uuid"] for gpu in capacity.get("gpus") or () if gpu.get("uuid")]
    return [*(held.wire() for held in picture.leases), *({"id": job, "gpus": every} for job in picture.whole)]


def placed(verdict: Mapping[str, Any], why: str, users: Users) -> SeekAnswer:
    """A verdict as an answer."""
    found = [users[uid] for uid in verdict["ahead"] if uid in users]
    kept = ("who", "user", "waited_s")
    ahead = [{**{key: each[key] for key in kept}, "priority": each.get("priority", "normal")} for each in found]
    return SeekAnswer(position=verdict["position"], ahead=tuple(ahead), why=why or "its turn has come")


def worded(why: str, users: Users, people: Mapping[str, str] | None = None) -> str:
    """With people instead of the hashes of jobs, owners and teams."""
    known = {who: f"a job of {ticket.get('user') or 'somebody'}" for who, ticket in users.items()}
    known.update(people or {})
    return re.sub(r"\b[a-z2-7]{8}\b", lambda found: known.get(found[0], found[0]), why)


def shown(ticket: Mapping[str, Any], verdict: Mapping[str, Any], users: Users) -> dict[str, Any]:
    """A ticket of core.leases.Room."""
    defaults = {"priority": "normal", "reserves": False}
    told = {**{key: ticket.get(key, defaults.get(key)) for key in _SHOWN}, "user": str(ticket.get("user") or "")}
    hashes = {key: str(ticket.get(key) or "") for key in ("who", "deployment", "owner", "team")}
    why = worded(verdict["why"], users) or "its turn has come"
    return {**hashes, **told, "position": verdict["position"], "why": why}
