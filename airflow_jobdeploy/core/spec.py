"""A file or mapping -> `JobSpec`: older spellings, overrides, and every problem and warning at once."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core import ddl, dl_jobs
from airflow_jobdeploy.core.credentials import without_credentials
from airflow_jobdeploy.core.fields import read_fields
from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.kinds import Problems, as_number
from airflow_jobdeploy.core.source import Item, in_order
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions
from airflow_jobdeploy.core.spec_rules import check_rules
from airflow_jobdeploy.core.support import unsupported
from airflow_jobdeploy.errors import SpecError

__all__ = ["JobSpec", "TemplateOptions", "load_spec", "read_spec"]

#: Spellings of other ages of primeway -> ours.
OLDER = {
    "context": "project_dir",
    "job_timeout": "timeout",
    "creation_timeout": "setup_timeout",
    "autoscaler_timeout": "idle_timeout",
    "docker_command": "command",
}
#: Two fields of the oldest age make one entry of `gpu_types`.
GPU_PAIR = ("gpu_type", "gpu_count")
#: Fields of primeway that have another answer here.
ELSEWHERE = {
    "app_api_token": "Keep it in Airflow and name it in `secret_env`.",
    "artifacts_path": "Write to the folder in $JOBDEPLOY_OUTPUT_DIR instead: all in it is fetched.",
    "health_check_timeout": "Services come in a later release.",
    "ignore_patterns": "What git ignores is not sent: use .gitignore.",
    "max_requests": "Services come in a later release.",
    "persistent_volume": "Give a pool with storage, and `volumes: [storage:dir:/mnt/data]`.",
    "request_input_dir": "Give inputs as `args` or `env`.",
    "schedule": "Use Airflow's own schedule: DAG(schedule=...).",
    "params": "This is a template: give it as template= to TemplateUpOperator.",
    "builds": "This is a template: give it as template= to TemplateUpOperator.",
    "parent": "This is a template: give it as template= to TemplateUpOperator.",
}


def load_spec(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    overrides: Mapping[str, Any] | None = None,
    search_path: Sequence[Path] = (),
    base: Path | None = None,
    kind: str | None = None,
) -> JobSpec:
    """Read a job spec from a file or mapping. `overrides` replace its fields, one by one; null resets one.

    A relative path is looked for in `base`, in each folder of `search_path`, in the current directory.
    Raises SpecError with all problems of the spec and the overrides; with `kind` ("ssh") also for what a pool of that
    kind cannot honour.
    """
    problems: Problems = []
    layers = [
        read_source(source, problems, label="<job_spec>", base=base, search_path=search_path),
        read_source(overrides or {}, problems, label="<overrides>"),
    ]
    spec = read_spec([layer for layer in layers if layer is not None], problems) if layers[0] else None
    if spec is not None and kind is not None:
        problems += unsupported(spec, kind=kind)
    if problems or spec is None:
        raise SpecError(in_order(problems))
    return spec


def read_spec(layers: Sequence[Item], problems: Problems) -> JobSpec:
    """The spec of mappings over each other, the last one on top. Appends to `problems`; then the result is void."""
    warnings: list[str] = []
    merged: dict[str, Item] = {}
    with_credentials = []
    for written in layers:
        before = len(warnings)
        layer = without_credentials(written, warnings)
        if len(warnings) > before and layer.document.path is not None:
            with_credentials.append(layer.document.path)
        merged.update(_current(layer, problems, warnings))
    dl_jobs.translate(merged, problems, warnings)
    given = {name: item.where for name, item in merged.items() if item.value is not None}
    of_ddl = ddl.is_ddl(layers[0])
    if of_ddl:
        merged.update(ddl.defaults(layers[0].child(ddl.KEY), merged))
    attributes = read_fields(JobSpec, merged, problems, what="a job spec", hints=ELSEWHERE)
    check_rules(attributes, merged, layers[0], problems, warnings)
    return JobSpec(
        **attributes,
        warnings=tuple(warnings),
        given=given,
        of_ddl=of_ddl,
        with_credentials=tuple(with_credentials),
    )


def _current(layer: Item, problems: Problems, warnings: list[str]) -> dict[str, Item]:
    """The fields of one mapping by their present names."""
    found: dict[str, Item] = {}
    for name, item in ddl.translated(layer, problems):
        if name in GPU_PAIR:
            continue
        if name not in OLDER:
            found[name] = item
        elif OLDER[name] in layer.value:
            hint = f"Keep {OLDER[name]!r}, the present spelling."
            problems.append(item.problem(f"{name!r} and {OLDER[name]!r} are the same field.", hint))
        else:
            found[OLDER[name]] = item
            warnings.append(f"{item.where}: {name} is an older spelling of {OLDER[name]}.")
    if any(name in layer.value for name in GPU_PAIR):
        _add_gpu_pair(layer, found, problems, warnings)
    return found


def _add_gpu_pair(layer: Item, found: dict[str, Item], problems: Problems, warnings: list[str]) -> None:
    """gpu_type: A100 with gpu_count: 2 -> gpu_types: [{type: A100, count: 2}]."""
    given = [layer.child(name) for name in GPU_PAIR if name in layer.value]
    kind, count = (layer.value.get(name) for name in GPU_PAIR)
    if "gpu_types" in layer.value:
        problems.append(given[0].problem("gpu_type and gpu_count are an older spelling of 'gpu_types'.", "Keep one."))
    elif kind is None and as_number(count, whole=True) != 0 and count is not None:
        problems.append(given[0].problem("gpu_count without gpu_type.", "Write gpu_types: [{type: ..., count: ...}]."))
    elif kind is not None:
        entry = {"type": kind, **({} if count is None else {"count": count})}
        found["gpu_types"] = given[0].holding([entry])
        warnings.append(f"{given[0].where}: gpu_type and gpu_count are an older spelling of gpu_types.")
