"""What this release, or a pool of one kind, cannot honour. Nothing is ever ignored: it is named, with what would do it.

The facts stand in the table of fields (`JobSpec`): a field that `needs` something is honoured by no pool yet, or by
those of the kinds that it names.
"""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase

from airflow_jobdeploy.core.fields import Field, fields_of
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.source import in_order
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions
from airflow_jobdeploy.core.volumes import SCHEME, nested
from airflow_jobdeploy.errors import Problem


def unsupported(spec: JobSpec | TemplateOptions, *, kind: str) -> list[Problem]:
    """The fields of `spec` that a pool of `kind` ("local", "ssh", "docker", "memory") cannot honour, each as a problem.

    Values that ask for nothing (empty, null, 0 GPUs, the default) are fine.
    """
    return in_order([_problem(field, spec, kind) for field in fields_of(JobSpec).values() if _asks(field, spec, kind)])


def _asks(field: Field, spec: JobSpec | TemplateOptions, kind: str) -> bool:
    lacks = (field.needs and kind not in field.honoured_by) or kind in field.missing_on
    if not lacks or not hasattr(spec, field.attribute):
        return False
    value = getattr(spec, field.attribute)
    empty = value is None or value == () or value == {}
    return not empty and value != field.default and value not in field.same


def _problem(field: Field, spec: JobSpec | TemplateOptions, kind: str) -> Problem:
    value = getattr(spec, field.attribute)
    shown = f"{field.name}: {value}" if field.default not in (None, (), False, 1) or field.same else field.name
    where = spec.given.get(field.name, "<job_spec>")
    needs = f"It needs {field.needs}." if field.needs else "It comes in a later release."
    if field.name == "docker_image" and isinstance(spec, JobSpec):
        needs += f" Or let the pool's hosts stand in for the image: host_images: [{value!r}]."
    yet = "" if field.honoured_by else " yet"
    return Problem(where, field.name, f"a pool of kind {kind} cannot honour {shown!r}{yet}.", needs)


# -- images --------------------------------------------------------------------------------------------------------


def on_host(spec: JobSpec, pool: WorkerPool) -> tuple[JobSpec, list[Problem]]:
    """`spec` without its image, where the hosts of `pool` stand in for that; and what they cannot stand in for."""
    image = spec.docker_image
    if image is None or not any(fnmatchcase(image, pattern) for pattern in pool.host_images):
        return spec, []
    if spec.command is None and spec.args is None and spec.entry_script is None and not spec.call_main:
        hint = "Give a command: a host does not know what the image would run."
        return spec, [_at("docker_image", spec, f"nothing to run on a host that stands in for {image}.", hint)]
    return replace(spec, docker_image=None), []


def image_notes(spec: JobSpec, pool: WorkerPool) -> list[str]:
    """What its author should know who names an image."""
    if on_host(spec, pool)[0].docker_image == spec.docker_image:
        return []
    where = spec.given.get("docker_image", "<job_spec>")
    return [f"{where}: {spec.docker_image} is not used: the hosts of pool {pool.name!r} stand in for it (host_images)."]


# -- storage -------------------------------------------------------------------------------------------------------


def storage_fields(spec: JobSpec) -> tuple[str, ...]:
    """The fields of `spec` that ask for the pool's storage."""
    in_storage = (spec.dataset_location or "").startswith(SCHEME)
    return (*(["volumes"] if spec.volumes else []), *(["dataset_location"] if in_storage else []))


def unmountable(spec: JobSpec, pool: WorkerPool) -> list[Problem]:
    """What `spec` wants of a storage that `pool` does not have, or cannot show to processes."""
    hint = f"Add storage: {{root: /a/folder/of/its/workers}} to the pool{f' ({pool.where})' if pool.where else ''}."
    missing = [] if pool.storage is not None else storage_fields(spec)
    problems = [_at(name, spec, f"pool {pool.name!r} has no storage.", hint) for name in missing]
    for outer, inner in nested(spec.volumes):
        message = f"the volume at {inner.container_path} would lie inside the one at {outer.container_path}."
        problems.append(_at("volumes", spec, message, "Mount it beside the other."))
    return problems


def _at(name: str, spec: JobSpec, message: str, hint: str) -> Problem:
    return Problem(spec.given.get(name, "<job_spec>"), name, message, hint)


def storage_notes(spec: JobSpec, pool: WorkerPool) -> list[str]:
    """What its author should know of how `pool` honours the volumes of `spec`."""
    where = spec.given.get("volumes", "<job_spec>")
    read_only = [volume.container_path for volume in spec.volumes if volume.read_only]
    if not read_only or pool.kind == "docker":
        return []
    which = f"the volume at {read_only[0]} is" if len(read_only) == 1 else f"the volumes at {', '.join(read_only)} are"
    return [
        f"{where}: {which} read-only by agreement: nothing keeps a process of pool {pool.name!r} from writing there."
    ]
