"""Arguments given to the wrong operator: TypeErrors that name the right one.

These checks run when a DAG is parsed. They look at shapes only: nothing is opened, nothing rendered.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.errors import Problem

UP = "TemplateUpOperator(template=...)"
RUN = "JobRunOperator(job_spec=...)"

_TEMPLATE_KEYS = {"builds", "binds", "parent", "values"}
_SPEC_KEYS = {"command", "entry_script", "job_type", "docker_image", "args"}
_HANDLE_KEYS = {"uid", "job_id", "worker_pool"}
_FILE_ENDINGS = (".yaml", ".yml", ".json")


def refuse_strangers(operator: str, given: Mapping[str, Any], strangers: Mapping[str, str]) -> None:
    """TypeError when `given` holds an argument of a sibling operator."""
    for name in given:
        if name in strangers:
            raise TypeError(f"{operator} takes no {name}=: use {strangers[name]}")


def required(operator: str, name: str, value: Any, example: str) -> None:
    """TypeError when an argument is missing."""
    if value is None:
        raise TypeError(f"{operator} needs {name}=: {example}")


def check_template(operator: str, value: Any) -> None:
    """TypeError when `template=` is plainly something else: a handle or a job spec."""
    if not isinstance(value, Mapping):
        return
    if _is_handle(value):
        raise TypeError(f"{operator}: template= got a job handle; to act on a job give it as job= to {_JOB_TAKERS}")
    if looks_like_spec(value):
        raise TypeError(f"{operator}: template= got a job spec; use {RUN}")


def check_job_spec(operator: str, value: Any) -> None:
    """TypeError when `job_spec=` is plainly something else: a handle or a template."""
    if not isinstance(value, Mapping):
        return
    if _is_handle(value):
        raise TypeError(f"{operator}: job_spec= got a job handle; to act on a job give it as job= to {_JOB_TAKERS}")
    if looks_like_template(value):
        raise TypeError(f"{operator}: job_spec= got a template; use {UP}")


def check_job(operator: str, value: Any) -> None:
    """TypeError when `job=` is plainly a file, a template or a job spec."""
    wrong = (
        f"{operator}: job= takes a handle (the output of the task that started the job), a job id or a list of handles"
    )
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.lower().endswith(_FILE_ENDINGS)):
        raise TypeError(f"{wrong}, not the file {os.fspath(value)!r}; to run a file use {UP} or {RUN}")
    if isinstance(value, Mapping) and not _is_handle(value):
        if looks_like_template(value):
            raise TypeError(f"{wrong}, not a template; use {UP}")
        if looks_like_spec(value):
            raise TypeError(f"{wrong}, not a job spec; use {RUN}")


def looks_like_template(value: Mapping[str, Any]) -> bool:
    """By its keys."""
    return bool(_TEMPLATE_KEYS & set(value)) or {"up", "down"} <= set(value)


def looks_like_spec(value: Mapping[str, Any]) -> bool:
    """By its keys."""
    return bool(_SPEC_KEYS & set(value)) and not looks_like_template(value)


def _is_handle(value: Mapping[str, Any]) -> bool:
    return set(value) >= _HANDLE_KEYS


_JOB_TAKERS = (
    "TemplateDownOperator, TemplateBuildOperator, JobStopOperator, JobStatusSensor or ArtifactDownloadOperator"
)


def check_one_place(operator: str, project_dir: Any, workdir: Any) -> None:
    """TypeError when both a folder here and a folder there are given."""
    if project_dir and workdir:
        raise TypeError(f"{operator}: give project_dir= (a folder here, sent to the worker) or workdir= (one there)")


def not_a_template_job(job_id: str) -> Problem:
    """`down` of what has none."""
    return Problem("job", "", f"job {job_id} is of a job spec: there is nothing to take down.", "Use JobStopOperator.")
