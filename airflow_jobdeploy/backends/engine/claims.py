"""From a plan to a container that can be started: the claim, its files, its image, its trees.

The name of a container is the claim. Until the start it may be replaced under that name by one that has the image or
the trees that came later; who loses such a race finds the other's. That the command runs once, whatever happens here,
is seen to inside (init/).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from airflow_jobdeploy.backends.base import DATASET, WORK, TreeBusy, TreeGone
from airflow_jobdeploy.backends.engine import config, images, inline, names, orders, script, slots, storage, trees
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.config import Security, Trees
from airflow_jobdeploy.backends.engine.derived import Derived, Image
from airflow_jobdeploy.backends.engine.devices import Gpus, gpus_of
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.picture import read
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.recipe import Recipe, recipe_of
from airflow_jobdeploy.backends.engine.resources import Resources
from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.errors import StagingError, WorkerError

_TURNS = 10
#: How long an engine may take to show a container whose name it has given away, in seconds.
_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
_ENDS = ("down", "purge")
#: How often it is looked whether a job is still wanted while its image is brought, in seconds.
_LOOK_S = 1.0

Say = Callable[[str], None]


class _Made(NamedTuple):
    """A container with the name of an attempt."""

    id: str
    labels: Mapping[str, str]
    #: Was it made here? Else another was first.
    is_ours: bool

    @property
    def is_claim(self) -> bool:
        return self.labels.get(names.STAGE) == names.CLAIM


class _Unwanted(Exception):
    """The job has been stopped while its image was brought."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a pool says about its engines."""

    #: For jobs that name none.
    image: str = ""
    security: Security = field(default_factory=Security)
    #: How much code, data and images an engine keeps that no job uses; None: all.
    cache_limit_bytes: int | None = None
    #: A folder of the engines' machines that all jobs see at the same place; "": none.
    shared: str = ""
    #: GPUs that are declared, as hostside/fitting.py has them, each with its "devices"; (): the engine is asked.
    gpus: tuple[Mapping[str, Any], ...] = ()
    auth: images.Auth = lambda image: None


