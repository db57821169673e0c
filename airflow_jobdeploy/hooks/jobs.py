"""What people give as `job=`: a handle, a job id, or a list of them."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.errors import JobDeployError

_EXPECTED = "expected a handle (the output of the task that started the job), a job id, or a list of handles"


@dataclass(frozen=True)
class Jobs:
    """The jobs that `job=` names, in order. `many`: a list was given, so answers are lists, too."""

    handles: tuple[JobHandle, ...]
    many: bool


def read_jobs(value: Any, *, worker_pool: str | None = None, argument: str = "job") -> Jobs:
    """Read `job=`; a bare id becomes a handle without a worker, in `worker_pool`. JobDeployError when it is neither."""
    value = _from_text(value)
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        handles = tuple(_handle(item, worker_pool, f"{argument}[{index}]") for index, item in enumerate(value))
        return Jobs(handles, many=True)
    return Jobs((_handle(value, worker_pool, argument),), many=False)


def _handle(value: Any, worker_pool: str | None, where: str) -> JobHandle:
    value = _from_text(value)
    if isinstance(value, JobHandle):
        return value
    if isinstance(value, Mapping):
        try:
            return JobHandle.from_dict(value)
        except ValueError as error:
            raise JobDeployError(f"{where}=: {error}; {_EXPECTED}") from error
    if isinstance(value, str) and value.strip():
        return _bare(value.strip(), worker_pool, where)
    raise JobDeployError(f"{where}= is {value!r}; {_EXPECTED}. Did the task that was to start the job get that far?")


def _bare(job_id: str, worker_pool: str | None, where: str) -> JobHandle:
    if not worker_pool:
        raise JobDeployError(f"{where}={job_id!r} is a bare job id: say in which pool it is, worker_pool=...")
    return JobHandle(uid="", job_id=job_id, attempt=1, key="", worker_pool=worker_pool, worker="")


def _from_text(value: Any) -> Any:
    """Jinja turns handles into text: `"{{ ti.xcom_pull('up') }}"` gives a Python literal, `| tojson` JSON."""
    if not isinstance(value, str) or value.strip()[:1] not in ("{", "["):
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value.strip())
        except (ValueError, SyntaxError):
            continue
    return value
