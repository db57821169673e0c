"""Before the command: which steps, where, with which environment, in which slot."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional, Sequence

from airflow_jobdeploy.hostside import environment, files, given, resources, steps, volumes
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.steps import SetupError

_TICK_S = 0.25


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


class Slots:
    """The pool's places on this host, a lock file each. Builds of a standing resource need none: its `up` holds one."""

    def __init__(self, job: Job) -> None:
        plan = job.plan()
        builds_on = plan.get("resource_id") and not plan.get("resource")
        #: 0: no bound.
        self.count = 0 if builds_on else int(plan.get("slots") or 0)
        self._folder = job.host.pool_slots(plan.get("worker_pool") or "local")
        self._cordon = job.host.cordon
        self._held: Optional[files.Lock] = None

    # What a job holds of its host beside a slot: nothing, where its plan has no lease (holding.py).

    @property
    def groups(self) -> Sequence[str]:
        return ()

    def facts(self) -> Dict[str, Any]:
        return {}

    def fds(self) -> Sequence[int]:
        return ()

    def tick_s(self) -> float:
        """The longest pause between two looks at the slots, whose end nothing tells."""
        return _TICK_S

    def tidy(self) -> None:
        pass

    join = leave = tidy

    def look_at(self, pid: int) -> bool:
        return False

    def shortage(self, memory: Optional[dict]) -> Optional[dict]:
        return memory

    environment = facts

    def take(self) -> bool:
        """Take a free slot, to be held until we end; True also where none is needed."""
        if self._held is not None or not self.count:
            return True
        if not self._may_begin():
            return False
        files.private_dir(self._folder)
        for number in range(self.count):
            lock = files.Lock(os.path.join(self._folder, str(number)))
            if lock.take():
                self._held = lock
                return True
        return False

    def _may_begin(self) -> bool:
        """Does the host take jobs? One that has to wait for a slot begins when it does again."""
        return not os.path.lexists(self._cordon)
