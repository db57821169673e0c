"""What a job asks of a container, in the terms of its pool: short names of images, presets, GPUs.

The result is `Plan.container`. What the pool does not have is a problem that says what it has.
"""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy.core.demand import with_preset
from airflow_jobdeploy.core.engines import ALIASES
from airflow_jobdeploy.core.gpus import GpuWish
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.source import suggestion
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions
from airflow_jobdeploy.errors import Problem
from airflow_jobdeploy.hostside.gpu_names import is_model

Wanted = JobSpec | TemplateOptions

#: Attributes of a spec -> what a plan calls them.
_SAME = ("pull", "dockerfile", "cpu_count", "memory_bytes", "disk_space_bytes", "shm_size_bytes", "pids_limit")


def container_of(wanted: Wanted, pool: WorkerPool) -> dict[str, Any]:
    """What was asked for, for the plan. `wanted` has no problems (`container_problems`), and its preset applied."""
    found = {name: getattr(wanted, name) for name in _SAME}
    found["image"] = image_of(wanted.docker_image or pool.image or "", pool) or None
    found["apt_packages"] = list(wanted.apt_packages) or None
    found["gpus"] = _chosen(wanted, pool)
    if found["dockerfile"]:
        found["image"] = None
    return {name: value for name, value in found.items() if value is not None}


def container_problems(wanted: Wanted, pool: WorkerPool, *, has_project: bool) -> list[Problem]:
    """What a docker pool cannot give, or what cannot be meant. Nothing for other pools: `support` speaks of those."""
    if pool.kind != "docker":
        return []
    return [
        *_image_problems(wanted, pool),
        *_dockerfile_problems(wanted, has_project=has_project),
        *_gpu_problems(with_preset(wanted, pool) if isinstance(wanted, JobSpec) else wanted, pool),
    ]


# -- images --------------------------------------------------------------------------------------------------------


def image_of(name: str, pool: WorkerPool) -> str:
    """The image that a name stands for: itself, where the pool has no such short name."""
    return pool.images.get(name, name)


def _image_problems(wanted: Wanted, pool: WorkerPool) -> list[Problem]:
    image = wanted.docker_image or pool.image or ""
    if not image and not wanted.dockerfile:
        hint = "Give docker_image, or the pool an `image`."
        return [_at("docker_image", wanted, f"the job names no image, and pool {pool.name!r} has none.", hint)]
    if image not in ALIASES or image in pool.images:
        return []
    hint = suggestion(image, pool.images) or f"Add images: {{{image}: the image's name}} to the pool."
    return [_at("docker_image", wanted, f"pool {pool.name!r} does not say which image {image!r} is.", hint)]


def _dockerfile_problems(wanted: Wanted, *, has_project: bool) -> list[Problem]:
    if not wanted.dockerfile:
        return []
    if wanted.docker_image:
        return [_at("dockerfile", wanted, "dockerfile and docker_image are both given.", "Keep one.")]
    if not has_project:
        return [_at("dockerfile", wanted, "there is no project that it could be in.", "Give project_dir.")]
    return []


# -- GPUs ----------------------------------------------------------------------------------------------------------


def _chosen(wanted: Wanted, pool: WorkerPool) -> int | None:
    """How many GPUs: of the first alternative that some engine of the pool may have."""
    possible = (gpu for gpu in wanted.gpu_types if any(not _lack(gpu, worker) for worker in pool.workers))
    return next((gpu.count for gpu in possible), None)


def _gpu_problems(wanted: Wanted, pool: WorkerPool) -> list[Problem]:
    """What no engine can have by what the pool says of them all. Those of which it says nothing are asked later."""
    lacks = [(worker, [_lack(gpu, worker) for gpu in wanted.gpu_types]) for worker in pool.workers]
    if not wanted.gpu_types or any(not all(each) for _, each in lacks):
        return []
    field = "gpu_types" if "gpu_types" in wanted.given or "preset" not in wanted.given else "preset"
    asked = " or ".join(str(gpu) for gpu in wanted.gpu_types)
    has = "; ".join(dict.fromkeys(f"{worker.name} has {each[0]}" for worker, each in lacks))
    hint = f"{_near(wanted, pool)} That is what the pool's `gpu_types` say: without them engines are asked.".strip()
    return [_at(field, wanted, f"no worker of pool {pool.name!r} has {asked}: {has}.", hint)]


def _near(wanted: Wanted, pool: WorkerPool) -> str:
    known = sorted({has.type for worker in pool.workers for has in worker.gpu_types if has.type})
    strange = [gpu.type for gpu in wanted.gpu_types if gpu.type and not any(is_model(gpu.type, each) for each in known)]
    return next(filter(None, (suggestion(name, known) for name in strange)), "")


def _lack(gpu: GpuWish, worker: Worker) -> str:
    """What a worker has instead of these GPUs; "" when it has them, or the pool says nothing of its GPUs."""
    if not worker.gpu_types or sum(has.count for has in worker.gpu_types if _is_like(has, gpu)) >= gpu.count:
        return ""
    return ", ".join(str(has) for has in worker.gpu_types)


def _is_like(has: GpuWish, wanted: GpuWish) -> bool:
    memory = has.memory_bytes_min or 0
    most = wanted.memory_bytes_max
    right = memory >= (wanted.memory_bytes_min or 0) and (most is None or memory <= most)
    return right and is_model(wanted.type, has.type)


def _at(name: str, wanted: Wanted, message: str, hint: str) -> Problem:
    return Problem(wanted.given.get(name, "<job_spec>"), name, message, hint)
