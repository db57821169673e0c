"""The hook: a worker pool, by name, for code that is no operator.

Inside a task the operators are the better choice: they reattach after a crash. What the hook starts
belongs to nobody but its caller: it ends by its own end, its `timeout`, `stop`, or a `down`.
"""

from __future__ import annotations

import getpass
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.core.words import counted, size
from airflow_jobdeploy.errors import JobDeployError, TemplateError
from airflow_jobdeploy.hooks import files, projects
from airflow_jobdeploy.hooks.jobs import read_jobs
from airflow_jobdeploy.hooks.references import resolve_secret

if TYPE_CHECKING:
    from airflow_jobdeploy.core.pool import WorkerPool
    from airflow_jobdeploy.hooks.apolo.jobs import Jobs
    from airflow_jobdeploy.hooks.apolo.parsing import Parser
    from airflow_jobdeploy.service import Wanted, Work, Workers

Job = Mapping[str, Any] | str


class JobDeployHook(BaseHook):
    """Jobs of one worker pool.

    `worker_pool`: "local", or the id of a connection of type jobdeploy, ssh or docker. Methods that take `job`
    accept a handle or a job id. All raise errors below `JobDeployError`.
    """

    conn_name_attr = "worker_pool"
    default_conn_name = "local"
    conn_type = "jobdeploy"
    hook_name = "Job Deploy worker pool"

    def __init__(self, worker_pool: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.worker_pool = worker_pool

    @cached_property
    def pool(self) -> WorkerPool:
        """The pool as its connection describes it. PoolError says all that is wrong with it."""
        from airflow_jobdeploy.hooks.pools import worker_pool

        return worker_pool(self.worker_pool)

    def get_conn(self) -> Workers:
        """The pool's workers, connected when first asked; a context manager."""
        from airflow_jobdeploy.hooks.connect import backend
        from airflow_jobdeploy.hooks.given_up import given_up
        from airflow_jobdeploy.service import Workers

        return Workers(self.pool, lambda worker: backend(self.pool, worker), given_up=given_up)

    @cached_property
    def jobs(self) -> Jobs:
        """The pool's jobs as Apolo's SDK has them (hooks.apolo): start, run, status, list, kill, bump_life_span."""
        from airflow_jobdeploy.hooks.apolo.jobs import Jobs

        return Jobs(self)

    @property
    def parse(self) -> Parser:
        """Apolo's texts for images and volumes, read."""
        from airflow_jobdeploy.hooks.apolo.parsing import Parser

        return Parser()

    # -- the Test button ---------------------------------------------------------------------------------------

    def test_connection(self) -> tuple[bool, str]:
        """Ask every worker who it is: (do all answer?, a line for each)."""
        from airflow_jobdeploy.hooks.greeting import greeted

        try:
            with self.get_conn() as workers:
                lines = [greeted(workers, worker.name) for worker in self.pool.workers]
        except JobDeployError as error:
            return False, str(error)
        return all(well for well, _ in lines), "; ".join(line for _, line in lines)

    # -- starting ----------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        template: str | Path | Mapping[str, Any] | None = None,
        job_spec: str | Path | Mapping[str, Any] | None = None,
        template_params: Mapping[str, Any] | None = None,
        overrides: Mapping[str, Any] | None = None,
        project_dir: str | Path | None = None,
        workdir: str | None = None,
    ) -> dict[str, Any]:
        """Start a template's `up` or a job spec; the handle of the new job. Does not wait for it."""
        if (template is None) == (job_spec is None):
            raise TypeError("start() takes either template= or job_spec=")
        if template is not None:
            work = self.prepare_up(template, template_params or {}, project_dir=project_dir, workdir=workdir)
        else:
            assert job_spec is not None
            work = self.prepare_run(job_spec, overrides, project_dir=project_dir, workdir=workdir)
        return self._submitted(work)

    def build(self, name: str, job: Job) -> dict[str, Any]:
        """Run a build (`down`, `purge`, ...) of the resource that an `up` made; the handle of the build's own job."""
        from airflow_jobdeploy.service import prepare_build

        with self.get_conn() as workers:
            handle = self._located(workers, job)
        return self._submitted(prepare_build(name, handle, pool=self.pool, key=JobKey(), owner="none"))

    def _submitted(self, work: Work) -> dict[str, Any]:
        from airflow_jobdeploy.service import submit

        for warning in work.warnings:
            self.log.warning("%s", warning)
        with self.get_conn() as workers:
            done = submit(work, workers, intents=Forgetful(), epoch={}, say=self.log.info)
        return done.handle.to_dict()

    def prepare_up(
        self,
        template: str | Path | Mapping[str, Any],
        given: Mapping[str, Any],
        *,
        project_dir: str | Path | None = None,
        workdir: str | None = None,
        key: JobKey | None = None,
        owner: str = "none",
        where: Iterable[Path] | None = None,
        user: str = "",
        team: str = "",
        dag_bundle: Mapping[str, str] | None = None,
        returning: bool = False,
    ) -> Work:
        """A template read, rendered and checked; nothing is started. `where`: folders to look files up in.

        `user`, `team` (of the DAG, in Airflow): whom quotas count. `dag_bundle`: of hooks.runtime. `returning`: an
        earlier submission is known, which says what code goes.
        """
        from airflow_jobdeploy.core.template import load_template
        from airflow_jobdeploy.service import Payer, prepare_up

        folders = tuple(where) if where is not None else files.folders()
        source = files.source(template, folders, "template", TemplateError)
        folder = projects.project(project_dir, folders, TemplateError)
        return prepare_up(
            load_template(source, search_path=folders),
            given,
            pool=self.pool,
            project_dir=folder,
            workdir=workdir or None,
            key=key or JobKey(),
            owner=owner,
            resolve_secret=resolve_secret,
            payer=Payer(user=user or getpass.getuser(), team=team),
            commit=files.commit_of(folder) or (dag_bundle or {}).get("version", ""),
            given_origin=projects.origin_of(folder, dag_bundle or {}),
            about=projects.about(dag_bundle or {}, user),
            returning=returning,
        )

    def prepare_run(
        self,
        job_spec: str | Path | Mapping[str, Any],
        overrides: Mapping[str, Any] | None = None,
        *,
        project_dir: str | Path | None = None,
        workdir: str | None = None,
        key: JobKey | None = None,
        owner: str = "none",
        where: Iterable[Path] | None = None,
        user: str = "",
        team: str = "",
        dag_bundle: Mapping[str, str] | None = None,
        returning: bool = False,
    ) -> Work:
        """A job spec read and checked; nothing is started. Arguments as of `prepare_up`."""
        from airflow_jobdeploy.hooks.datasets import dataset_of
        from airflow_jobdeploy.service import Payer, prepare_run

        folders = tuple(where) if where is not None else files.folders()
        spec, beside = files.load_job(job_spec, overrides, folders)
        has_place = project_dir or spec.project_dir or workdir or spec.workdir or spec.repo
        if spec.of_ddl and not has_place and beside:
            project_dir = beside[0]  # a task.yaml of DDL's belongs to the project that it lies in
        place = projects.placed(spec, project_dir, workdir, (*beside, *folders))
        return prepare_run(
            place.spec,
            pool=self.pool,
            project_dir=place.project_dir,
            workdir=place.workdir,
            dataset=dataset_of(place.spec, (*beside, *folders), self.log.info),
            key=key or JobKey(),
            owner=owner,
            resolve_secret=resolve_secret,
            given_origin=projects.origin_of(place.project_dir, dag_bundle or {}),
            about=projects.about(dag_bundle or {}, user),
            payer=Payer(user=user or getpass.getuser(), team=team),
            returning=returning,
        )

    def template_params(
        self, template: str | Path | Mapping[str, Any], *, where: Iterable[Path] | None = None
    ) -> tuple[str, ...]:
        """The names of the params that a template asks for."""
        from airflow_jobdeploy.core.template import load_template

        folders = tuple(where) if where is not None else files.folders()
        source = files.source(template, folders, "template", TemplateError)
        return tuple(load_template(source, search_path=folders).asked)

    # -- asking ------------------------------------------------------------------------------------------------

    def status(self, job: Job) -> dict[str, Any]:
        """What the job's worker says of it now: the fields of `core.status.JobState`."""
        from airflow_jobdeploy.service import status

        return self._with(job, status).to_dict()

    def stop(self, job: Job, *, reason: str = "", by: str = "", wait_s: float = 30.0) -> dict[str, Any]:
        """Order the end of a job and wait at most `wait_s` seconds for it; the state then."""
        from airflow_jobdeploy.service import stop

        who = by or getpass.getuser()
        return self._with(
            job, lambda workers, handle: stop(workers, handle, reason=reason, by=who, wait_s=wait_s)
        ).to_dict()

    def preempt(
        self,
        job: Job,
        *,
        reason: str = "",
        by: str = "",
        signal: str | None = None,
        grace_s: float | None = None,
        wait_s: float = 30.0,
    ) -> dict[str, Any]:
        """Make a job give up its place; who waits for it resumes it from its checkpoint. Its state afterwards."""
        from airflow_jobdeploy.service import preempt

        def ask(workers: Workers, handle: JobHandle) -> dict[str, Any]:
            why = reason or "preempted by hand"
            told = preempt(workers, handle, reason=why, by=by, signal=signal, grace_s=grace_s, wait_s=wait_s)
            return told.to_dict()

        found: dict[str, Any] = self._with(job, ask)
        return found

    def read_log(self, job: Job, *, offset: int = 0, limit: int = 4 * 1024 * 1024) -> bytes:
        """At most `limit` bytes of the job's log from byte `offset` on, as the job wrote them; b"" at the end."""
        return self._with(
            job,
            lambda workers, handle: workers.backend(handle.worker, handle.machine).read_log(
                handle.job_id, offset, limit
            ),
        ).data

    def download(
        self,
        job: Job,
        dest: str | Path,
        patterns: Iterable[str] = ("**",),
        *,
        partial: bool = False,
        direct: bool | None = None,
    ) -> dict[str, Any]:
        """Fetch the job's output files; {"dest", "files", "bytes", "skipped"}.

        dest: a folder here, or a URL that ObjectStoragePath takes. partial: also of a job that still runs.
        direct: from the worker straight to the object store; None: where that can be.
        """
        from airflow_jobdeploy.service import Wanted

        wanted = Wanted(patterns=tuple(patterns), partial=partial, direct=direct)
        return self._with(job, lambda workers, handle: fetch(workers, handle, str(dest), wanted, self.log.info))

    def forget(self, job: Job, *, lost: bool = False) -> None:
        """Remove the record of an ended job from its worker.

        lost: its worker will not come back. Whoever waits for the job takes it for lost then, and may start it
        elsewhere; should the worker answer again, what still runs there is stopped.
        """
        if lost:
            from airflow_jobdeploy.hooks.given_up import give_up

            (handle,) = read_jobs(job, worker_pool=self.worker_pool).handles
            give_up(handle.job_id, by=getpass.getuser())
            return
        self._with(job, lambda workers, handle: workers.backend(handle.worker, handle.machine).forget(handle.job_id))

    def _with(self, job: Job, ask: Callable[[Workers, JobHandle], Any]) -> Any:
        with self.get_conn() as workers:
            return ask(workers, self._located(workers, job))

    def _located(self, workers: Workers, job: Job) -> JobHandle:
        (handle,) = read_jobs(job, worker_pool=self.worker_pool).handles
        return located(workers, handle)

    def list(self, *, deployment: str | None = None, live_only: bool = False) -> Any:
        """The records of the pool's jobs, each with its "worker", newest first; a worker that cannot be asked
        is one entry with an "error"."""
        from airflow_jobdeploy.service import jobs

        with self.get_conn() as workers:
            return jobs(workers, deployment=deployment, live_only=live_only)


class Forgetful:
    """The intent of a caller that does not come back: outside a task nothing survives it."""

    def load(self) -> None:
        return None

    def save(self, value: Mapping[str, Any]) -> None:
        pass


def located(workers: Workers, handle: JobHandle) -> JobHandle:
    """The handle of the present attempt: a bare job id is looked for on all workers, a moved job where it went."""
    from airflow_jobdeploy.service import current, find

    return current(workers, handle if handle.worker else find(workers, handle.job_id))


def fetch(
    workers: Workers,
    handle: JobHandle,
    dest: str,
    wanted: Wanted,
    say: Callable[[str], None],
    *,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Download the output files of one job to a folder or a place in object storage."""
    from airflow_jobdeploy import service
    from airflow_jobdeploy.hooks.destinations import target

    report = service.fetch(workers, handle, target(dest), wanted, say=say, interrupted=interrupted)
    there = f"{counted(len(report.files), 'file')} in {report.dest}"
    say(f"{there}: {size(report.bytes)} downloaded, {report.skipped} were there already.")
    for path in report.left_out:
        say(f"{path!r} changed whenever it was read, and is left out.")
    return report.to_dict()
