"""The start of an attempt: once, ever; in its turn; with its secrets, which are handed over to what runs."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_jobdeploy.backends.base import TreeGone
from airflow_jobdeploy.backends.engine import bare, enforcing, images, names, orders, refitting, script, slots
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.claims import Claims
from airflow_jobdeploy.backends.engine.config import Trees
from airflow_jobdeploy.backends.engine.containers import JobContainers, trees_of
from airflow_jobdeploy.backends.engine.devices import Gpus
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.line import Line
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.picture import Held, read
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.tar import Member
from airflow_jobdeploy.backends.engine.wanted import Wanted
from airflow_jobdeploy.errors import StagingError, WorkerError

_TURNS = 10
_PAUSE_S = 0.2
#: Written last: all secrets are there. No variable has such a name.
_COMPLETE = ".complete"


class Starts:
    """Used by one thread at a time."""

    def __init__(
        self, engine: Engine, places: Places, jobs: Jobs, claims: Claims, containers: JobContainers, line: Line
    ) -> None:
        self._engine = engine
        self._places = places
        self._jobs = jobs
        self._claims = claims
        self._containers = containers
        self._line = line
        line.go_on = self.go_on
        self._wanted = Wanted(places)
        self._changed = False

    def start(self, job_id: str, listing: Listing) -> Listing:
        """Start a claimed attempt, once ever; where its pool has no free slot, with the next look that finds one.

        `listing`: as it was just now; returned as it is then, but for the attempt's container.
        """
        for turn in range(_TURNS):
            listing = self._jobs.listing() if turn else listing
            listed = listing.containers.get(job_id)
            if job_id not in listing.volumes:
                return listing
            if listed is None:
                if self._jobs.seen(job_id, listing).report:
                    return listing
                self._containers.create(job_id, listing.labels(job_id), Trees())
            elif listed["State"] == "removing":
                time.sleep(_PAUSE_S)  # until its successor is there, or it is gone: nobody is told of either
            elif listed["State"] != "created":
                self._hand_over(job_id, listed)  # whoever has started it may have died before that
                return listing
            elif listed["Labels"].get(names.STAGE) == names.BARE:
                if self._started_bare(job_id, listing, listed):
                    return self._jobs.listing()
            elif listed["Labels"].get(names.STAGE) == names.CLAIM:
                self._check_complete(job_id, names.plan_of(listing.labels(job_id)), listed)
                self._claims.prepare(job_id, listing, lambda text: None)
            elif self._started_in_turn(job_id, listing, listed):
                return self._jobs.listing() if slots.is_bounded(listing.labels(job_id)) else listing
        raise WorkerError(f"{self._engine.worker}: job {job_id} could not be started: others are at it, too")

    def _started_in_turn(self, job_id: str, listing: Listing, listed: Mapping[str, Any]) -> bool:
        labels = listing.labels(job_id)
        self._check_complete(job_id, names.plan_of(labels), listed)
        if not slots.is_bounded(labels):
            return self._started(job_id, listed)
        self._jobs.note(names.QUEUED, job_id, "start")
        if slots.is_held(names.plan_of(labels)):
            if slots.is_leased(names.plan_of(labels)) and not self._is_fit(job_id, listing, listed):
                return False
            if not self._started(job_id, listed):
                return False
        self.advance([job_id], self._jobs.listing())
        return True

    def _is_fit(self, job_id: str, listing: Listing, listed: Mapping[str, Any]) -> bool:
        """Has a container that is going to run while it waits the GPUs of its lease, or of all that it may get?"""
        held = self._line.take(job_id, listing)
        gpus = self._containers.gpus(held.gpus if held else (), all_seen=held is None)
        return self._fitted(job_id, listed, held.id if held else "", gpus)

    def _fitted(self, job_id: str, listed: Mapping[str, Any], lease: str, gpus: Gpus) -> bool:
        """True: it is as it should be. Else it was replaced just now, or the job has failed."""
        if refitting.fits(listed, lease, gpus):
            return True
        try:
            refitting.refit(self._engine, self._places, job_id, listed, lease, gpus)
        except EngineError as error:
            self._line.doubt(error.said)
            orders.fail(self._places, self._jobs, job_id, images.explained(error.said))
        return False

    def _check_complete(self, job_id: str, plan: Mapping[str, Any], listed: Mapping[str, Any]) -> None:
        of_resource = plan.get("resource_id") and not plan.get("resource")
        if plan.get("bundle") and not trees_of(listed).work and not of_resource:
            raise TreeGone(f"{self._engine.worker}: job {job_id} needs code that has not been sent yet")
        if plan.get("secret_names") and not self._claims.secrets.get(job_id):
            text = f"{self._engine.worker}: the secrets of job {job_id} are not here; they come with its claim"
            raise WorkerError(f"{text}: claim it again, then start it")

    def _started(self, job_id: str, listed: Mapping[str, Any]) -> bool:
        """False: another submitter has replaced the container."""
        try:
            self._containers.attach(listed["Id"], names.plan_of(listed["Labels"]))
            if listed["Labels"].get(names.STAGE) == names.BARE:
                self._places.put_report(listed["Id"], [Member(bare.MARK, b"", 0o644)])
            self._engine.post(f"/containers/{listed['Id']}/start")
        except EngineError as error:
            if error.is_missing or not self._is_there(job_id, listed):
                time.sleep(_PAUSE_S)  # until its successor is there, of which nobody is told
                return False
            if error.is_broken_mount:
                raise TreeGone(f"{self._engine.worker} has lost the files of a tree of job {job_id}") from error
            if bare.is_told(error.said) and listed["Labels"].get(names.STAGE) == names.READY:
                return self._replaced(job_id)
            self._line.doubt(error.said)
            orders.fail(self._places, self._jobs, job_id, images.explained(error.said))
            return True
        except StagingError as error:
            orders.fail(self._places, self._jobs, job_id, str(error))
            return True
        self._hand_over(job_id, listed)
        return True

    # -- images without a shell --------------------------------------------------------------------------------------

    def _replaced(self, job_id: str) -> bool:
        """Replace the container by one that has nothing of ours. False: to be started; True: it cannot be."""
        listing = self._jobs.listing()
        listed, labels = listing.containers.get(job_id), listing.labels(job_id)
        if listed is None or listed["State"] != "created" or listed["Labels"].get(names.STAGE) != names.READY:
            return False  # somebody else has done it; what replaced it may run, and end, at any moment
        body = self._containers.runnable(labels, listed)
        plan = names.plan_of(labels)
        if found := bare.obstacles(plan, body["Cmd"]):
            text = f"image {body['Image']!r} has no /bin/sh, which is needed for {', '.join(found)}"
            orders.fail(self._places, self._jobs, job_id, f"{text}: use an image with a shell")
            return True
        try:
            self._places.put(listed["Id"], names.JOB, script.FOLDERS)
            if self._places.remove_container(listed["Id"]):
                self._places.create(job_id, bare.container(body, plan))
        except EngineError as error:
            is_gone = error.is_conflict or error.is_missing  # somebody else has done the same; or the image is gone
            if not is_gone and self._is_there(job_id, listed):
                raise
        return False

    def _started_bare(self, job_id: str, listing: Listing, listed: Mapping[str, Any]) -> bool:
        """Nothing inside sees to it that the command runs once: of two that look at once one starts it."""
        labels = listing.labels(job_id)
        if slots.is_bounded(labels) or names.plan_of(labels).get("delay_s"):
            if not slots.waits(listing, job_id):
                self._jobs.note(names.QUEUED, job_id, "start")
            self.advance([job_id], self._jobs.listing())
            return True
        with slots.held(self._engine, self._places, f"start-{job_id}", self._places.now()) as is_ours:
            if not is_ours:
                time.sleep(_PAUSE_S)  # there is nothing to wait for: the engine tells of containers, not of their names
                return False
            now = self._jobs.listing().containers.get(job_id)
            if now is None or now["Id"] != listed["Id"] or now["State"] != "created":
                return False
            return self._started(job_id, listed)

    def _is_there(self, job_id: str, listed: Mapping[str, Any]) -> bool:
        now = self._jobs.listing().containers.get(job_id)
        return now is not None and now["Id"] == listed["Id"] and now["State"] != "removing"

    def _hand_over(self, job_id: str, listed: Mapping[str, Any]) -> None:
        """Give its secrets to a container that runs: they go into memory, and process 1 waits for them."""
        values = self._claims.secrets.get(job_id)
        if not values:
            return
        members = [Member(name, text.encode("utf-8", "surrogateescape"), 0o644) for name, text in values.items()]
        try:
            self._places.put(listed["Id"], names.SECRETS, [*members, Member(_COMPLETE, b"", 0o644)])
        except EngineError as error:
            if not error.is_missing:  # it has been removed meanwhile
                raise
        del self._claims.secrets[job_id]

    # -- slots -------------------------------------------------------------------------------------------------------

    def advance(self, job_ids: Iterable[str], listing: Listing) -> bool:
        """Let those of the jobs go on that wait for a slot or a lease and get it now. True: something has changed."""
        changed, in_line, self._changed = False, [], False
        job_ids = [job_id for job_id in job_ids if job_id not in listing.volumes or not listing.newer(job_id)]
        for job_id in job_ids:
            changed = refitting.recover(self._engine, self._places, job_id, listing) or changed
            if (names.ADMITTED, job_id) in listing.notes and self._jobs.is_waiting(job_id):
                self._let_go(job_id, listing)  # whoever has admitted it died before it was told
            changed = enforcing.enforce(self._engine, self._places, self._jobs, job_id, listing) or changed
            if not slots.waits(listing, job_id) or slots.is_early(listing, job_id, self._places.now()):
                continue
            if self._is_given_up(job_id, listing):
                changed = True
            elif slots.is_leased(names.plan_of(listing.labels(job_id))):
                in_line.append(job_id)
            elif slots.has_room(listing, job_id):
                changed = self._take_slot(job_id) or changed
        in_line = [job_id for job_id in in_line if listing.successor(job_id) is None]
        for job_id, held in self._line.serve(in_line, listing).items() if in_line else ():
            self.go_on(job_id, held)
        self._line.settle(job_ids, listing)
        return changed or self._changed

    def go_on(self, job_id: str, held: Held) -> None:
        """Start a job that has its lease, as soon as it has its slot, too."""
        listing = self._jobs.listing()
        if not slots.waits(listing, job_id) or listing.newer(job_id) or self._is_given_up(job_id, listing):
            return
        if slots.has_room(listing, job_id):
            self._changed = self._take_slot(job_id, held) or self._changed

    def _is_given_up(self, job_id: str, listing: Listing) -> bool:
        """End a job that has waited for too long, or that nobody asks for any more."""
        now = self._places.now()
        facts = slots.too_late(listing, job_id, now)
        if facts is None and (orphaned_s := self._wanted.orphaned_s(job_id, listing, now)) is not None:
            facts = {"orphaned_s": orphaned_s}
        if facts is not None:
            orders.fail(self._places, self._jobs, job_id, "", **facts)
        return facts is not None

    def _take_slot(self, job_id: str, held: Held | None = None) -> bool:
        with self._alone(job_id, self._jobs.listing()) as is_ours:
            listing = self._jobs.listing()
            if not is_ours or not slots.waits(listing, job_id) or not slots.has_room(listing, job_id):
                return False
            if listing.successor(job_id) is not None:
                return False  # another attempt has taken its place
            listed = listing.containers[job_id]
            if listed["State"] != "created":
                self._admit(job_id, held)
            elif listed["Labels"].get(names.STAGE) == names.CLAIM:
                return False  # its image is not there yet
            else:
                self._start_with(job_id, held)
            self._jobs.forget(job_id)
            return True

    def _admit(self, job_id: str, held: Held | None) -> None:
        gpus = self._containers.gpus(held.gpus) if held is not None else None
        told = "go"
        if gpus is not None:
            told = json.dumps({"gpus": list(gpus.uuids), "variable": gpus.variable, "told": list(gpus.told)})
        self._jobs.note(names.ADMITTED, job_id, told)
        self._let_go(job_id, self._jobs.listing())

    def _start_with(self, job_id: str, held: Held | None) -> None:
        """Start it; first its container may be replaced: for its GPUs, for an image without a shell."""
        for _ in range(_TURNS):
            listed = self._jobs.listing().containers.get(job_id)
            if listed is None or listed["State"] != "created":
                return
            is_fit = held is None or self._fitted(job_id, listed, held.id, self._containers.gpus(held.gpus))
            if is_fit and self._started(job_id, listed):
                return

    def _alone(self, job_id: str, listing: Listing) -> contextlib.AbstractContextManager[bool]:
        """Keep others from starting jobs of the pool, or this one, where two at once would do harm."""
        labels, now = listing.labels(job_id), self._places.now()
        is_whole = slots.has_whole(labels)
        if is_whole or slots.bound(labels) is not None:
            return slots.held(self._engine, self._places, labels.get(names.POOL, ""), now, gpus=is_whole)
        if listing.containers.get(job_id, {}).get("Labels", {}).get(names.STAGE) == names.BARE:
            return slots.held(self._engine, self._places, f"start-{job_id}", now)
        return contextlib.nullcontext(True)

    def _let_go(self, job_id: str, listing: Listing) -> None:
        listed = listing.containers.get(job_id)
        if listed is None:
            return
        told = read(listing.notes.get((names.ADMITTED, job_id)))
        text = ""
        if told.get("variable"):
            lines = (told["variable"], ",".join(told["gpus"]), ",".join(told.get("told") or told["gpus"]))
            text = "".join(f"{line}\n" for line in lines)
        try:
            self._places.put_report(listed["Id"], [Member("go", text.encode(), 0o644)])
            self._engine.post(f"/containers/{listed['Id']}/kill", signal="SIGUSR1")
        except EngineError as error:
            if not (error.is_missing or error.is_conflict):  # it ends just now
                raise
