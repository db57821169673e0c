"""What an engine has of ours at one moment: containers, the records in volumes, and the notes on them. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.hostside import layout

#: States of a container, as engines list them, in which it runs.
LIVE = ("running", "paused", "restarting")


@dataclass(frozen=True, kw_only=True)
class Listing:
    """What an engine has of ours at one moment."""

    #: job id -> its container, as listed.
    containers: Mapping[str, Mapping[str, Any]]
    #: job id -> its volume: the record.
    volumes: Mapping[str, Mapping[str, Any]]
    #: Notes about jobs, by what they are and the job's id.
    notes: Mapping[tuple[str, str], str]
    #: When they were made, as the engine writes times.
    noted_at: Mapping[tuple[str, str], str] = field(default_factory=dict)
    #: Of the line and its leases: containers that hold GPUs, and volumes.
    gpus: Sequence[Mapping[str, Any]] = ()
    line: Sequence[Mapping[str, Any]] = ()

    def is_live(self, job_id: str) -> bool:
        return job_id in self.containers and self.containers[job_id]["State"] in LIVE

    def newer(self, job_id: str) -> str:
        """The layout of a record of a newer release, which this one neither judges nor touches; "": it is none."""
        told = str(self.labels(job_id).get(names.LAYOUT) or "")
        return told if told.isdigit() and int(told) > layout.LAYOUT else ""

    def labels(self, job_id: str) -> Mapping[str, str]:
        return self.volumes[job_id].get("Labels") or {}

    def successor(self, job_id: str) -> dict[str, Any] | None:
        """The attempt that has taken the place of one: here, or as somebody has noted it, elsewhere."""
        own = self.labels(job_id)
        noted = self.notes.get((names.MOVED, job_id))
        found: list[dict[str, Any]] = [json.loads(noted)] if noted else []
        for other, volume in self.volumes.items():
            labels = volume.get("Labels") or {}
            if labels.get(names.UID) == own.get(names.UID) and other != job_id:
                attempt = int(labels.get(names.ATTEMPT) or 0)
                worker = names.plan_of(labels).get("worker", "")
                found.append({"job_id": other, "attempt": attempt, "worker": worker})
        found = [one for one in found if one["attempt"] > int(own.get(names.ATTEMPT) or 0)]
        return max(found, key=lambda one: one["attempt"]) if found else None

    def leased_gpus(self, job_id: str) -> tuple[str, ...]:
        """What a job that runs, or has run, was given of the engine's GPUs by its lease."""
        listed = self.containers.get(job_id)
        if listed is None or listed["State"] == "created":
            return ()
        told = self.notes.get((names.ADMITTED, job_id)) or (listed.get("Labels") or {}).get(names.LEASED) or "{}"
        try:
            return tuple(json.loads(told).get("gpus") or ())
        except (ValueError, AttributeError):  # "go": admitted without a lease
            return ()


def with_volumes(
    containers: Mapping[str, Mapping[str, Any]], gpus: Sequence[Mapping[str, Any]], found: Iterable[Mapping[str, Any]]
) -> Listing:
    """The containers of jobs, by their ids, and of leases, with what the engine's `found` volumes tell."""
    volumes: dict[str, Any] = {}
    line = []
    notes: dict[tuple[str, str], str] = {}
    noted_at: dict[tuple[str, str], str] = {}
    for volume in found:
        labels = volume.get("Labels") or {}
        if labels.get(names.KIND) == names.JOB_KIND:
            volumes[volume["Name"]] = volume
        elif labels.get(names.KIND) == names.NOTE_KIND:
            key = labels.get(names.NOTE, ""), labels.get(names.NOTED, "")
            notes[key], noted_at[key] = labels.get(names.TEXT, ""), str(volume.get("CreatedAt", ""))
        elif labels.get(names.KIND) in names.LINE_KINDS:
            line.append(volume)
    return Listing(containers=containers, volumes=volumes, notes=notes, noted_at=noted_at, gpus=gpus, line=line)


def name_of(entry: Mapping[str, Any]) -> str:
    """The name of a listed container."""
    return str((entry.get("Names") or ["/"])[0]).lstrip("/")
