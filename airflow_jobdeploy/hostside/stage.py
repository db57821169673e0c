"""Before the command: which steps, where, with which environment, in which slot."""

from __future__ import annotations

import os
from typing import Callable, Dict, List

from airflow_jobdeploy.hostside import environment, files, given, resources, steps, volumes
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.slots import Slots
from airflow_jobdeploy.hostside.steps import SetupError


def todo(job: Job) -> List[dict]:
    """The steps of a job: its own, or those stored with its resource. SetupError when there are none of that name."""
    plan = job.plan()
    if not plan.get("resource_id"):
        return list(plan.get("steps", ()))
    stored = resources.builds(job.host, plan["resource_id"])
    build = plan.get("build", "")
    if build not in stored:
        known = ", ".join(sorted(stored)) or "none"
        raise SetupError("resource %s has no build %r; it has: %s" % (plan["resource_id"], build, known))
    return stored[build]


def place(job: Job, secrets: Dict[str, str], look: Callable[[], None] = lambda: None) -> steps.Place:
    """Make the directories of a job; its place. SetupError, environment.Refused, OSError.

    `look` is called now and then while its code is copied; what it raises ends that.
    """
    environment.make_temporary(job.temporary())
    files.private_dir(job.host.checkpoint(job.plan()["uid"]))
    env = {key: value for key, value in os.environ.items() if not key.startswith("JOBDEPLOY_")}
    env.update({**job.plan().get("env", {}), **secrets, **environment.own(job)})
    home = env.get("HOME", "/")
    env.update(_data(job, home))
    workdir = _workdir(job, home, look)
    return steps.Place(workdir, job.paths, env)


def _data(job: Job, home: str) -> Dict[str, str]:
    """What the environment says of the pool's storage, volumes and a dataset that is used in place, and of the tree
    that is the dataset."""
    found = volumes.attach(job, home)
    tree = given.place(job, "dataset")
    if tree is not None:
        found["JOBDEPLOY_DATASET_DIR"] = tree
    dataset = job.plan().get("dataset") or {}
    if "storage" in dataset:
        found["JOBDEPLOY_DATASET_DIR"] = volumes.stored(job, dataset["storage"], home)
    return found


def _workdir(job: Job, home: str, look: Callable[[], None]) -> str:
    plan, own = job.plan(), job.paths.work
    found = own
    if plan.get("resource_id"):
        own = job.host.resource(plan["resource_id"]).work
        found = (resources.record(job.host, plan["resource_id"]) or {}).get("workdir") or own
    elif plan.get("workdir"):
        found = environment.expand(plan["workdir"], home)
    if found == own and not os.path.isdir(own):
        _bring_code(job, own, look)
    steps.make_workdir(found, make=found == own)
    return found


def _bring_code(job: Job, work: str, look: Callable[[], None]) -> None:
    """The job's own copy of the tree that it was given; it is there whole or not at all."""
    source = given.place(job, "work")
    if source is None:
        if job.plan().get("ships_project") or job.plan().get("bundle"):
            raise SetupError("the project has not been sent to this worker")
        return
    from airflow_jobdeploy.hostside.copying import Copy

    beside = work + ".new"
    files.remove_tree(beside)
    try:
        Copy(look).make(source, beside)
        os.rename(beside, work)
    except BaseException:
        files.remove_tree(beside)
        raise


class Trees:
    """What the job uses of the store, held for as long as we live: nobody may evict it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._held: List[int] = []

    def take(self) -> None:
        """SetupError when one has gone; files.Damaged."""
        for role, name in given.given(self._job).items():
            if role in given.ROLES:
                try:
                    self._held.append(given.hold(self._job.host.store.tree(name), "the %s (%s)" % (role, name)))
                except given.NoTree as error:
                    raise SetupError(str(error)) from None


def hold(job: Job) -> Slots:
    """What a job holds of its host while it runs, to be taken."""
    if not job.plan().get("lease"):
        return Slots(job)
    from airflow_jobdeploy.hostside.holding import Holding  # not in the memory of those who hold no more than a slot

    return Holding(job)
