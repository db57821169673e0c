"""What OpenLineage is told of a task: datasets in and out, the code by its commit, the job and its worker.

Called by the provider apache-airflow-providers-openlineage where it is installed; nothing of it is imported before.
Nobody is asked for this: all is known from the task's run in this process.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from airflow_jobdeploy.core.status import JobHandle

#: The name of our run facet.
FACET = "jobdeploy"
_STORAGE = "storage:"


def of_job(
    handle: JobHandle | None,
    code: Mapping[str, Any],
    *,
    inputs: Iterable[tuple[str, str]] = (),
    outputs: Iterable[tuple[str, str]] = (),
) -> Any:
    """An OperatorLineage. `code`: its origin (packing.origin); `inputs`, `outputs`: (namespace, name) of datasets."""
    from airflow.providers.openlineage.extractors import OperatorLineage
    from openlineage.client.event_v2 import Dataset

    return OperatorLineage(
        inputs=[Dataset(namespace=namespace, name=name) for namespace, name in inputs],
        outputs=[Dataset(namespace=namespace, name=name) for namespace, name in outputs],
        run_facets={} if handle is None else {FACET: _job_facet(handle, code)},
        job_facets=_source_facet(code),
    )


def dataset(location: str, *, pool: str = "local", where: Iterable[Path] = ()) -> tuple[str, str]:
    """(namespace, name) of a place, as OpenLineage's naming has it (https://openlineage.io/docs/spec/naming).

    `where`: folders in which a relative path may lie; `pool`: whose storage a `storage:` is of.
    """
    if location.startswith(_STORAGE):
        return f"jobdeploy://{pool}", location
    parts = urlsplit(location)
    if parts.scheme in ("file", "local"):
        return "file", parts.path
    if parts.scheme and parts.netloc:
        bucket = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{bucket}", parts.path.strip("/") or "/"
    path = Path(location).expanduser()
    candidates = [folder / path for folder in where] or [path]
    return "file", str(next((found for found in candidates if found.exists()), candidates[0]).absolute())


def _source_facet(code: Mapping[str, Any]) -> dict[str, Any]:
    if not code.get("commit"):
        return {}
    from openlineage.client.facet_v2 import source_code_location_job

    url = code.get("url") or ""
    facet = source_code_location_job.SourceCodeLocationJobFacet(
        type="git",
        url=code.get("link") or url or f"git:{code['commit']}",
        repoUrl=url or None,
        version=code["commit"],
        branch=code.get("branch") or None,
    )
    return {"sourceCodeLocation": facet}


def _job_facet(handle: JobHandle, code: Mapping[str, Any]) -> Any:
    return _facet_class()(
        jobId=handle.job_id,
        attempt=handle.attempt,
        workerPool=handle.worker_pool,
        worker=handle.worker,
        status=handle.status,
        reason=handle.reason,
        exitCode=handle.exit_code,
        uncommittedChanges=bool(code.get("dirty")),
    )


@functools.cache
def _facet_class() -> Any:
    import attr
    from openlineage.client.facet_v2 import RunFacet

    @attr.define
    class JobDeployRunFacet(RunFacet):
        jobId: str  # noqa: N815 - as facets have it
        attempt: int
        workerPool: str  # noqa: N815
        worker: str
        status: str
        reason: str
        exitCode: int | None  # noqa: N815
        uncommittedChanges: bool  # noqa: N815

    return JobDeployRunFacet
