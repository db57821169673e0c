"""From a plan to a container that can be started: the claim, its files, its trees, its image.

The name of a container is the claim (containers.py). Until the start it may be replaced under that name by one that
has the image or the trees that came later; who loses such a race finds the other's. That the command runs once,
whatever happens here, is seen to inside (init/).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.backends.base import DATASET, WORK, TreeBusy, TreeGone
from airflow_jobdeploy.backends.engine import images, inline, names, orders, script, trees
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.config import Trees
from airflow_jobdeploy.backends.engine.containers import JobContainers, trees_of
from airflow_jobdeploy.backends.engine.derived import Derived
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.recipe import Recipe
from airflow_jobdeploy.backends.engine.resources import Resources
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.errors import StagingError, WorkerError

_TURNS = 10
_ENDS = ("down", "purge")
#: How often it is looked whether a job is still wanted while its image is brought, in seconds.
_LOOK_S = 1.0

Say = Callable[[str], None]


class _Unwanted(Exception):
    """The job has been stopped while its image was brought."""


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
        derived: Derived,
        containers: JobContainers,
    ) -> None:
        self._engine = engine
        self._places = places
        self._jobs = jobs
        self._resources = resources
        self._settings = settings
        self._derived = derived
        self._containers = containers
        #: Job id -> secrets that a start will hand over; they outlive a connection, and are written down nowhere.
        self.secrets = secrets
        #: Of the jobs that were claimed here, the latest first, and of the pool: they may be on the engine.
        self.images: list[str] = [settings.image]

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
        made = self._containers.made(plan.job_id, labels, Trees(), inline.text_of(plan, files))
        if not (is_new and made.is_ours) and self._containers.has_files(made.id, made.labels):
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
        return listed["State"] != "created" or self._containers.has_files(listed["Id"], listed["Labels"])

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

    # -- its trees ---------------------------------------------------------------------------------------------------

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
            text = self._containers.text_in(listed)
            if listed is None or self._places.remove_container(listed["Id"]):
                made = self._containers.create(job_id, listing.labels(job_id), wanted, text)
                if not trees.is_shown(self._places, name):
                    self._places.remove_container(made)
                    raise TreeGone(f"{self._engine.worker} has no tree {name}: it was removed just now")
            listing = self._jobs.listing()
        raise WorkerError(f"{self._engine.worker}: job {job_id} changes all the time: several submitters are at work")

    # -- its image ---------------------------------------------------------------------------------------------------

    def prepare(self, job_id: str, listing: Listing, say: Say) -> None:
        """Bring the image, or make it. What is for ever in the way ends the job: FAILED, with the cause.

        An image that is made of the job's code needs that first: until it is there, nothing happens.
        """
        listed = listing.containers.get(job_id)
        if listed is None or listed["State"] != "created" or listed["Labels"].get(names.STAGE) != names.CLAIM:
            return
        labels = listing.labels(job_id)
        plan, recipe = names.plan_of(labels), self._containers.recipe(labels)
        if recipe.context and not self._has_tree(recipe.context):
            return
        try:
            self._bring(job_id, plan, recipe, self._while_wanted(listed["Id"], say))
            if not self._places.is_there(listed["Id"]):
                return  # stopped meanwhile, or another submitter was as quick
            body = self._containers.runnable(labels, listed)
            if self._places.remove_container(listed["Id"]):
                self._places.create(job_id, body)
        except _Unwanted:
            return
        except StagingError as error:
            orders.fail(self._places, self._jobs, job_id, str(error))
        except EngineError as error:
            if not error.is_conflict:
                orders.fail(self._places, self._jobs, job_id, images.explained(error.said))

    def _while_wanted(self, container: str, say: Say) -> Say:
        """`say`, which ends what takes long when the claim has gone meanwhile: the job was stopped."""
        looked = time.monotonic()

        def told(text: str) -> None:
            nonlocal looked
            say(text)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                if not self._places.is_there(container):
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
