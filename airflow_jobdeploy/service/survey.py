"""A pool as placement sees it: every worker asked at once, what it has, who holds it, which trees are there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from airflow_jobdeploy.backends.base import Backend, TreeBusy, WorkerFacts
from airflow_jobdeploy.core.capacity import Allowance
from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.placement import Wanted
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.standing import WorkerView
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.service.work import Work

#: Workers asked at once.
_AT_ONCE = 16


def survey(pool: WorkerPool, connect: Callable[[Worker], Backend], trees: Sequence[str] = ()) -> tuple[WorkerView, ...]:
    """All workers of `pool`, in its order; one that cannot be asked says why. `trees`: those to look for, by name.

    `connect` is called in threads of its own, once for each worker.
    """
    with ThreadPoolExecutor(_AT_ONCE) as executor:
        return tuple(executor.map(partial(_asked, connect, tuple(trees)), pool.workers))


def _asked(connect: Callable[[Worker], Backend], trees: Sequence[str], worker: Worker) -> WorkerView:
    try:
        backend = connect(worker)
        try:
            return view_of(worker, backend, trees)
        finally:
            backend.close()
    except WorkerError as error:
        return WorkerView(name=worker.name, labels=worker.labels, within=_within(worker), trouble=str(error))


def view_of(worker: Worker, backend: Backend, trees: Sequence[str] = ()) -> WorkerView:
    """One worker, by a connection to it. WorkerError when it cannot be asked."""
    facts = backend.facts()
    return WorkerView(
        name=worker.name,
        labels=worker.labels,
        within=_within(worker),
        room=backend.room() if backend.capabilities.leases else _room(facts),
        holds=frozenset(name for name in trees if _has(backend, name)),
        live_jobs=facts.live_jobs,
    )


def _room(facts: WorkerFacts) -> Room:
    """Of a worker that gives out no leases: nothing is counted there."""
    amounts = {"cpu": facts.cpu_count or None, "memory": facts.memory_bytes or None}
    return Room(capacity={**amounts, "disk": facts.disk_free_bytes or None, "gpus": [dict(gpu) for gpu in facts.gpus]})


def _has(backend: Backend, tree: str) -> bool:
    try:
        return backend.has_tree(tree)
    except TreeBusy:  # it is on its way
        return True


def _within(worker: Worker) -> dict[str, Any]:
    declared = worker.capacity.to_wire() if worker.capacity else {}
    return {**declared, **({"slots": worker.slots} if worker.slots is not None else {})}


def wanted(work: Work, *, uid: str = "", waited_s: float = 0.0, avoid: frozenset[str] = frozenset()) -> Wanted:
    """What `work` looks for, its code and data taken. `avoid`: workers on which it has just failed."""
    need = work.need
    return Wanted(
        uid=uid,
        demand=need.demand,
        where=need.where,
        avoid=avoid,
        trees=trees_of(work),
        priority=need.priority,
        waited_s=waited_s,
        deployment=work.key.deployment,
        allowance=Allowance(owner=need.owner, max_gpus=need.max_gpus),
    )


def trees_of(work: Work) -> Mapping[str, int]:
    """The trees that a job takes along -> their bytes; a dataset whose content is not known yet is at none."""
    bundle, dataset = work.takes.bundle, work.takes.dataset
    found = {bundle.name: bundle.manifest.bytes} if bundle else {}
    if dataset is not None and dataset.manifest.is_known:
        found[dataset.manifest.name] = dataset.manifest.bytes
    return found
