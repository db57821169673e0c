"""Job specs: run one; and stop any job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.operators import arguments
from airflow_jobdeploy.operators.base import JobDeployOperator
from airflow_jobdeploy.operators.waiting import SubmittingOperator
from airflow_jobdeploy.triggers.goals import RUNNING

if TYPE_CHECKING:
    from airflow_jobdeploy.core.status import JobHandle
    from airflow_jobdeploy.service import Work


class JobRunOperator(SubmittingOperator):
    """Run a job spec on a worker, and wait for it.

    job_spec: a file (looked up beside the DAG's file, in template_searchpath, [jobdeploy] search_path, the
        current directory) or a mapping; a mapping is rendered by Airflow, a file is not.
    overrides: a mapping laid over the spec, field by field.
    project_dir, workdir, worker_pool: as the spec's fields of these names, and stronger. Without a pool: local.
    wait_for_completion: False returns when the job is RUNNING.

    Returns the job's handle; `result` in it is what the job wrote to its result file. Raises SpecError with
    all problems before anything starts; JobFailed, JobCancelled, JobTimedOut, WorkerLost by how the job ended.
    """

    template_fields: Sequence[str] = ("job_spec", "overrides", "project_dir", "workdir", "worker_pool")
    template_fields_renderers: ClassVar[dict[str, str]] = {"job_spec": "json", "overrides": "json"}
    early_goal = RUNNING
    strangers: ClassVar[Mapping[str, str]] = {
        "template": arguments.UP,
        "template_params": arguments.UP,
        "job": "JobStopOperator(job=...)",
    }

    def __init__(
        self,
        *,
        job_spec: str | Path | Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        project_dir: str | Path | None = None,
        workdir: str | None = None,
        worker_pool: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        arguments.required("JobRunOperator", "job_spec", job_spec, 'job_spec="jobs/train.yaml", or a mapping')
        arguments.check_job_spec("JobRunOperator", job_spec)
        arguments.check_one_place("JobRunOperator", project_dir, workdir)
        self.job_spec = job_spec
        self.overrides = overrides
        self.project_dir = project_dir
        self.workdir = workdir
        self.worker_pool = worker_pool

    def execute(self, context: Any) -> dict[str, Any]:
        """Read and check everything, then submit and wait."""
        errand = self.errand(context)
        work = self.work(context, returning=errand.is_returning)
        with errand.at_work(self._pool()) as workers:
            return errand.run(workers, work)

    def work(self, context: Mapping[str, Any], *, returning: bool = False) -> Work:
        """The job spec, read, laid over and checked."""
        arguments.check_one_place(type(self).__name__, self.project_dir, self.workdir)
        return self._hook(self._pool()).prepare_run(
            self.job_spec,  # type: ignore[arg-type]  # the constructor saw to it
            self.overrides,
            project_dir=self.project_dir,
            workdir=self.workdir,
            key=self._key(context),
            owner="task",
            where=self._folders(),
            user=self.owner,
            team=self._team(context),
            dag_bundle=self._dag_bundle(context),
            returning=returning,
        )

    def datasets(self) -> list[tuple[str, str]]:
        """The spec's dataset."""
        from airflow_jobdeploy.hooks.files import load_job
        from airflow_jobdeploy.operators import lineage

        folders = self._folders()
        spec, beside = load_job(self.job_spec, self.overrides, folders)  # type: ignore[arg-type]
        if not spec.dataset_location:
            return []
        pool = self.worker_pool or spec.worker_pool or "local"
        return [lineage.dataset(spec.dataset_location, pool=pool, where=(*beside, *folders))]

    def _pool(self) -> str:
        """The argument, else the spec's own."""
        from airflow_jobdeploy.hooks.files import load_job

        if self.worker_pool:
            return self.worker_pool
        spec, _ = load_job(self.job_spec, self.overrides, self._folders())  # type: ignore[arg-type]
        return spec.worker_pool or "local"


class JobStopOperator(JobDeployOperator):
    """Stop jobs, and see them ended: signal, grace, KILL, until no process of theirs is left.

    job: a handle, a job id (with worker_pool=), or a list. timeout_s: seconds to wait for the end. Stopping
    what has ended changes nothing. Returns the handle with the job's end, or a list of them.
    """

    template_fields: Sequence[str] = ("job", "worker_pool")
    strangers: ClassVar[Mapping[str, str]] = {
        "template": arguments.UP,
        "job_spec": arguments.RUN,
        "build": "TemplateBuildOperator(build=..., job=...)",
    }

    def __init__(
        self,
        *,
        job: Any = None,
        worker_pool: str | None = None,
        reason: str = "",
        timeout_s: float = 60.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        arguments.required("JobStopOperator", "job", job, "job=run.output, a job id, or a list of handles")
        arguments.check_job("JobStopOperator", job)
        self.job = job
        self.worker_pool = worker_pool
        self.reason = reason
        self.timeout_s = timeout_s

    def execute(self, context: Any) -> Any:
        """Order all ends first, then wait for each."""
        if self.job is None:
            self.log.info("Nothing to stop: the task that was to start the job did not get that far.")
            return None
        jobs = self._read_jobs(self.job, self.worker_pool)
        why = self.reason or f"stopped by task {context['ti'].dag_id}.{context['ti'].task_id}"
        if jobs.many:
            for handle in jobs.handles:
                self._stopped(handle, why, wait_s=0)
        ended = [self._stopped(handle, why, wait_s=self.timeout_s) for handle in jobs.handles]
        return ended if jobs.many else ended[0]

    def _stopped(self, handle: JobHandle, why: str, *, wait_s: float) -> dict[str, Any]:
        from airflow_jobdeploy.core.policy import is_over
        from airflow_jobdeploy.hooks.jobdeploy import located
        from airflow_jobdeploy.service import stop

        with self._hook(handle.worker_pool).get_conn() as workers:
            handle = located(workers, handle)
            state = stop(workers, handle, reason=why, by="Airflow", wait_s=wait_s)
        if wait_s and not is_over(state):
            raise JobDeployError(
                f"job {handle.job_id} was told to stop and is still {state.status} after {wait_s:g} s; "
                "its worker goes on ending it"
            )
        if wait_s:
            self.log.info("Job %s: %s", handle.job_id, state.message)
        return handle.with_state(state).to_dict()
