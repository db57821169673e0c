"""From a job spec that has been read to work that can be submitted. Nothing starts here.

A `Work` is checked once when it is made, so that every problem is heard before anything starts; it is rendered with the
real ids for each attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.containers import container_of, container_problems
from airflow_jobdeploy.core.demand import with_preset
from airflow_jobdeploy.core.fields import plain
from airflow_jobdeploy.core.plan import NO_KEY, JobKey, Plan
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.sequels import Recovery
from airflow_jobdeploy.core.source import in_order
from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.core.support import image_notes, on_host, storage_fields, storage_notes, unmountable, unsupported
from airflow_jobdeploy.core.volumes import SCHEME, Volume, storage_path
from airflow_jobdeploy.errors import SpecError
from airflow_jobdeploy.packing.dataset import Dataset
from airflow_jobdeploy.service.looking import code_of, glance_at, look_at, misplaced
from airflow_jobdeploy.service.taking import Takes
from airflow_jobdeploy.service.work import (
    NOBODY,
    Identity,
    Payer,
    ResolveSecret,
    Work,
    limits,
    need_of,
    orphan_after_s,
    resolved,
    spec_step,
)

_NOT_SHARED = "the storage of pool {pool!r} is not shared, and what the attempt before has written is there"


def prepare_run(
    spec: JobSpec,
    *,
    pool: WorkerPool,
    project_dir: Path | None = None,
    workdir: str | None = None,
    dataset: Callable[[], Dataset] | None = None,
    key: JobKey = NO_KEY,
    owner: str = "none",
    resolve_secret: ResolveSecret,
    given_origin: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    payer: Payer = NOBODY,
    returning: bool = False,
) -> Work:
    """The work of a job spec. SpecError names each field that `pool` or this release cannot honour.

    `dataset`: lists the dataset of the spec, unless that is in the pool's storage. `given_origin`, `about`,
    `returning`: as in prepare_up. `payer`: whom the pool's quotas count. Raises StagingError for code and data that
    cannot be sent.
    """
    asked = spec
    spec, problems = on_host(asked, pool)
    problems += unsupported(spec, kind=pool.kind) + unmountable(spec, pool)
    problems += misplaced(spec, project_dir, workdir)
    need = need_of(spec, pool, payer, problems)
    problems += container_problems(spec, pool, has_project=project_dir is not None or bool(spec.repo))
    spec = with_preset(spec, pool)
    takes = Takes(
        code_of(spec, project_dir, given_origin),
        dataset,
        partial(look_at, spec, bool(workdir)),
        partial(glance_at, spec, project_dir),
    )
    if not returning:
        problems += takes.problems(beside=problems)
    if problems:
        raise SpecError(in_order(problems))
    recovery = _recovery(spec)
    stored = bool(storage_fields(spec)) and pool.storage is not None

    def render(identity: Identity) -> Plan:
        return Plan(
            uid=identity.uid,
            attempt=identity.attempt,
            worker=identity.worker,
            worker_pool=pool.name,
            name=_name(spec, project_dir),
            key=key,
            owner=owner,
            steps=(spec_step(spec, "job"),),
            workdir=workdir or spec.workdir or "",
            env=spec.env,
            secret_env=resolved(spec.secret_env, resolve_secret),
            limits=limits(spec),
            leftovers=spec.leftovers,
            storage=plain(pool.storage) if stored else {},
            volumes=tuple(_mounted(volume) for volume in spec.volumes),
            dataset=_stored(spec.dataset_location or ""),
            container=container_of(spec, pool) if pool.kind == "docker" else {},
            description={"spec": replace(spec, docker_image=asked.docker_image).to_dict(), **(about or {})},
        )

    return Work(
        key=key,
        render=render,
        takes=takes,
        need=need,
        warnings=(*spec.warnings, *image_notes(asked, pool), *storage_notes(spec, pool)),
        schedule_timeout_s=spec.schedule_timeout_s,
        recovery=recovery,
        orphan_after_s=orphan_after_s(spec, recovery),
        grace_s=spec.grace_s,
        stays=_NOT_SHARED.format(pool=pool.name) if stored and not (pool.storage and pool.storage.shared) else "",
    )


def _name(spec: JobSpec, project_dir: Path | None) -> str:
    """Jobs that run main() are called as their project, as in DDL."""
    project = ""
    if spec.call_main and spec.repo:
        project = (project_dir and project_dir.name) or spec.repo.rstrip("/").rpartition("/")[2].removesuffix(".git")
    elif spec.call_main and project_dir is not None:
        project = project_dir.resolve().name
    return spec.job_name or project or "job"


def _stored(location: str) -> dict[str, str]:
    """A dataset in the pool's storage."""
    return {"storage": storage_path(location)} if location.startswith(SCHEME) else {}


def _mounted(volume: Volume) -> dict[str, Any]:
    return {"path": volume.path, "link": volume.link, "read_only": volume.read_only}


def _recovery(spec: JobSpec) -> Recovery:
    common: dict[str, Any] = {
        "preemptible": spec.preemptible,
        "on_preemption": spec.on_preemption,
        "max_preemptions": spec.max_preemptions,
        "restart": spec.restart_policy,
    }
    if spec.retry is None:
        return Recovery(**common)
    rule = spec.retry
    return Recovery(
        **common,
        retry_on=rule.causes,
        retry_codes=rule.exit_codes,
        retry_max=rule.max,
        retry_delay_s=rule.delay_s,
    )
