"""Fetch what jobs made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_jobdeploy.operators import arguments
from airflow_jobdeploy.operators.base import JobDeployOperator

if TYPE_CHECKING:
    from airflow_jobdeploy.core.status import JobHandle
    from airflow_jobdeploy.service import Workers


class ArtifactDownloadOperator(JobDeployOperator):
    """Download the output files of jobs, as one stream each, verified; what is there already is left alone.

    job: a handle, a job id (with worker_pool=), or a list; with a list `dest` gets a folder per job id.
    dest: a folder on this machine, or a URL that ObjectStoragePath takes ("s3://connection@bucket/prefix").
    patterns: which files ("**": all; "*.json", "checkpoints/**").
    partial: also of a job that still runs, what is there now. Of one that has ended, however, it is there anyway.
    direct: from the worker straight to the object store, by URLs signed here. None: where that can be; True: or an
        error; False: never.

    The events of assets among its outlets say where the files are ("dest" in their extra).

    A connection that breaks is made again, and the download goes on where it was cut. Returns {"dest", "files":
    [{"path", "size", "sha256"}], "bytes", "skipped"}, or a list of these. Raises StagingError when something is wrong
    with the files or with dest, WorkerUnreachable when the worker is silent for 10 minutes.
    """

    template_fields: Sequence[str] = ("job", "dest", "patterns", "worker_pool")
    _told_to_end = False
    _workers: Workers | None = None
    #: What has been fetched from, and where to.
    _fetched: tuple[JobHandle, ...] = ()
    _places: tuple[str, ...] = ()
    strangers: ClassVar[Mapping[str, str]] = {"template": arguments.UP, "job_spec": arguments.RUN}

    def __init__(
        self,
        *,
        job: Any = None,
        dest: str | Path | Any = None,
        patterns: str | Sequence[str] = ("**",),
        worker_pool: str | None = None,
        partial: bool = False,
        direct: bool | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        arguments.required("ArtifactDownloadOperator", "job", job, "job=up.output, a job id, or a list of handles")
        arguments.required("ArtifactDownloadOperator", "dest", dest, 'dest="models/{{ run_id }}"')
        arguments.check_job("ArtifactDownloadOperator", job)
        self.job = job
        self.dest = dest
        self.patterns = patterns
        self.worker_pool = worker_pool
        self.wants_partial = partial  # `partial` itself is a method of every operator
        self.direct = direct

    def execute(self, context: Any) -> Any:
        """Download from each job in turn."""
        from airflow_jobdeploy.hooks.destinations import below
        from airflow_jobdeploy.hooks.jobdeploy import fetch, located
        from airflow_jobdeploy.service import Wanted

        jobs = self._read_jobs(self.job, self.worker_pool)
        dest = str(self.dest)
        patterns = (self.patterns,) if isinstance(self.patterns, str) else tuple(self.patterns)
        wanted = Wanted(patterns=patterns, partial=self.wants_partial, direct=self.direct)
        reports: list[dict[str, Any]] = []
        for handle in jobs.handles:
            with self._hook(handle.worker_pool).get_conn() as workers:
                self._workers = workers
                found = located(workers, handle)
                target = below(dest, found.job_id) if jobs.many else dest
                self.log.info("Downloading %s of job %s to %s", ", ".join(patterns), found.job_id, target)
                told = fetch(workers, found, target, wanted, self.log.info, interrupted=lambda: self._told_to_end)
                reports.append(told)
                self._fetched += (found,)
                self._places += (told["dest"],)
        self._tell_assets(context, reports)
        return reports if jobs.many else reports[0]

    def _tell_assets(self, context: Any, reports: Sequence[dict[str, Any]]) -> None:
        """The events of this task's assets say where the files are: of several jobs, of each."""
        brief = [{key: report[key] for key in ("dest", "file_count", "bytes")} for report in reports]
        for outlet in self.outlets:
            if hasattr(outlet, "uri"):
                told = brief[0] if len(brief) == 1 else {"downloads": brief}
                context["outlet_events"][outlet].extra.update(told)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """For the OpenLineage provider: where the files went, and of which job (lineage.py)."""
        from airflow_jobdeploy.operators import lineage

        handle = self._fetched[0] if len(self._fetched) == 1 else None
        return lineage.of_job(handle, {}, outputs=[lineage.dataset(place) for place in self._places])

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """The same of a task that failed, of what was fetched by then."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def on_kill(self) -> None:
        """The task is to end: whatever waits for a worker looks around. Called in a signal handler."""
        self._told_to_end = True
        if self._workers is not None:
            self._workers.wake()
