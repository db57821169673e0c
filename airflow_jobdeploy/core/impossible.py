"""A demand that no worker of a pool can ever meet: what of it is too much, and what the pool has."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from airflow_jobdeploy.core.demand import NOTHING, Demand
from airflow_jobdeploy.core.placement import wire
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.source import suggestion
from airflow_jobdeploy.core.spec_fields import JobSpec
from airflow_jobdeploy.core.standing import Standing, WorkerView
from airflow_jobdeploy.core.words import counted, size
from airflow_jobdeploy.errors import Problem
from airflow_jobdeploy.hostside.fitting import Gpu
from airflow_jobdeploy.hostside.gpu_names import is_model

#: Attribute of a demand -> the field of a job spec.
_FIELDS = {"gpus": "gpu_types", "cpu_count": "cpu_count", "memory_bytes": "memory", "disk_space_bytes": "disk_space"}


def impossible(spec: JobSpec, demand: Demand, pool: WorkerPool, workers: Sequence[WorkerView]) -> list[Problem]:
    """What of `demand` no worker of `workers` can meet; nothing where one can, or where one has not answered.

    `workers`: those that the spec's labels allow. A worker that cannot be asked may be the one that can, and so may one
    whose GPUs are not known.
    """
    if not workers or any(view.room is None for view in workers):
        return []
    standings = [Standing(view, view.room) for view in workers if view.room is not None]
    if demand.gpus and any(standing.gpus_unknown for standing in standings):
        return []
    if _can(demand, standings):
        return []
    parts = {name: _only(demand, name) for name in _FIELDS}
    alone = [name for name, part in parts.items() if part and not _can(part, standings)]
    if not alone:
        message = f"no worker of pool {pool.name!r} has {demand} together."
        return [Problem(_place(spec, "gpus"), _field(spec, "gpus"), message, f"It has {_inventory(standings)}.")]
    return [_problem(spec, name, parts[name], pool, standings) for name in alone]


def _can(demand: Demand, standings: Sequence[Standing]) -> bool:
    """Could one hold it, if nothing else were there, outsiders neither?"""
    wanted = wire(demand)
    for standing in standings:
        standing.usable = standing.limits.gpus
    return any(standing.needs(wanted) is not None for standing in standings)


def _only(demand: Demand, name: str) -> Demand:
    return replace(NOTHING, **{name: getattr(demand, name)})


def _problem(spec: JobSpec, name: str, part: Demand, pool: WorkerPool, standings: Sequence[Standing]) -> Problem:
    message = f"no worker of pool {pool.name!r} has {part}."
    if name == "gpus":
        strange = [
            wish.type for wish in part.gpus if not any(is_model(wish.type, model) for model in _names(standings))
        ]
        near = next(filter(None, (suggestion(name, _words(standings)) for name in strange)), "")
        sized = any(wish.memory_bytes_min or wish.memory_bytes_max for wish in part.gpus)
        hint = f"{near} It has {_models(standings, sized=sized)}.".strip()
    else:
        most = max(
            getattr(standing.limits, {"cpu_count": "cpu", "memory_bytes": "memory"}.get(name, "disk"))
            for standing in standings
        )
        hint = f"The largest has {f'{most:g} cores' if name == 'cpu_count' else size(most)}."
    return Problem(_place(spec, name), _field(spec, name), message, hint)


def _field(spec: JobSpec, name: str) -> str:
    """The field that asks for it: its own, or the preset."""
    field = _FIELDS[name]
    return field if field in spec.given or "preset" not in spec.given else "preset"


def _place(spec: JobSpec, name: str) -> str:
    return spec.given.get(_field(spec, name), "<job_spec>")


def _words(standings: Sequence[Standing]) -> list[str]:
    """What people may have meant: the models' names, and their words."""
    models = _names(standings)
    return sorted({word for model in models for word in re.findall(r"\w+", model)} | models)


def _names(standings: Sequence[Standing]) -> set[str]:
    return {gpu.model for standing in standings for gpu in standing.limits.gpus}


def _models(standings: Sequence[Standing], *, sized: bool = False) -> str:
    """`sized`: with the memory of each, for whoever asked for that."""
    counts: dict[str, list[int]] = {}
    for standing in standings:
        here = Counter(_model(gpu, sized=sized) for gpu in standing.limits.gpus)
        for model, own in here.items():
            counts.setdefault(model, []).append(own)
    told = [f"{max(each)} {model} ({counted(len(each), 'worker')})" for model, each in sorted(counts.items())]
    return ", ".join(told) or "no GPUs"


def _model(gpu: Gpu, *, sized: bool) -> str:
    return f"{gpu.model} of {size(gpu.memory_bytes)}" if sized and gpu.memory_bytes else gpu.model


def _inventory(standings: Sequence[Standing]) -> str:
    return "; ".join(f"{standing.view.name}: {_worker(standing)}" for standing in standings[:10])


def _worker(standing: Standing) -> str:
    limits = standing.limits
    parts = [_models([standing]).replace(" (1 worker)", "")]
    parts += [f"{limits.cpu:g} cores"] if limits.cpu < float("inf") else []
    parts += [f"{size(limits.memory)} memory"] if limits.memory < float("inf") else []
    return ", ".join(parts)
