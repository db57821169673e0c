"""The attempts of one engine: what is there of each, and the state that follows from it.

One listing of containers and one of volumes answer for all attempts. What never changes is asked once: the record (in
labels), a container that has ended, its report.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.backends.engine import judging, names, reports, said
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.judging import Seen
from airflow_jobdeploy.backends.engine.logs import CappedLog, Log
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.hostside import logs as host_logs

#: A listing that says all the time that a container runs is doubted so often, in seconds: an engine whose disk was
#: full when the container ended never lists that.
DOUBT_S = 60.0
_TAIL_LINES = 20
_LIVE = ("running", "paused", "restarting")


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
        return job_id in self.containers and self.containers[job_id]["State"] in _LIVE

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


@dataclass
class _Known:
    """What has been found out of one container."""

    container: str = ""
    listed: str = ""
    inspected: Mapping[str, Any] | None = None
    report: Mapping[str, bytes] | None = None
    log: Log | None = None
    #: The state of an end, but for what may still change, and when it was made.
    ended: dict[str, Any] | None = None
    ended_at: float = 0.0
    #: When it was last asked for beside the listing, whatever that said.
    looked_at: float = field(default_factory=time.monotonic)
    secrets: tuple[str, ...] = ()
    said: said.Said = said.NOTHING
    facts: dict[str, Any] = field(default_factory=dict)
    #: Output files of an attempt that has ended, by path, as far as somebody has asked for them.
    files: dict[str, ArtifactFile] = field(default_factory=dict)
    #: It was let go just now: its first state is told without its report, which has hardly begun and is dear to read.
    has_just_begun: bool = False


class Jobs:
    """Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self._engine = engine
        self._places = places
        self._known: dict[str, _Known] = {}
        self.machine = ""
        #: What was listed last.
        self.latest = Listing(containers={}, volumes={}, notes={})
        #: Where jobs stand in the engine's line, as it was last seen: {"position", "ahead", "why"}.
        self.places: dict[str, Mapping[str, Any]] = {}

    @property
    def now(self) -> float:
        """The engine's clock, roughly."""
        return self._places.about_now()

    # -- what is there -------------------------------------------------------------------------------------------------

    def listing(self) -> Listing:
        """Two requests."""
        ours = self._engine.get("/containers/json", all=True, filters={"label": [names.KIND]})
        containers = {_name(entry): entry for entry in ours if entry["Labels"][names.KIND] == names.JOB_KIND}
        gpus = [entry for entry in ours if entry["Labels"][names.KIND] == names.LEASE_KIND]
        return self._noted(containers, gpus)

    def _noted(self, containers: Mapping[str, Mapping[str, Any]], gpus: Sequence[Mapping[str, Any]]) -> Listing:
        """With the records, and the notes on them."""
        volumes: dict[str, Any] = {}
        line = []
        notes: dict[tuple[str, str], str] = {}
        noted_at: dict[tuple[str, str], str] = {}
        for volume in self._engine.get("/volumes", filters={"label": [names.KIND]})["Volumes"] or ():
            labels = volume.get("Labels") or {}
            if labels.get(names.KIND) == names.JOB_KIND:
                volumes[volume["Name"]] = volume
            elif labels.get(names.KIND) == names.NOTE_KIND:
                key = labels.get(names.NOTE, ""), labels.get(names.NOTED, "")
                notes[key], noted_at[key] = labels.get(names.TEXT, ""), str(volume.get("CreatedAt", ""))
            elif labels.get(names.KIND) in names.LINE_KINDS:
                line.append(volume)
        for job_id in [job_id for job_id in self._known if job_id not in volumes]:
            del self._known[job_id]
            self.places.pop(job_id, None)
        self.latest = Listing(
            containers=containers, volumes=volumes, notes=notes, noted_at=noted_at, gpus=gpus, line=line
        )
        return self.latest

    def note(self, kind: str, job_id: str, text: str) -> None:
        """Write something about a job that must be readable without its container: the label of an empty volume."""
        name = f"jobdeploy-{kind}-{job_id}"
        labels = {names.KIND: names.NOTE_KIND, names.NOTE: kind, names.NOTED: job_id, names.TEXT: text}
        while self._places.make_volume(name, labels).get(names.TEXT) != text:
            self._places.remove_volume(name)

    def forget(self, job_id: str) -> None:
        """What was found out of it is asked again."""
        known = self._known.get(job_id)
        if known is not None:
            self._known[job_id] = _Known(secrets=known.secrets)

    def begin(self, job_id: str, before: Listing) -> Listing:
        """It was started just now: what was listed `before`, as it is now."""
        self.forget(job_id)
        self._known.setdefault(job_id, _Known()).has_just_begun = True
        containers = self._asked_for(before, [job_id])
        if containers is None:
            return self.listing()
        self._places.hear((self._known[job_id].inspected or {}).get("State", {}).get("StartedAt"))
        return replace(before, containers=containers)

    def relisted(self, before: Listing, job_ids: Iterable[str]) -> Listing:
        """A listing where the containers of few jobs alone may have changed: these are asked for, one by one."""
        containers = self._asked_for(before, job_ids)
        return self.listing() if containers is None else self._noted(containers, before.gpus)

    def _asked_for(self, before: Listing, job_ids: Iterable[str]) -> Mapping[str, Mapping[str, Any]] | None:
        """The containers of a listing, where those of some jobs are as they are now; None: one is not there."""
        containers = dict(before.containers)
        for job_id in job_ids:
            found = self._inspect(job_id)
            if found is None:
                return None
            labels, status = found["Config"].get("Labels") or {}, found["State"]["Status"]
            containers[job_id] = {"Id": found["Id"], "Names": [f"/{job_id}"], "State": status, "Labels": labels}
            self._fresh(job_id, containers[job_id]).inspected = found
        return containers

    def hide(self, job_id: str, values: Sequence[str]) -> None:
        """Values that must not be shown when the end of the log is told."""
        self._known.setdefault(job_id, _Known()).secrets = tuple(values)

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def state(self, job_id: str, listing: Listing, *, counts_log: bool = True) -> JobState | None:
        """The state of an attempt; None: no record of it. `counts_log`: also what has come of its log."""
        if job_id not in listing.volumes:
            return None
        try:
            return self._state(job_id, listing, counts_log)
        except EngineError as error:
            if not error.is_missing:
                raise
        # It was removed since the listing.
        others = {name: entry for name, entry in listing.containers.items() if name != job_id}
        return self._state(job_id, replace(listing, containers=others), counts_log)

    def _state(self, job_id: str, listing: Listing, counts_log: bool) -> JobState:
        data = self._wire(job_id, listing)
        log = self.log(job_id, listing)
        if log is not None and counts_log and job_id in listing.containers:
            log.grow(final=data["phase"] == "ended")
            if data["phase"] != "ended":
                self.listen(job_id, listing)
        return JobState.from_wire(
            {
                **data,
                "machine": self.machine,
                "log_bytes": log.size if log else 0,
                "log_dropped_bytes": log.dropped if log else 0,
                "moved_to": listing.successor(job_id),
                "messages": self._known[job_id].said.summary or {},
            }
        )

    def _wire(self, job_id: str, listing: Listing) -> dict[str, Any]:
        seen = self._seen(job_id, listing)
        known = self._known[job_id]
        if known.ended is None:
            data = judging.wire(seen)
            if data["phase"] != "ended":
                return data
            known.ended, known.ended_at = judging.wire(self._completed(seen, data)), seen.now
        passed = seen.now - known.ended_at
        history = [{**entry, "ago_s": entry["ago_s"] + passed} for entry in known.ended["history"]]
        return {**known.ended, "history": history}

    def seen(self, job_id: str, listing: Listing) -> Seen:
        """The evidence, read now."""
        self.forget(job_id)
        return self._seen(job_id, listing)

    def evidence(self, job_id: str, listing: Listing) -> Seen:
        """The evidence, of which what does not change is known already."""
        return self._seen(job_id, listing)

    def listen(self, job_id: str, listing: Listing) -> dict[str, Any]:
        """What a running attempt says of itself by now."""
        known, listed = self._known[job_id], listing.containers.get(job_id)
        if listed is not None and listed["State"] in _LIVE and known.ended is None:
            with contextlib.suppress(EngineError):  # it ends just now
                known.said = said.listen(self._places, listed["Id"], known.said, has_ended=False)
        return known.said.summary or {}

    def is_waiting(self, job_id: str) -> bool:
        """As its report said when it was last read: does process 1 wait to be let go on?"""
        known = self._known.get(job_id)
        told = reports.standing(known.report) if known is not None else None
        return told is not None and told.phase == "waiting"

    def output(self, job_id: str) -> tuple[Mapping[str, bytes], said.Said] | None:
        """The report, and what it has said, of an attempt that is known to have ended."""
        known = self._known.get(job_id)
        if known is None or known.ended is None:
            return None
        return known.report or {}, known.said

    def files(self, job_id: str) -> dict[str, ArtifactFile]:
        """Output files of an attempt that has ended, as far as somebody has asked for them: to be added to."""
        known = self._known.get(job_id)
        return known.files if known is not None and known.ended is not None else {}

    def log(self, job_id: str, listing: Listing) -> Log | None:
        """Its log; None while it has no container that could have one."""
        known = self._known.setdefault(job_id, _Known())
        listed = listing.containers.get(job_id)
        if listed is None or listed["State"] == "created":
            return known.log
        if known.log is None or known.log.container != listed["Id"]:
            plan = names.plan_of(listing.labels(job_id))
            capped = (plan.get("limits") or {}).get("log_limit_bytes")
            made = CappedLog(self._engine, listed["Id"], job_id) if capped else Log(self._engine, listed["Id"])
            known.log = made
        return known.log

    def _seen(self, job_id: str, listing: Listing) -> Seen:
        volume, listed = listing.volumes[job_id], listing.containers.get(job_id)
        known = self._fresh(job_id, listed)
        if known.ended is None:
            is_doubted = time.monotonic() - known.looked_at >= DOUBT_S
            if is_doubted:
                known.looked_at = time.monotonic()
            if listed is not None and listed["State"] != "created" and (known.inspected is None or is_doubted):
                known.inspected = self._inspect(listed["Id"])
            is_first, known.has_just_begun = known.has_just_begun, False
            runs = bool((known.inspected or {}).get("State", {}).get("Running"))
            if is_first and runs:
                known.report = {}
            elif (
                known.report is None
                or (is_doubted and not runs)
                or self._may_move(known, names.plan_of(listing.labels(job_id)))
            ):
                known.report = self._report(job_id, listed)
        container = known.inspected
        if container is None and listed is not None:
            container = {"State": {"Status": listed["State"], "Running": listed["State"] in _LIVE}}
        return Seen(
            job_id=job_id,
            plan=names.plan_of(listing.labels(job_id)),
            claimed=str(volume.get("CreatedAt", "")),
            container=container,
            report=known.report,
            now=self._places.about_now(),
            facts=known.facts,
            gpus=_gpus(listing, job_id),
            line=self.places.get(job_id, {}),
            queued=listing.noted_at.get((names.QUEUED, job_id), ""),
            setup=listing.noted_at.get((names.SETUP, job_id), ""),
        )

    def _fresh(self, job_id: str, listed: Mapping[str, Any] | None) -> _Known:
        """What is known, if it is still of the same container in the same state."""
        known = self._known.setdefault(job_id, _Known())
        now = (listed["Id"], listed["State"]) if listed is not None else ("", "")
        if (known.container, known.listed) != now:
            known = replace(known, container=now[0], listed=now[1], inspected=None, report=None)
            self._known[job_id] = known
        return known

    def _may_move(self, known: _Known, plan: Mapping[str, Any]) -> bool:
        """May a running container's report have changed, without the engine telling?"""
        if known.listed not in _LIVE:
            return False
        several = plan.get("leftovers") == "wait" or plan.get("build") or len(plan.get("steps", ())) > 1
        return bool(several) or not is_settled(known.report)

    def _inspect(self, container: str) -> Mapping[str, Any] | None:
        try:
            return dict(self._engine.get(f"/containers/{container}/json"))
        except EngineError as error:
            if error.is_missing:
                return None
            raise

    def _report(self, job_id: str, listed: Mapping[str, Any] | None) -> Mapping[str, bytes]:
        if listed is not None and listed["State"] == "created":
            return {}  # orders to what has not started remove the container
        if listed is not None:
            if listed["State"] == "exited" and listed["Labels"].get(names.STAGE) == names.READY:
                link = self._places.link(listed["Id"], f"{names.REPORT}/{reports.SHORT}")
                told = reports.of_link(link, names.plan_of(listed["Labels"]))
                if told is not None:
                    return told
            return self._places.small(listed["Id"], names.REPORT, judging.REPORT_LIMIT)
        with self._places.helper({job_id: names.JOB}) as helper:
            return self._places.small(helper, names.REPORT, judging.REPORT_LIMIT)

    def _completed(self, seen: Seen, data: Mapping[str, Any]) -> Seen:
        """With what is worth knowing of an end, beside the report."""
        known = self._known[seen.job_id]
        facts = {**seen.facts, **({"gpus": list(seen.gpus)} if seen.gpus else {})}
        if seen.has_begun and not reports.is_short(seen.report):
            self._hear_all(seen, known)
        facts["metrics"] = known.said.metrics is not None
        if data["status"] == "FAILED" and seen.container is not None and known.listed != "created":
            facts["last_lines"] = self._last_lines(seen, known)
        return replace(seen, facts=facts)

    def _hear_all(self, seen: Seen, known: _Known) -> None:
        if seen.container is not None:
            known.said = said.listen(self._places, known.container, known.said, has_ended=True)
            return
        with self._places.helper({seen.job_id: names.JOB}) as helper:
            known.said = said.listen(self._places, helper, known.said, has_ended=True)

    def _last_lines(self, seen: Seen, known: _Known) -> str:
        if seen.plan.get("secret_names") and not known.secrets:
            return ""  # which of its words are secrets is known to nobody any more
        log = known.log or Log(self._engine, known.container)
        try:
            return host_logs.last_lines(log.last_lines(_TAIL_LINES), known.secrets)
        except EngineError:
            return ""  # the log was removed by hand


def is_settled(report: Mapping[str, bytes] | None) -> bool:
    """Does the command run, so that the next news is that it has ended?"""
    told = reports.standing(report)
    return told is not None and told.phase == "running" and not told.reason


def _name(entry: Mapping[str, Any]) -> str:
    return str((entry.get("Names") or ["/"])[0]).lstrip("/")


def _gpus(listing: Listing, job_id: str) -> tuple[str, ...]:
    """What a job that runs, or has run, was given of the engine's GPUs by its lease."""
    listed = listing.containers.get(job_id)
    if listed is None or listed["State"] == "created":
        return ()
    told = listing.notes.get((names.ADMITTED, job_id)) or (listed.get("Labels") or {}).get(names.LEASED) or "{}"
    try:
        return tuple(json.loads(told).get("gpus") or ())
    except (ValueError, AttributeError):  # "go": admitted without a lease
        return ()
