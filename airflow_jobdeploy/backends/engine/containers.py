"""The container of an attempt before its start: a claim, or with the image of the job where that is there.

Its name is the claim: whoever finds it taken goes on with the container that has it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from airflow_jobdeploy.backends.base import TreeGone
from airflow_jobdeploy.backends.engine import config, images, inline, names, slots, storage
from airflow_jobdeploy.backends.engine.api import Engine, EngineError
from airflow_jobdeploy.backends.engine.config import Trees
from airflow_jobdeploy.backends.engine.derived import Derived, Image
from airflow_jobdeploy.backends.engine.devices import Gpus, gpus_of
from airflow_jobdeploy.backends.engine.picture import read
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.recipe import Recipe, recipe_of
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.errors import StagingError, WorkerError

_TURNS = 10
#: How long an engine may take to show a container whose name it has given away, in seconds.
_PAUSES_S = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


class Made(NamedTuple):
    """A container with the name of an attempt."""

    id: str
    labels: Mapping[str, str]
    #: Was it made here? Else another was first.
    is_ours: bool

    @property
    def is_claim(self) -> bool:
        return self.labels.get(names.STAGE) == names.CLAIM


class JobContainers:
    """Used by one thread at a time."""

    def __init__(
        self,
        engine: Engine,
        places: Places,
        derived: Derived,
        settings: Settings,
        inventory: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        self._engine = engine
        self._places = places
        self._derived = derived
        self._settings = settings
        #: The engine's GPUs (stock.py).
        self._inventory = inventory
        #: Jobs whose containers had their image when they were made here.
        self.prepared: set[str] = set()
        self._opened: set[str] = set()

    def create(self, job_id: str, labels: Mapping[str, str], given: Trees, text: str = "") -> str:
        """The container of an attempt: with its image where that is there; the id of whoever was first. TreeGone.

        `text`: the job's files, where its volume does not have them.
        """
        made = self.made(job_id, labels, given, text)
        if made.is_ours and not self.has_files(made.id, made.labels):
            self._places.remove_container(made.id)
            raise TreeGone(f"{self._engine.worker}: the container of job {job_id} was removed before it could start")
        return made.id

    def made(self, job_id: str, labels: Mapping[str, str], given: Trees, text: str) -> Made:
        """As `create`, of which this is the part before the files of a job are looked for."""
        plan = names.plan_of(labels)
        labels = {**labels, names.TREES: json.dumps({"work": given.work, "dataset": given.dataset})}
        if slots.is_leased(plan):
            labels[names.LEASED] = json.dumps({key: plan["lease"].get(key) for key in ("id", "gpus")})
        body = config.claim(plan, labels)
        recipe = self.recipe(labels)
        if recipe.pull != "always" and (image := self._derived.ready(recipe)) is not None:
            body = self._runnable(plan, labels, image, given)
            if not inline.is_root(self._settings.security.user, image[1]):
                self._open(plan)
            elif text:
                body = inline.configured(body, text)
        for _ in range(_TURNS):
            try:
                made = Made(self._places.create(job_id, body), body["Labels"], True)
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
                return Made(str(found["Id"]), found["Config"].get("Labels") or {}, False)
        raise WorkerError(f"{self._engine.worker}: the container of job {job_id} could not be made: others are at it")

    def _open(self, plan: Mapping[str, Any]) -> None:
        """Let others than root write into the volumes of a job, where these are new."""
        job_id = str(plan["job_id"])
        if job_id not in self._opened:
            name = names.random_name()
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
        image = self._derived.ready(self.recipe(labels))
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

    def recipe(self, labels: Mapping[str, str]) -> Recipe:
        """What the image of the attempt of these labels is made of."""
        return recipe_of(names.plan_of(labels), labels.get(names.IMAGE) or self._settings.image)

    def has_files(self, container: str, labels: Mapping[str, str]) -> bool:
        """Are the files of the job there, in a container that has not started?"""
        return inline.is_in(labels) or self._engine.exists(f"/containers/{container}/archive", path=f"{names.JOB}/conf")

    def text_in(self, listed: Mapping[str, Any] | None) -> str:
        """The job's files, where a listed container has them; "": its volume does."""
        if listed is None or not inline.is_in(listed["Labels"]):
            return ""
        try:
            return inline.kept(self._engine.get(f"/containers/{listed['Id']}/json"))
        except EngineError as error:
            if error.is_missing:
                return ""  # replaced just now
            raise


def trees_of(listed: Mapping[str, Any] | None) -> Trees:
    """Those that a listed container has been given."""
    if listed is None:
        return Trees()
    given = json.loads((listed.get("Labels") or {}).get(names.TREES) or "{}")
    return Trees(work=given.get("work", ""), dataset=given.get("dataset", ""))
