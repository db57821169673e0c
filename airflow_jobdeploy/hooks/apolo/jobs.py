"""Apolo's `client.jobs`, synchronous: job specs and the use cases of `service`, in that SDK's words.

What was started here is also gone on with here: whoever started a job with a restart policy, or a preemptible one,
starts its next attempt when he asks for its status after an end. Nobody else can: only he has its code and secrets.
"""

from __future__ import annotations

import builtins
import getpass
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from airflow_jobdeploy import service
from airflow_jobdeploy.core.records import JobFilter, Record, age_s, by_job, handle_of
from airflow_jobdeploy.core.status import JobHandle, JobStatus
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from airflow_jobdeploy.hooks.apolo import counting, naming
from airflow_jobdeploy.hooks.apolo.asking import Asked, check_others
from airflow_jobdeploy.hooks.apolo.book import Book, Intents, in_line
from airflow_jobdeploy.hooks.apolo.telling import described, past
from airflow_jobdeploy.hooks.apolo.values import (
    Container,
    JobDescription,
    JobPriority,
    JobRestartPolicy,
    RemoteImage,
    Resources,
)
from airflow_jobdeploy.service import Work, Workers

if TYPE_CHECKING:
    from airflow_jobdeploy.core.pool import WorkerPool
    from airflow_jobdeploy.core.volumes import Volume

T = TypeVar("T")


class _PoolHook(Protocol):
    """What jobs need of the hook of their pool, which is a JobDeployHook."""

    worker_pool: str

    @property
    def log(self) -> Any: ...  # of Airflow's own type, which is private

    @property
    def pool(self) -> WorkerPool: ...

    def get_conn(self) -> Workers: ...

    def prepare_run(self, job_spec: Mapping[str, Any], *, project_dir: str | Path | None, user: str) -> Work: ...


