"""Templates: bring one up, take it down, run one of its other builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_jobdeploy.errors import TemplateError
from airflow_jobdeploy.operators import arguments
from airflow_jobdeploy.operators.waiting import INTENT, SubmittingOperator
from airflow_jobdeploy.triggers.goals import BUILT

if TYPE_CHECKING:
    from airflow_jobdeploy.core.status import JobHandle
    from airflow_jobdeploy.service import Work, Workers

_UP_EXAMPLE = 'template="example_templates/local.yaml", or a mapping'
_JOB_EXAMPLE = "job=up.output, a job id, or a list of handles"


class TemplateUpOperator(SubmittingOperator):
    """Bring a template up: run its `up` build on a worker, and wait for it and for what it leaves running.

    template: a file (looked up beside the DAG's file, in template_searchpath, [jobdeploy] search_path, the
        current directory) or a mapping. Its Jinja is the template's own; Airflow renders nothing in it.
    template_params: values for the template's params. None: the run's params of these names.
    project_dir: a folder here, sent to the worker; or workdir: a folder there. Not both.
    worker_pool: "local", or the id of a connection of type jobdeploy, ssh or docker.
    wait_for_completion: False returns when the builds of `up` have ended, with what they left running.

    Returns the job's handle. Raises TemplateError with all problems before anything starts; JobFailed,
    JobCancelled, JobTimedOut, WorkerLost by how the job ended.
    """

    template_fields: Sequence[str] = ("template", "template_params", "project_dir", "workdir", "worker_pool")
    template_fields_renderers: ClassVar[dict[str, str]] = {"template_params": "json"}
    early_goal = BUILT
    strangers: ClassVar[Mapping[str, str]] = {
        "job_spec": arguments.RUN,
        "overrides": arguments.RUN,
        "job": "TemplateDownOperator(job=...)",
    }

    def __init__(
        self,
        *,
        template: str | Path | Mapping[str, Any] | None = None,
        template_params: Mapping[str, Any] | None = None,
        project_dir: str | Path | None = None,
        workdir: str | None = None,
        worker_pool: str = "local",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        arguments.required("TemplateUpOperator", "template", template, _UP_EXAMPLE)
        arguments.check_template("TemplateUpOperator", template)
        arguments.check_one_place("TemplateUpOperator", project_dir, workdir)
        self.template = template
        self.template_params = template_params
        self.project_dir = project_dir
        self.workdir = workdir
        self.worker_pool = worker_pool

    def execute(self, context: Any) -> dict[str, Any]:
        """Read and check everything, then submit and wait."""
        errand = self.errand(context)
        work = self.work(context, returning=errand.is_returning)
        with errand.at_work(self.worker_pool) as workers:
            return errand.run(workers, work)

    def work(self, context: Mapping[str, Any], *, returning: bool = False) -> Work:
        """The template, read, rendered and checked."""
        arguments.check_one_place(type(self).__name__, self.project_dir, self.workdir)
        return self._hook(self.worker_pool).prepare_up(
            self.template,  # type: ignore[arg-type]  # the constructor saw to it
            self._given(context),
            project_dir=self.project_dir,
            workdir=self.workdir,
            key=self._key(context),
            owner="task",
            where=self._folders(),
            user=getattr(context["dag_run"], "triggering_user_name", None) or "",
            team=self._team(context),
            dag_bundle=self._dag_bundle(context),
            returning=returning,
        )

    def _given(self, context: Mapping[str, Any]) -> Mapping[str, Any]:
        """The values for the template's params: those given, else the run's params of these names."""
        if self.template_params is not None:
            return self.template_params
        hook = self._hook(self.worker_pool)
        known = hook.template_params(self.template, where=self._folders())  # type: ignore[arg-type]
        run = context["params"]
        return {name: run[name] for name in known if name in run and run[name] is not None}


class TemplateBuildOperator(SubmittingOperator):
    """Run another build of a template, as it was rendered at `up`, on the same worker, in the same place.

    build: the build's name ("purge", "watch", ...). job: what `up` returned, a job id (with worker_pool=), or
    a list; a list is worked off in order, in this task. Returns the handle of the build's own job, or a list.
    """

    template_fields: Sequence[str] = ("job", "build", "worker_pool")
    strangers: ClassVar[Mapping[str, str]] = {
        "template": arguments.UP,
        "template_params": arguments.UP,
        "project_dir": arguments.UP,
        "job_spec": arguments.RUN,
        "overrides": arguments.RUN,
    }
    build: str

    def __init__(
        self, *, job: Any = None, build: str | None = None, worker_pool: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        arguments.required(type(self).__name__, "job", job, _JOB_EXAMPLE)
        arguments.required(type(self).__name__, "build", build, 'build="purge"')
        arguments.check_job(type(self).__name__, job)
        self.job = job
        self.build = build  # type: ignore[assignment]  # required() saw to it
        self.worker_pool = worker_pool

    def execute(self, context: Any) -> Any:
        """Run the build for each job in turn."""
        jobs = self._read_jobs(self.job, self.worker_pool)
        done = [self._one(context, handle, alone=not jobs.many) for handle in jobs.handles]
        return done if jobs.many else done[0]

    def _one(self, context: Any, handle: JobHandle, *, alone: bool) -> dict[str, Any] | None:
        from airflow_jobdeploy.service import prepare_build

        errand = self.errand(context, intent_key=INTENT if alone else f"{INTENT}_{handle.job_id}")
        with errand.at_work(handle.worker_pool) as workers:
            handle = self._located(workers, handle)
            if (why := self._needless(workers, handle)) is not None:
                self.log.info("%s", why)
                return None
            work = prepare_build(self.build, handle, pool=workers.pool, key=self._key(context), owner="task")
            return errand.run(workers, work, may_defer=alone)

    def _needless(self, workers: Workers, handle: JobHandle) -> str | None:
        """Why there is nothing to do, or None."""
        return None

    def _located(self, workers: Workers, handle: JobHandle) -> JobHandle:
        from airflow_jobdeploy.hooks.jobdeploy import located

        return located(workers, handle)


class TemplateDownOperator(TemplateBuildOperator):
    """Take down what `up` brought up: run its `down` build, then end what still lives of the `up` job.

    Taking down twice, or what never came up, succeeds and says so. `up >> down.as_teardown()` runs it also
    when `up` has failed; with `as_teardown(setups=up)` Airflow leaves it out then.
    """

    template_fields: Sequence[str] = ("job", "worker_pool")

    def __init__(self, *, job: Any = None, worker_pool: str | None = None, **kwargs: Any) -> None:
        if "build" in kwargs:
            raise TypeError("TemplateDownOperator takes no build=: use TemplateBuildOperator(build=..., job=...)")
        super().__init__(job=job, build="down", worker_pool=worker_pool, **kwargs)

    def execute(self, context: Any) -> Any:
        """Run `down` for each job in turn."""
        if self.job is None:
            self.log.info("Nothing to take down: `up` did not get as far as to claim a place for itself.")
            return None
        return super().execute(context)

    def _needless(self, workers: Workers, handle: JobHandle) -> str | None:
        if not handle.resource:
            raise TemplateError([arguments.not_a_template_job(handle.job_id)])
        record = workers.backend(handle.worker, handle.machine).resource(handle.resource)
        if record is None:
            return f"Nothing to take down: worker {handle.worker} has no resource {handle.resource}."
        if record.get("stopped"):
            return f"Resource {handle.resource} was taken down before; there is nothing left to do."
        return None
