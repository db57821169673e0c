"""Fetch what jobs made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from airflow_jobdeploy.operators import arguments
from airflow_jobdeploy.operators.base import JobDeployOperator


class ArtifactDownloadOperator(JobDeployOperator):
    """Download the output files of jobs, as one stream each, verified; what is there already is left alone.

    job: a handle, a job id (with worker_pool=), or a list; with a list `dest` gets a folder per job id.
    dest: a folder on this machine. patterns: which files ("**": all; "*.json", "checkpoints/**").

    Returns {"dest", "files": [{"path", "size", "sha256"}], "bytes", "skipped"}, or a list of these.
    """

    template_fields: Sequence[str] = ("job", "dest", "patterns", "worker_pool")
    strangers: ClassVar[Mapping[str, str]] = {"template": arguments.UP, "job_spec": arguments.RUN}

    def __init__(
        self,
        *,
        job: Any = None,
        dest: str | Path | None = None,
        patterns: str | Sequence[str] = ("**",),
        worker_pool: str | None = None,
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

    def execute(self, context: Any) -> Any:
        """Download from each job in turn."""
        from airflow_jobdeploy.hooks.jobdeploy import fetch, located

        jobs = self._read_jobs(self.job, self.worker_pool)
        dest = Path(str(self.dest)).expanduser().absolute()
        patterns = (self.patterns,) if isinstance(self.patterns, str) else tuple(self.patterns)
        reports = []
        for handle in jobs.handles:
            with self._hook(handle.worker_pool).get_conn() as workers:
                found = located(workers, handle)
                target = dest / found.job_id if jobs.many else dest
                self.log.info("Downloading %s of job %s to %s", ", ".join(patterns), found.job_id, target)
                reports.append(fetch(workers, found, target, patterns, self.log.info))
        return reports if jobs.many else reports[0]
