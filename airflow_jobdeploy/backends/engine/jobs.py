"""The attempts of one engine: what is there of each, and the state that follows from it.

One listing of containers and one of volumes answer for all attempts. What never changes is asked once: the record (in
labels), a container that has ended, its report.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.backends.engine import judging, names, reports, said
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.known import Known
from airflow_jobdeploy.backends.engine.listing import LIVE, Listing, name_of, with_volumes
from airflow_jobdeploy.backends.engine.logs import CappedLog, Log
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.seen import Seen
from airflow_jobdeploy.core.status import JobState, Reason, unknown
from airflow_jobdeploy.hostside import logs as host_logs

#: A listing that says all the time that a container runs is doubted so often, in seconds: an engine whose disk was
#: full when the container ended never lists that.
DOUBT_S = 60.0
_TAIL_LINES = 20


class Jobs:
    """Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self._engine = engine
        self._places = places
        self._known: dict[str, Known] = {}
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
        containers = {name_of(entry): entry for entry in ours if entry["Labels"][names.KIND] == names.JOB_KIND}
        gpus = [entry for entry in ours if entry["Labels"][names.KIND] == names.LEASE_KIND]
        return self._noted(containers, gpus)

    def _noted(self, containers: Mapping[str, Mapping[str, Any]], gpus: Sequence[Mapping[str, Any]]) -> Listing:
        """With the records, and the notes on them."""
        found = self._engine.get("/volumes", filters={"label": [names.KIND]})["Volumes"] or ()
        self.latest = with_volumes(containers, gpus, found)
        for job_id in [job_id for job_id in self._known if job_id not in self.latest.volumes]:
            del self._known[job_id]
            self.places.pop(job_id, None)
        return self.latest

    def note(self, kind: str, job_id: str, text: str) -> None:
        """Write something about a job that must be readable without its container: the label of an empty volume."""
        name = names.note_volume(kind, job_id)
        labels = {names.KIND: names.NOTE_KIND, names.NOTE: kind, names.NOTED: job_id, names.TEXT: text}
        while self._places.make_volume(name, labels).get(names.TEXT) != text:
            self._places.remove_volume(name)

    def forget(self, job_id: str) -> None:
        """What was found out of it is asked again."""
        known = self._known.get(job_id)
        if known is not None:
            self._known[job_id] = Known(secrets=known.secrets)

    def begin(self, job_id: str, before: Listing) -> Listing:
        """It was started just now: what was listed `before`, as it is now."""
        self.forget(job_id)
        self._known.setdefault(job_id, Known()).has_just_begun = True
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
        self._known.setdefault(job_id, Known()).secrets = tuple(values)

    # -- one attempt ---------------------------------------------------------------------------------------------------

    def state(self, job_id: str, listing: Listing, *, counts_log: bool = True) -> JobState | None:
        """The state of an attempt; None: no record of it. `counts_log`: also what has come of its log."""
        if job_id not in listing.volumes:
            return None
        if newer := listing.newer(job_id):
            told, labels = f"its record has layout {newer}, of a newer release: ask with that", listing.labels(job_id)
            uid, attempt = str(labels.get(names.UID) or ""), str(labels.get(names.ATTEMPT) or "")
            attempts = {"attempt": int(attempt)} if attempt.isdigit() else {}
            return unknown(job_id, Reason.NEWER_LAYOUT, f"job {job_id}: {told}", uid=uid, **attempts)
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
        if listed is not None and listed["State"] in LIVE and known.ended is None:
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
        known = self._known.setdefault(job_id, Known())
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
                or known.may_move(names.plan_of(listing.labels(job_id)))
            ):
                known.report = self._report(job_id, listed)
        container = known.inspected
        if container is None and listed is not None:
            container = {"State": {"Status": listed["State"], "Running": listed["State"] in LIVE}}
        return Seen(
            job_id=job_id,
            plan=names.plan_of(listing.labels(job_id)),
            claimed=str(volume.get("CreatedAt", "")),
            container=container,
            report=known.report,
            now=self._places.about_now(),
            facts=known.facts,
            gpus=listing.leased_gpus(job_id),
            line=self.places.get(job_id, {}),
            queued=listing.noted_at.get((names.QUEUED, job_id), ""),
            setup=listing.noted_at.get((names.SETUP, job_id), ""),
        )

    def _fresh(self, job_id: str, listed: Mapping[str, Any] | None) -> Known:
        """What is known, if it is still of the same container in the same state."""
        known = self._known.setdefault(job_id, Known())
        now = (listed["Id"], listed["State"]) if listed is not None else ("", "")
        if (known.container, known.listed) != now:
            known = replace(known, container=now[0], listed=now[1], inspected=None, report=None)
            self._known[job_id] = known
        return known

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
            return self._places.small(listed["Id"], names.REPORT, reports.REPORT_LIMIT)
        with self._places.helper({job_id: names.JOB}) as helper:
            return self._places.small(helper, names.REPORT, reports.REPORT_LIMIT)

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

    def _hear_all(self, seen: Seen, known: Known) -> None:
        if seen.container is not None:
            known.said = said.listen(self._places, known.container, known.said, has_ended=True)
            return
        with self._places.helper({seen.job_id: names.JOB}) as helper:
            known.said = said.listen(self._places, helper, known.said, has_ended=True)

    def _last_lines(self, seen: Seen, known: Known) -> str:
        if seen.plan.get("secret_names") and not known.secrets:
            return ""  # which of its words are secrets is known to nobody any more
        log = known.log or Log(self._engine, known.container)
        try:
            return host_logs.last_lines(log.last_lines(_TAIL_LINES), known.secrets)
        except EngineError:
            return ""  # the log was removed by hand