class Jobs:
    """The jobs of a worker pool. As a context manager it keeps its connections; else each call makes its own.

    All methods raise errors below JobDeployError. Belongs to one thread.
    """

    def __init__(self, hook: _PoolHook) -> None:
        self._hook = hook
        self._open: Workers | None = None
        self._book = Book(hook.worker_pool, hook.log.info)

    def __enter__(self) -> Jobs:
        self._open = self._open or self._hook.get_conn()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the workers; jobs go on."""
        if self._open is not None:
            self._open.close()
            self._open = None

    # -- starting ----------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        image: RemoteImage | str | None = None,
        preset_name: str | None = None,
        entrypoint: str | None = None,
        command: str | None = None,
        working_dir: str | None = None,
        env: Mapping[str, str] | None = None,
        volumes: Sequence[Volume] = (),
        secret_env: Mapping[str, Any] | None = None,
        shm: bool = False,
        name: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        wait_for_jobs_quota: bool = True,
        schedule_timeout: float | None = None,
        restart_policy: JobRestartPolicy | str = JobRestartPolicy.NEVER,
        life_span: float | None = None,
        priority: JobPriority | str | None = None,
        cluster_name: str | None = None,
        project_dir: str | Path | None = None,
        **others: Any,
    ) -> JobDescription:
        """Start a job with the resources of a preset of the pool. Does not wait for it.

        command, entrypoint: words, given to no shell.
        secret_env: {NAME: "conn:<id>.password" or "var:<key>"}.
        life_span, schedule_timeout: seconds.
        wait_for_jobs_quota: a job always waits.
        project_dir: a folder here, sent along (Apolo has none).

        What else Apolo has is a SpecError that says what to do, unless it asks for nothing.
        """
        check_others(others, _names_of(Jobs.start))
        container = Container(
            image=image,
            resources=Resources(shm=shm),
            entrypoint=entrypoint,
            command=command,
            working_dir=working_dir,
            env=env or {},
            volumes=volumes,
            secret_env=secret_env or {},
        )
        asked = Asked(
            container=container,
            preset_name=preset_name,
            name=name,
            tags=tags,
            description=description,
            schedule_timeout=schedule_timeout,
            restart_policy=restart_policy,
            life_span=life_span,
            priority=priority,
            project_dir=project_dir,
        )
        return self._started(asked, cluster_name)

    def run(
        self,
        container: Container,
        *,
        preemptible_node: bool = False,
        scheduler_enabled: bool = False,
        name: str | None = None,
        tags: Sequence[str] = (),
        description: str | None = None,
        wait_for_jobs_quota: bool = True,
        schedule_timeout: float | None = None,
        restart_policy: JobRestartPolicy | str = JobRestartPolicy.NEVER,
        life_span: float | None = None,
        priority: JobPriority | str | None = None,
        project_dir: str | Path | None = None,
        **others: Any,
    ) -> JobDescription:
        """Start a job with the resources that its container asks for. Does not wait for it.

        preemptible_node: it may be stopped to make room, and goes on later; scheduler_enabled means the same here. The
        other arguments are those of `start`.
        """
        check_others(others, _names_of(Jobs.run))
        asked = Asked(
            container=container,
            preemptible=preemptible_node or scheduler_enabled,
            name=name,
            tags=tags,
            description=description,
            schedule_timeout=schedule_timeout,
            restart_policy=restart_policy,
            life_span=life_span,
            priority=priority,
            project_dir=project_dir,
        )
        return self._started(asked, None)

    def _started(self, asked: Asked, cluster_name: str | None) -> JobDescription:
        self._check_cluster(cluster_name)
        spec = asked.spec(kind=self._hook.pool.kind)
        work = self._hook.prepare_run(spec, project_dir=asked.project_dir, user=self._owner)
        for warning in work.warnings:
            self._hook.log.warning("%s", warning)
        with self._workers() as workers:
            if asked.name:
                naming.check_free(workers, asked.name, self._owner, self._hook.log.warning)
            handle = self._submitted(workers, work, asked.name)
            return self._described(workers, handle.job_id)

    def _submitted(self, workers: Workers, work: Work, name: str | None) -> JobHandle:
        def claimed(handle: JobHandle) -> None:
            if name:
                naming.hold(workers, name, self._owner, handle)

        intents = Intents()
        options: dict[str, Any] = {"intents": intents, "epoch": {}, "say": self._hook.log.info, "on_handle": claimed}
        done = in_line(partial(service.submit, work, workers, **options))
        self._book.add(workers, done.handle, work, intents)
        return done.handle

    # -- asking ------------------------------------------------------------------------------------------------

    def status(self, id: str) -> JobDescription:  # noqa: A002 - as Apolo has it
        """How a job is, with its history; `id` is a job's, or one of its attempts'.

        A job that was started by this object, and has a next attempt coming, gets it now.
        """
        return self._ask(lambda workers: self._described(workers, id))

    def list(
        self,
        *,
        statuses: Iterable[JobStatus | str] = (),
        name: str = "",
        tags: Iterable[str] = (),
        owners: Iterable[str] = (),
        since: datetime | None = None,
        until: datetime | None = None,
        reverse: bool = False,
        limit: int | None = None,
        cluster_name: str | None = None,
        **others: Any,
    ) -> builtins.list[JobDescription]:
        """The pool's jobs, each once, the oldest first, or the newest first (`reverse`); at most `limit`.

        tags: a job has all of them; statuses, owners: one of them. since, until: when it was accepted; without a time
        zone it is this machine's. Workers that cannot be asked are named in a warning; WorkerError when none can.
        """
        check_others(others, _names_of(Jobs.list))
        self._check_cluster(cluster_name)
        wanted = JobFilter(
            statuses=frozenset(map(JobStatus, statuses)),
            name=name,
            tags=frozenset(tags),
            owners=frozenset(owners),
        )
        known = self._ask(self._all)
        wanted = replace(wanted, oldest_s=_ago_s(since), youngest_s=_ago_s(until))  # ages are told as of now
        jobs = [attempts for attempts in known if wanted.takes(attempts[0], age_s(attempts[-1]))]
        jobs.sort(key=lambda attempts: age_s(attempts[-1]), reverse=not reverse)
        pool, now = self._hook.worker_pool, datetime.now(timezone.utc)
        return [described(attempts[0], past(attempts, now), pool=pool, now=now) for attempts in jobs[:limit]]

    def _all(self, workers: Workers) -> builtins.list[Sequence[Record]]:
        """The attempts of each job."""
        rows = service.jobs(workers)
        silent = [f"worker {row['worker']} cannot be asked: {row['error']}" for row in rows if "error" in row]
        if silent and len(silent) == len(workers.pool.workers):
            raise WorkerError("; ".join(silent))
        for text in silent:
            self._hook.log.warning("%s", text)
        return by_job(row for row in rows if "error" not in row)

    def capacity(self, cluster_name: str | None = None) -> dict[str, int]:
        """Preset of the pool -> how many jobs of it would start at once, were all of them of it."""
        from airflow_jobdeploy.hooks.connect import backend
        from airflow_jobdeploy.service.survey import survey

        self._check_cluster(cluster_name)
        pool = self._hook.pool
        views = survey(pool, lambda worker: backend(pool, worker))
        for view in views:
            if view.trouble:
                self._hook.log.warning("worker %s cannot be asked: %s", view.name, view.trouble)
        return counting.capacity(pool, views)

    get_capacity = capacity

    # -- changing ----------------------------------------------------------------------------------------------

    def kill(self, id: str) -> None:  # noqa: A002
        """Order a job's end: signal, grace, KILL. Returns at once; its worker carries it through."""

        def order(workers: Workers) -> None:
            service.stop(workers, self._handle(workers, id), reason="killed", by=self._owner)

        self._ask(order)

    def bump_life_span(self, id: str, additional_life_span: float) -> None:  # noqa: A002
        """Let a live job run so many seconds longer than its life_span. WorkerError when it has none, or has ended."""
        self._ask(lambda workers: service.extend(workers, self._handle(workers, id), additional_life_span))

    # -- one job -----------------------------------------------------------------------------------------------

    def _described(self, workers: Workers, job_id: str) -> JobDescription:
        seen = self._book.present(workers, job_id)
        return described(seen.record, seen.past, pool=self._hook.worker_pool, now=datetime.now(timezone.utc))

    def _handle(self, workers: Workers, job_id: str) -> JobHandle:
        return handle_of(self._book.present(workers, job_id).record, self._hook.worker_pool)

    # -- workers -----------------------------------------------------------------------------------------------

    @property
    def _owner(self) -> str:
        return getpass.getuser()

    def _check_cluster(self, name: str | None) -> None:
        if name not in (None, self._hook.worker_pool):
            raise WorkerError(
                f"these are the jobs of pool {self._hook.worker_pool!r}: ask JobDeployHook({name!r}).jobs for those"
            )

    @contextmanager
    def _workers(self) -> Iterator[Workers]:
        if self._open is not None:
            yield self._open
            return
        with self._hook.get_conn() as workers:
            yield workers

    def _ask(self, question: Callable[[Workers], T]) -> T:
        """Ask once more over new connections where an open one is found broken."""
        with self._workers() as workers:
            try:
                return question(workers)
            except WorkerUnreachable:
                if workers is not self._open:
                    raise
                workers.close()
                self._open = self._hook.get_conn()
                return question(self._open)


def _ago_s(moment: datetime | None) -> float | None:
    return None if moment is None else (datetime.now(timezone.utc) - moment.astimezone(timezone.utc)).total_seconds()


def _names_of(method: Callable[..., Any]) -> tuple[str, ...]:
    return method.__code__.co_varnames[1 : method.__code__.co_argcount + method.__code__.co_kwonlyargcount]
