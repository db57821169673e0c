"""A pool as placement sees it: every worker asked at once, what it has, who holds it, which trees are there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from airflow_jobdeploy.backends.base import Backend, TreeBusy, WorkerFacts
from airflow_jobdeploy.core.health import set_aside
from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.placement import Wanted
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.sharing import kernel_of
from airflow_jobdeploy.core.standing import WorkerView
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside import fitting
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
        return silent(worker, error)


def view_of(worker: Worker, backend: Backend, trees: Sequence[str] = (), *, gpus: bool = True) -> WorkerView:
    """One worker, by a connection to it; `gpus`: does anybody care for its GPUs? WorkerError: it cannot be asked."""
    facts = backend.facts()
    room = backend.room(gpus=gpus) if backend.capabilities.leases else _room(facts)
    return WorkerView(
        name=worker.name,
        labels=worker.labels,
        within=_within(worker),
        room=room,
        set_aside=set_aside(room.ends),
        cordoned=str(room.capacity.get("cordoned") or ""),  # facts may be as old as the connection
        holds=frozenset(name for name in trees if _has(backend, name)),
        live_jobs=facts.live_jobs,
        machine=facts.machine,
        kernel=kernel_of(facts.boot, str(room.capacity.get("boot_id") or facts.extra.get("boot_id") or "")),
    )


def gpu_count(view: WorkerView) -> int:
    """The GPUs of a worker that jobs may get, whoever uses them now."""
    if view.room is None:
        return 0
    whole = fitting.read_limits(dict(view.room.capacity))
    return len((fitting.narrowed(whole, dict(view.within)) or whole).gpus)


def silent(worker: Worker, error: WorkerError) -> WorkerView:
    """One that cannot be asked."""
    return WorkerView(name=worker.name, labels=worker.labels, within=_within(worker), trouble=str(error))


def _room(facts: WorkerFacts) -> Room:
    """Of a worker that gives out no leases: nothing is counted there."""
    amounts = {"cpu": facts.cpu_count or None, "memory": facts.memory_bytes or None}
    return Room(capacity={**amounts, "disk": facts.disk_free_bytes or None, "gpus": [dict(gpu) for gpu in facts.gpus]})


def _has(backend: Backend, tree: str) -> bool:
    try:
        return backend.has_tree(tree)
    except TreeBusy:  # it is on its way
        return True


def declared(worker: Worker | None) -> dict[str, Any]:
    """What the pool declares of a worker (hostside.fitting.narrowed)."""
    return worker.capacity.to_wire() if worker is not None and worker.capacity else {}


def _within(worker: Worker) -> dict[str, Any]:
    return {**declared(worker), **({"slots": worker.slots} if worker.slots is not None else {})}


def wanted(work: Work, *, avoid: Collection[str] = ()) -> Wanted:
    """What `work` looks for. `avoid`: workers on which it has just failed."""
    need = work.need
    return Wanted(
        demand=need.demand,
        where=need.where,
        avoid=frozenset(avoid),
        trees=trees_of(work),
        priority=need.priority,
        deployment=work.key.deployment,
        allowance=need.allowance,
    )


def trees_of(work: Work) -> Mapping[str, int]:
    """The trees that a job takes along, of which the names are known before they are sent -> their bytes."""
    manifests = [source.manifest for source in work.takes.at_once]
    return {manifest.name: manifest.bytes for manifest in manifests if manifest.is_known}
