"""What nobody needs on an engine any more: ended jobs after their `keep_for`, what of them is left, trees and derived
images above the pool's `cache_limit`.

Never what a container has, running or kept, nor what a standing resource was made in. The engine says so itself: it
refuses to remove what is in use. Nothing here is an order that must not come twice, or be cut off half-way.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from airflow_jobdeploy.backends.base import Garbage
from airflow_jobdeploy.backends.engine import config, names, orders
from airflow_jobdeploy.backends.engine.api import WORK_S, Engine, EngineError
from airflow_jobdeploy.backends.engine.holders import Holders
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.ledger import Ledger
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.picture import picture_of
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.resources import Resources
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.backends.engine.transfer import STORE
from airflow_jobdeploy.core.plan import Limits

#: What was made so lately may be just about to be used; what is left of a submitter that was killed. In seconds.
_RECENT_S, _LEFT_S = 600.0, 3600.0
_OLD = "ended longer ago than its keep_for"
_OVER = "over the pool's cache_limit, made or used the longest ago"


@dataclass(frozen=True, kw_only=True)
class _Thing:
    """What may go when there is too much."""

    item: Garbage
    #: False: it is in use.
    remove: Callable[[], bool]


class Sweep:
    """One look at all of an engine. `deployment`: whose jobs may go ("": all); `shells`: images that may be there, and
    can remove files."""

    def __init__(
        self,
        engine: Engine,
        places: Places,
        jobs: Jobs,
        *,
        dry_run: bool,
        deployment: str = "",
        cache_limit_bytes: int | None = None,
        shells: Sequence[str] = (),
    ) -> None:
        self._engine = engine
        self._places = places
        self._jobs = jobs
        self._resources = Resources(places)
        self._dry_run = dry_run
        self._deployment = deployment
        self._limit = cache_limit_bytes
        self._shells = shells
        self._volumes: list[dict[str, Any]] = []
        self._containers: list[dict[str, Any]] = []
        self._sizes: Mapping[str, int] = {}
        #: When it was looked, by the engine's clock: what was made in one second is equally old.
        self._now = 0.0

    def run(self) -> list[Garbage]:
        """What went, or with `dry_run` would."""
        listing = self._look()
        found = list(self._of_jobs(listing))
        if found and not self._dry_run:
            listing = self._look()
        found += [*self._of_resources(listing), *self._leases(listing), *self._left(listing), *self._over(listing)]
        self._empty_trash()
        return found

    def _look(self) -> Listing:
        self._now = self._places.now()
        self._containers = list(self._engine.get("/containers/json", all=True))
        self._volumes = list(self._engine.get("/volumes", filters={"label": [names.KIND]})["Volumes"] or ())
        known = self._engine.get("/system/df", answer_s=WORK_S)
        self._sizes = {
            **{v["Name"]: max(0, (v.get("UsageData") or {}).get("Size") or 0) for v in known.get("Volumes") or ()},
            **{i["Id"]: max(0, i["Size"] - max(0, i.get("SharedSize") or 0)) for i in known.get("Images") or ()},
        }
        return self._jobs.listing()

    def _age_s(self, made: object) -> float:
        return max(0.0, self._now - (seconds(made) or self._now))

    def _volume(self, volume: Mapping[str, Any], kind: str, why: str) -> Garbage:
        name = str(volume["Name"])
        return Garbage(
            kind=kind, name=name, why=why, bytes=self._sizes.get(name, 0), age_s=self._age_s(volume.get("CreatedAt"))
        )

    def _of_kind(self, kind: str) -> Iterator[tuple[dict[str, Any], Mapping[str, str]]]:
        for volume in self._volumes:
            labels = volume.get("Labels") or {}
            if labels.get(names.KIND) == kind:
                yield volume, labels

    # -- jobs and resources ------------------------------------------------------------------------------------------

    def _of_jobs(self, listing: Listing) -> Iterator[Garbage]:
        for job_id in listing.volumes:
            labels = listing.labels(job_id)
            if self._deployment and labels.get(names.DEPLOYMENT) not in ("", self._deployment):
                continue
            state = self._jobs.state(job_id, listing, counts_log=False)
            if state is None or state.phase != "ended":
                continue
            plan = names.plan_of(labels)
            keep_s = (plan.get("limits") or {}).get("keep_for_s")
            age_s = min((float(entry.get("ago_s") or 0) for entry in state.history), default=0.0)
            if age_s <= (Limits.keep_for_s if keep_s is None else keep_s) or self._is_standing(plan):
                continue
            yield Garbage(kind="job", name=job_id, why=_OLD, bytes=self._sizes.get(job_id, 0), age_s=age_s)
            if not self._dry_run:
                orders.remove(self._places, self._jobs, job_id, self._jobs.listing())

    def _is_standing(self, plan: Mapping[str, Any]) -> bool:
        """Is it of a resource that was not taken down?"""
        resource = str(plan.get("resource_id") or "")
        record = self._resources.record(resource, self._places.now()) if resource else None
        return record is not None and not record["stopped"]

    def _of_resources(self, listing: Listing) -> Iterator[Garbage]:
        having = {listing.labels(job_id).get(names.RESOURCE) for job_id in listing.volumes}
        for volume, labels in self._of_kind(names.RESOURCE_KIND):
            resource = labels.get(names.RESOURCE, "")
            if resource in having or self._is_standing({"resource_id": resource}):
                continue
            if self._dry_run or self._places.remove_volume(str(volume["Name"])):
                yield self._volume(volume, "resource", "taken down, and its jobs are gone")

    # -- what is left --------------------------------------------------------------------------------------------------

    def _leases(self, listing: Listing) -> Iterator[Garbage]:
        """What nobody holds any more of an engine, and nobody waits for. Whoever waits there removes it, too."""
        now, holders = self._places.now(), Holders(self._jobs)
        picture = picture_of(listing, now, lambda job_id: holders.has_ended(job_id, listing))
        for held in picture.leases:
            if held.is_over and (self._dry_run or Ledger(self._engine, self._places).clear(held)):
                name = ", ".join(names.gpu_name(uuid) for uuid in held.claims) or names.lease_volume(held.id)
                why = f"job {held.job} has ended" if held.job else "no job has claimed it in time"
                yield Garbage(kind="lease", name=name, why=why, age_s=max(0.0, now - held.since))
        for volume in picture.expired:
            if self._dry_run or self._places.remove_volume(volume):
                yield Garbage(kind="volume", name=volume, why="whoever waited with it is gone")

    def _left(self, listing: Listing) -> Iterator[Garbage]:
        """Of submitters that were killed, and of jobs that are gone."""
        for container in self._containers:
            labels, age_s = container.get("Labels") or {}, self._now - float(container.get("Created") or 0)
            name = str((container.get("Names") or ["/"])[0]).lstrip("/")
            is_ours = labels.get(names.KIND) == names.HELPER_KIND or name.startswith(names.FIT_PREFIX)
            if not is_ours or container["State"] == "running" or age_s <= _LEFT_S:
                continue
            if self._dry_run or self._places.remove_container(container["Id"]):
                yield Garbage(kind="container", name=name, why="left by a submitter that was killed", age_s=age_s)
        uids = {listing.labels(job_id).get(names.UID) for job_id in listing.volumes}
        resources = {labels.get(names.RESOURCE) for _, labels in self._of_kind(names.RESOURCE_KIND)}
        mounted = self._mounted()
        for volume in self._volumes:
            labels = volume.get("Labels") or {}
            kind, noted = labels.get(names.KIND), labels.get(names.NOTED)
            about = labels.get(names.NOTE) if kind == names.NOTE_KIND else None
            gone = (
                (kind == names.UID_KIND and labels.get(names.UID) not in uids)
                or (kind == names.SECRETS_KIND and str(volume["Name"]) not in mounted)
                or (about in names.JOB_NOTES and noted not in listing.volumes)
                or (about == names.PINNED and noted not in resources)
            )
            if not gone or self._age_s(volume.get("CreatedAt")) <= _LEFT_S:
                continue
            if self._dry_run or self._places.remove_volume(str(volume["Name"])):
                yield self._volume(volume, "volume", "of jobs that are gone")

    def _mounted(self) -> set[str]:
        """The volumes that containers have, or were promised."""
        found = {str(m.get("Name")) for c in self._containers for m in c.get("Mounts") or () if m.get("Name")}
        for container in self._containers:
            given = json.loads((container.get("Labels") or {}).get(names.TREES) or "{}")
            found |= {names.tree_volume(tree) for tree in given.values() if tree}
        return found

    # -- too much ------------------------------------------------------------------------------------------------------

    def _over(self, listing: Listing) -> Iterator[Garbage]:
        things = [*self._images(listing), *self._trees()]
        left = sum(thing.item.bytes for thing in things)
        for thing in sorted(things, key=lambda thing: (-thing.item.age_s, thing.item.name)):
            replaced = thing.item.why != _OVER
            if not replaced and (self._limit is None or left <= self._limit or thing.item.age_s < _RECENT_S):
                continue
            if self._dry_run or thing.remove():
                left -= thing.item.bytes
                yield thing.item

    def _images(self, listing: Listing) -> Iterator[_Thing]:
        """Derived images that nobody has now."""
        pinned = {text for (note, _), text in listing.notes.items() if note == names.PINNED}
        used = {str(container.get("ImageID")) for container in self._containers}
        wanted = {"label": [f"{names.KIND}={names.IMAGE_KIND}"]}
        for image in self._engine.get("/images/json", filters=wanted):
            tags = [tag for tag in image.get("RepoTags") or () if not tag.startswith("<none>")]
            if image["Id"] in used or pinned & set(tags):
                continue
            name = tags[0] if tags else str(image["Id"])
            made = self._now - float(image.get("Created") or 0)
            item = Garbage(
                kind="image",
                name=name,
                why=_OVER if tags else "another has taken its name",
                bytes=self._sizes.get(str(image["Id"]), 0),
                age_s=max(0.0, min(made, self._unused_s(name, made))),
            )
            yield _Thing(item=item, remove=lambda name=name: self._remove_image(name))  # type: ignore[misc]

    def _unused_s(self, name: str, otherwise: float) -> float:
        """Since it was used: its tag is set anew with each use (derived.py)."""
        try:
            described = self._engine.get(f"/images/{quote(name, safe='/:@')}/json")
        except EngineError as error:
            if error.is_missing:
                return otherwise
            raise
        tagged = seconds((described.get("Metadata") or {}).get("LastTagTime"))
        return self._now - tagged if tagged else otherwise

    def _remove_image(self, name: str) -> bool:
        try:
            self._engine.delete(f"/images/{quote(name, safe='/:@')}")
        except EngineError as error:
            if error.is_conflict:
                return False
            if not error.is_missing:
                raise
        return True

    def _trees(self) -> Iterator[_Thing]:
        """Code and data that no container has; not where nothing on the engine could remove their files."""
        used = self._mounted()
        if not self._shell():
            return
        for volume, labels in self._of_kind(names.TREE_KIND):
            if str(volume["Name"]) in used:
                continue
            item = self._volume(volume, "tree", _OVER)
            size = int(labels.get(names.BYTES) or 0)
            item = Garbage(kind="tree", name=item.name, why=item.why, age_s=item.age_s, bytes=size)
            yield _Thing(item=item, remove=lambda volume=volume: self._remove_tree(volume))  # type: ignore[misc]

    def _remove_tree(self, volume: Mapping[str, Any]) -> bool:
        """Its name goes now, its files with all others; a note keeps them from being forgotten."""
        key = _key(volume)
        if not self._places.remove_volume(str(volume["Name"])):
            return False
        if key:
            self._jobs.note(names.TRASH, key, str(volume["Name"]))
        return True

    def _shell(self) -> str:
        own = [str((c.get("Labels") or {}).get(names.IMAGE) or "") for c in self._containers]
        images = dict.fromkeys(image for image in (*self._shells, *own) if image)
        return next((image for image in images if self._places.has_image(image)), "")

    def _empty_trash(self) -> None:
        """Remove the files of trees that have no name any more, unless one has come back meanwhile."""
        if self._dry_run:
            return
        notes = [noted for note, noted in self._jobs.listing().notes if note == names.TRASH]
        named = {_key(volume) for volume in self._places.tree_volumes()}
        shell = self._shell() if notes else ""
        for key in notes:
            if key in named or (shell and self._remove_files(key, shell)):
                self._places.remove_volume(names.note_volume(names.TRASH, key))

    def _remove_files(self, key: str, shell: str) -> bool:
        """Nobody brings the tree meanwhile: its name is held. False: somebody does."""
        try:
            held = self._places.create(names.fill_holder(key), config.helper({}))
        except EngineError as error:
            if error.is_conflict:
                return False
            raise
        try:
            command = ["/bin/sh", "-c", 'rm -rf -- "$1"', "sh", f"{STORE}/trees/{key}"]
            return self._places.run(shell, command, {names.STORE_VOLUME: STORE}) == 0
        finally:
            self._places.remove_container(held, force=True)


def _key(volume: Mapping[str, Any]) -> str:
    """The folder of a tree's files in the store."""
    return str((volume.get("Options") or {}).get("device", "")).rpartition("/")[2]
