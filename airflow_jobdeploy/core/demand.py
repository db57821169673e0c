"""What a job asks of a worker, from its spec and the presets of its pool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from airflow_jobdeploy.core.gpus import GpuWish, gpu_wishes
from airflow_jobdeploy.core.labels import mismatch
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.presets import Preset
from airflow_jobdeploy.core.source import in_order, suggestion
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions
from airflow_jobdeploy.core.words import size
from airflow_jobdeploy.errors import Problem, SpecError


@dataclass(frozen=True, kw_only=True)
class Demand:
    """Amounts that one worker must have free for the job; 0 is not counted. `gpus`: alternatives, in order."""

    cpu_count: float = 0
    memory_bytes: int = 0
    disk_space_bytes: int = 0
    gpus: tuple[GpuWish, ...] = ()

    def __bool__(self) -> bool:
        """Is anything asked for?"""
        return self != NOTHING

    def __str__(self) -> str:
        """ "2 A100 or 4 T4, 8 cores, 16.0 GiB memory"."""
        parts = [" or ".join(str(wish) for wish in self.gpus)]
        parts += [f"{self.cpu_count:g} {'core' if self.cpu_count == 1 else 'cores'}" if self.cpu_count else ""]
        parts += [f"{size(self.memory_bytes)} memory" if self.memory_bytes else ""]
        parts += [f"{size(self.disk_space_bytes)} disk" if self.disk_space_bytes else ""]
        return ", ".join(filter(None, parts)) or "nothing in particular"

    @property
    def gpu_count(self) -> int:
        """The most GPUs that it may come to hold."""
        return max((wish.count for wish in self.gpus), default=0)

    def to_wire(self) -> dict[str, Any]:
        """As hosts read it (hostside.fitting)."""
        return {
            "cpu": self.cpu_count,
            "memory": self.memory_bytes,
            "disk": self.disk_space_bytes,
            "gpus": [wish.to_wire() for wish in self.gpus],
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON, by attribute."""
        gpus = [{name: getattr(wish, name) for name in wish.__dataclass_fields__} for wish in self.gpus]
        return {**{name: getattr(self, name) for name in self.__dataclass_fields__}, "gpus": gpus}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Demand:
        """Of a `to_dict`, of this release or a later one."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**known, "gpus": gpu_wishes(known.get("gpus"))})


#: Asks for nothing.
NOTHING = Demand()


def demand_of(spec: JobSpec, pool: WorkerPool) -> Demand:
    """What a job of `spec` asks of a worker of `pool`. SpecError: no such preset, or no worker is `where` it says.

    Whether any worker is large enough is told by `placement.rank`, which knows what they have.
    """
    if problems := demand_problems(spec, pool):
        raise SpecError(in_order(problems))
    return asked(with_preset(spec, pool))


def demand_problems(spec: JobSpec, pool: WorkerPool) -> list[Problem]:
    """A preset or labels that `pool` does not have."""
    return [*_preset_problems(spec, pool), *_where_problems(spec, pool)]


def asked(wanted: JobSpec | TemplateOptions) -> Demand:
    """What the fields themselves ask."""
    return Demand(
        cpu_count=wanted.cpu_count or 0,
        memory_bytes=wanted.memory_bytes or 0,
        disk_space_bytes=wanted.disk_space_bytes or 0,
        gpus=wanted.gpu_types,
    )


Asking = TypeVar("Asking", JobSpec, TemplateOptions)


def with_preset(spec: Asking, pool: WorkerPool) -> Asking:
    """`spec` with what its preset, else the pool's default one, says and it does not itself.

    A preset that the pool lacks changes nothing.
    """
    named: str | None = getattr(spec, "preset", None)  # templates name none
    preset: Preset | None = pool.presets.get(named or pool.default_preset or "")
    if preset is None:
        return spec
    given = spec.given
    return replace(
        spec,
        cpu_count=spec.cpu_count if spec.cpu_count is not None else preset.cpu,
        memory_bytes=spec.memory_bytes if spec.memory_bytes is not None else preset.memory_bytes,
        disk_space_bytes=spec.disk_space_bytes if spec.disk_space_bytes is not None else preset.disk_space_bytes,
        gpu_types=spec.gpu_types if spec.gpu_types or "gpu_types" in given else preset.gpu_types,
        preemptible=spec.preemptible if "preemptible" in given else spec.preemptible or preset.preemptible,
    )


def _preset_problems(spec: JobSpec, pool: WorkerPool) -> list[Problem]:
    if spec.preset is None or spec.preset in pool.presets:
        return []
    near = suggestion(spec.preset, pool.presets)
    has = f"It has {', '.join(pool.presets)}." if pool.presets else "It has none."
    place = f" ({pool.where})" if pool.where else ""
    message = f"worker pool {pool.name!r}{place} has no preset {spec.preset!r}."
    return [Problem(spec.given.get("preset", "<job_spec>"), "preset", message, f"{near} {has}".strip())]


def _where_problems(spec: JobSpec, pool: WorkerPool) -> list[Problem]:
    """Labels that no worker has, and values that none has together."""
    at = spec.given.get("where", "<job_spec>")
    labels = [worker.all_labels for worker in pool.workers]
    known = sorted({name for each in labels for name in each})
    problems = []
    for name, values in spec.where.items():
        has = sorted({each[name] for each in labels if name in each})
        if not has:
            hint = f"{suggestion(name, known)} Its labels: {', '.join(known)}.".strip()
            problems.append(
                Problem(at, f"where.{name}", f"no worker of pool {pool.name!r} has a label {name!r}.", hint)
            )
        elif not set(values) & set(has):
            hint = f"{suggestion(values[0], has)} Known: {', '.join(has[:20])}.".strip()
            message = f"no worker of pool {pool.name!r} has {name}: {' or '.join(values)}."
            problems.append(Problem(at, f"where.{name}", message, hint))
    if not problems and not any(not mismatch(spec.where, each) for each in labels):
        message = f"no worker of pool {pool.name!r} has all of these labels together."
        problems.append(Problem(at, "where", message, "See `airflow jobdeploy pools ls` for its workers."))
    return problems