class Claims:
    """Used by one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        places: Places,
        jobs: Jobs,
        resources: Resources,
        settings: Settings,
        secrets: dict[str, Mapping[str, str]],
        inventory: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        self._engine = engine
        self._places = places
        self._jobs = jobs
        self._resources = resources
        self._settings = settings
        #: The engine's GPUs (stock.py).
        self._inventory = inventory
        self._derived = Derived(engine, places, settings.auth)
        #: Job id -> secrets that a start will hand over; they outlive a connection, and are written down nowhere.
        self.secrets = secrets
        #: Of the jobs that were claimed here, the latest first, and of the pool: they may be on the engine.
        self.images: list[str] = [settings.image]
        #: Jobs whose containers had their image when they were made here.
        self.prepared: set[str] = set()
        self._opened: set[str] = set()

    # -- the claim ---------------------------------------------------------------------------------------------------

    def claim(self, plan: Plan) -> Listing | None:
        """Make the record of an attempt, unless it is there. WorkerError, StagingError.

        A listing of what was made here, of which nobody else can know yet; None: ask for one.
        """
        made = self._claim(plan)
        if plan.secret_env:
            self.secrets[plan.job_id] = plan.secret_env
        self._jobs.hide(plan.job_id, list(plan.secret_env.values()))
        return made

    def _claim(self, plan: Plan) -> Listing | None:
        is_new = self._places.volume_labels(plan.job_id) is None
        if not is_new and self._is_recorded(plan.job_id):
            return None
        steps, nothing, container = self._todo(plan)
        image = str(container.get("image") or "") or ("" if container.get("dockerfile") else self._settings.image)
        self.images.insert(0, image)
        plan = replace(plan, container={**container, "image": image})
        files = script.members(plan, steps, nothing=nothing)
        labels = {**names.labels(plan), names.IMAGE: image}
        self._make_volumes(plan, labels)
        made = self._created(plan.job_id, labels, Trees(), inline.text_of(plan, files))
        if not (is_new and made.is_ours) and self._has_files(made.id, made.labels):
            return None  # another submitter was here
        if not inline.is_in(made.labels):
            self._places.put(made.id, names.JOB, files)
        if plan.resource is not None:
            self._places.put(made.id, names.RESOURCE_DIR, self._resources.members(plan.resource))
        if not (is_new and made.is_ours):
            return None
        listed = {"Id": made.id, "State": "created", "Labels": made.labels}
        return Listing(containers={plan.job_id: listed}, volumes={plan.job_id: {"Labels": labels}}, notes={})

    def _is_recorded(self, job_id: str) -> bool:
        """Is the record complete? Else whoever made it was cut off, and it is made again."""
        listing = self._jobs.listing()
        listed = listing.containers.get(job_id)
        if listed is None:
            report = self._jobs.seen(job_id, listing).report or {}
            return bool(report)
        return listed["State"] != "created" or self._has_files(listed["Id"], listed["Labels"])

    def _has_files(self, container: str, labels: Mapping[str, str]) -> bool:
        """Are the files of the job there, in a container that has not started?"""
        return inline.is_in(labels) or self._engine.exists(f"/containers/{container}/archive", path=f"{names.JOB}/conf")

    def _todo(self, plan: Plan) -> tuple[Sequence[Step], str, Mapping[str, Any]]:
        """The steps; why there is nothing to do; in what container."""
        container = dict(plan.container)
        if container.get("dockerfile"):
            container["context"] = plan.bundle
        if not plan.resource_id:
            return plan.steps, "", container
        if plan.resource is not None:
            builds: Mapping[str, Sequence[Step]] = plan.resource.builds
        else:
            record = self._resources.record(plan.resource_id, self._places.now())
            if plan.build in _ENDS and (record is None or (plan.build == "down" and record["stopped"])):
                why = "knows no resource %s (its up never claimed anything, or it was purged)"
                told = why % plan.resource_id if record is None else f"resource {plan.resource_id} was taken down"
                told = f"this worker {told}" if record is None else told
                return (), f"Nothing to do: {told}", container
            if record is None:
                raise WorkerError(f"{self._engine.worker} knows no resource {plan.resource_id}: was it purged?")
            container = {**self._resources.container(record, self._jobs.listing()), **container}
            builds = self._resources.builds(plan.resource_id)
        if plan.build not in builds:
            known = ", ".join(sorted(builds)) or "none"
            raise WorkerError(
                f"{self._engine.worker}: resource {plan.resource_id} has no build {plan.build!r}; it has: {known}"
            )
        return builds[plan.build], "", container

    def _make_volumes(self, plan: Plan, labels: Mapping[str, str]) -> None:
        self._places.make_volume(names.uid_volume(plan.uid), {names.KIND: names.UID_KIND, names.UID: plan.uid})
        if plan.resource is not None:
            self._resources.make(plan.resource, plan)
        if plan.orphan_after_s is not None:
            self._places.make_volume(names.LEASES_VOLUME, {names.KIND: names.OTHER_KIND})
        self._places.make_volume(plan.job_id, labels)

    # -- its container -----------------------------------------------------------------------------------------------

    def create(self, job_id: str, labels: Mapping[str, str], given: Trees, text: str = "") -> str:
        """The container of an attempt: with its image where that is there; the id of whoever was first. TreeGone.

        `text`: the job's files, where its volume does not have them.
        """
        made = self._created(job_id, labels, given, text)
        if made.is_ours and not self._has_files(made.id, made.labels):
            self._places.remove_container(made.id)
            raise TreeGone(f"{self._engine.worker}: the container of job {job_id} was removed before it could start")
        return made.id

    def _created(self, job_id: str, labels: Mapping[str, str], given: Trees, text: str) -> _Made:
        plan = names.plan_of(labels)
        labels = {**labels, names.TREES: json.dumps({"work": given.work, "dataset": given.dataset})}
        if slots.is_leased(plan):
            labels[names.LEASED] = json.dumps({key: plan["lease"].get(key) for key in ("id", "gpus")})
        body = config.claim(plan, labels)
        recipe = self._recipe(labels)
        if recipe.pull != "always" and (image := self._derived.ready(recipe)) is not None:
            body = self._runnable(plan, labels, image, given)
            if not inline.is_root(self._settings.security.user, image[1]):
                self._open(plan)
            elif text:
                body = inline.configured(body, text)
        for _ in range(_TURNS):
            try:
                made = _Made(self._places.create(job_id, body), body["Labels"], True)
                (self.prepared.discard if made.is_claim else self.prepared.add)(job_id)
                return made
            except EngineError as error:
                if not error.is_conflict:
                    # The image went away just now; or the engine cannot make such a container: `prepare` will say so.
                    if body["Labels"][names.STAGE] == names.CLAIM:
                        raise
                    body = config.claim(plan, labels)
            found = self._awaited(job_id)
            if found:
                return _Made(str(found["Id"]), found["Config"].get("Labels") or {}, False)
        raise WorkerError(f"{self._engine.worker}: the container of job {job_id} could not be made: others are at it")

    def _open(self, plan: Mapping[str, Any]) -> None:
        """Let others than root write into the volumes of a job, where these are new."""
        job_id = str(plan["job_id"])
        if job_id not in self._opened:
            name = f"jobdeploy-x-{os.urandom(8).hex()}"
            self._places.remove_container(self._places.create(name, config.opener(plan)), force=True)
            self._opened.add(job_id)

    def _awaited(self, job_id: str) -> Mapping[str, Any]:
        """The container whose name is taken: an engine shows it some moments later. {}: nobody made it."""
        for pause_s in _PAUSES_S:
            try:
                return dict(self._engine.get(f"/containers/{job_id}/json"))
            except EngineError as error:
                if not error.is_missing:
                    raise
            time.sleep(pause_s)  # there is nothing to wait for: the engine tells of containers, not of their names
        return {}

    def runnable(self, labels: Mapping[str, str], listed: Mapping[str, Any]) -> dict[str, Any]:
        """What takes the place of a listed container of the attempt of these labels, to be started. StagingError."""
        image = self._derived.ready(self._recipe(labels))
        if image is None:
            raise StagingError(f"the image of the job was removed from {self._engine.worker} just now")
        kept = {key: listed["Labels"][key] for key in (names.TREES, names.LEASED) if key in listed["Labels"]}
        labels = {**labels, **kept}
        return self._runnable(names.plan_of(labels), labels, image, trees_of(listed))

    def attach(self, container: str, plan: Mapping[str, Any]) -> None:
        """Give a container that is about to start what it needs of the pool's storage. StagingError."""
        if plan.get("volumes") or (plan.get("dataset") or {}).get("storage") is not None:
            security = self._settings.security
            storage.attach(self._engine, container, plan, user=security.user, read_only_root=security.read_only)

    def _runnable(
        self, plan: Mapping[str, Any], labels: Mapping[str, str], image: Image, given: Trees
    ) -> dict[str, Any]:
        name, described = image
        return config.container(
            plan,
            image=name,
            labels=labels,
            trees=given,
            security=self._settings.security,
            command=images.command(described),
            shared=self._settings.shared,
            gpus=self.gpus(read(labels[names.LEASED]).get("gpus") or ()) if names.LEASED in labels else None,
        )

    def gpus(self, uuids: Sequence[str], *, all_seen: bool = False) -> Gpus:
        """What a container needs for these; `all_seen`: and may need later, for any others."""
        wanted = self._inventory() if uuids or all_seen else ()
        return gpus_of(wanted, self._settings.security.devices, uuids, all_seen=all_seen)

    def _recipe(self, labels: Mapping[str, str]) -> Recipe:
        return recipe_of(names.plan_of(labels), labels.get(names.IMAGE) or self._settings.image)

    def use_tree(self, job_id: str, listing: Listing, role: str, name: str) -> None:
        """Give a claimed attempt a tree."""
        if role not in (WORK, DATASET):
            raise WorkerError(f"{self._engine.worker}: a tree has no role {role!r}: {WORK} and {DATASET} are known")
        if not trees.is_shown(self._places, name):
            raise TreeGone(f"{self._engine.worker} has no tree {name}")
        for _ in range(_TURNS):
            listed = listing.containers.get(job_id)
            if listed is not None and listed["State"] != "created":
                return  # it has started, with what it was given then
            given = trees_of(listed)
            wanted = replace(given, **{role: name})
            if listed is not None and given == wanted:
                return
            text = self._text_in(listed)
            if listed is None or self._places.remove_container(listed["Id"]):
                made = self.create(job_id, listing.labels(job_id), wanted, text)
                if not trees.is_shown(self._places, name):
                    self._places.remove_container(made)
                    raise TreeGone(f"{self._engine.worker} has no tree {name}: it was removed just now")
            listing = self._jobs.listing()
        raise WorkerError(f"{self._engine.worker}: job {job_id} changes all the time: several submitters are at work")

    def _text_in(self, listed: Mapping[str, Any] | None) -> str:
        """The job's files, where a listed container has them; "": its volume does."""
        if listed is None or not inline.is_in(listed["Labels"]):
            return ""
        try:
            return inline.kept(self._engine.get(f"/containers/{listed['Id']}/json"))
        except EngineError as error:
            if error.is_missing:
                return ""  # replaced just now
            raise

    # -- its image ---------------------------------------------------------------------------------------------------

    def prepare(self, job_id: str, listing: Listing, say: Say) -> None:
        """Bring the image, or make it. What is for ever in the way ends the job: FAILED, with the cause.

        An image that is made of the job's code needs that first: until it is there, nothing happens.
        """
        listed = listing.containers.get(job_id)
        if listed is None or listed["State"] != "created" or listed["Labels"].get(names.STAGE) != names.CLAIM:
            return
        labels = listing.labels(job_id)
        plan, recipe = names.plan_of(labels), self._recipe(labels)
        if recipe.context and not self._has_tree(recipe.context):
            return
        try:
            self._bring(job_id, plan, recipe, self._while_wanted(listed["Id"], say))
            if not self._is_there(listed["Id"]):
                return  # stopped meanwhile, or another submitter was as quick
            body = self.runnable(labels, listed)
            if self._places.remove_container(listed["Id"]):
                self._places.create(job_id, body)
        except _Unwanted:
            return
        except StagingError as error:
            orders.fail(self._places, self._jobs, job_id, str(error))
        except EngineError as error:
            if not error.is_conflict:
                orders.fail(self._places, self._jobs, job_id, images.explained(error.said))

    def _is_there(self, container: str) -> bool:
        try:
            self._engine.get(f"/containers/{container}/json")
        except EngineError as error:
            if error.is_missing:
                return False
            raise
        return True

    def _while_wanted(self, container: str, say: Say) -> Say:
        """`say`, which ends what takes long when the claim has gone meanwhile: the job was stopped."""
        looked = time.monotonic()

        def told(text: str) -> None:
            nonlocal looked
            say(text)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                if not self._is_there(container):
                    raise _Unwanted

        return told

    def _has_tree(self, name: str) -> bool:
        try:
            return trees.has(self._places, name)
        except TreeBusy:
            return False

    def _bring(self, job_id: str, plan: Mapping[str, Any], recipe: Recipe, say: Say) -> None:
        """See that the image of a recipe is there. StagingError."""
        if recipe.image:
            auth = self._settings.auth(recipe.image)
            images.bring(self._engine, recipe.image, pull=recipe.pull, auth=auth, say=say)
        elif not recipe.context:
            raise StagingError("the job names no docker_image, and its pool no `image`")
        secrets = self.secrets.get(job_id, {})
        image = self._derived.make(
            recipe, secrets=secrets, say=say, begin=lambda: self._jobs.note(names.SETUP, job_id, "setup")
        )
        if plan.get("resource") and not recipe.is_plain:
            self._jobs.note(names.PINNED, str(plan["resource_id"]), image[0])


def trees_of(listed: Mapping[str, Any] | None) -> Trees:
    if listed is None:
        return Trees()
    given = json.loads((listed.get("Labels") or {}).get(names.TREES) or "{}")
    return Trees(work=given.get("work", ""), dataset=given.get("dataset", ""))
