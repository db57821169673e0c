"""From a template that has been read to work that can be submitted: its `up`, and later builds of its resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from airflow_jobdeploy.core.containers import container_of, container_problems
from airflow_jobdeploy.core.demand import with_preset
from airflow_jobdeploy.core.plan import NO_KEY, JobKey, Plan, ResourcePlan, Step
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.render import RenderedBuild, RenderedTemplate
from airflow_jobdeploy.core.sequels import Recovery
from airflow_jobdeploy.core.spec import JobSpec, TemplateOptions
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.core.support import unsupported
from airflow_jobdeploy.core.template import Template
from airflow_jobdeploy.errors import Problem, TemplateError
from airflow_jobdeploy.service.looking import code_of, without_dockerfile
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

#: Stands for the ids of an attempt while a template is checked.
_TRIAL = "00000000"

_OPTION = "Write it under `options:` of the template."
_OPERATOR = "All builds of a resource run in one place: give it to the operator."
_ALONE = "Run it as a job spec, with JobRunOperator."
#: Fields of a job spec that a `job` build shares with the rest of its resource.
_OF_THE_RESOURCE = {
    **dict.fromkeys(("project_dir", "workdir", "worker_pool"), _OPERATOR),
    **dict.fromkeys(("setup_timeout", "schedule_timeout", "grace", "log_limit"), _OPTION),
    **dict.fromkeys(("leftovers", "keep_for", "secret_env", "signal"), _OPTION),
    **dict.fromkeys(("ref", "dirty", "bundle_limit"), _OPTION),
    **dict.fromkeys(("docker_image", "pull", "dockerfile", "apt_packages", "shm_size", "pids_limit"), _OPTION),
    **dict.fromkeys(("cpu_count", "memory", "disk_space", "gpu_types", "preset", "team"), _OPTION),
    "repo": "Give a folder here to the operator, as project_dir.",
    "requirements": "Install them in a script build, as the example template venv.yaml does, or run a job spec.",
    **dict.fromkeys(("volumes", "dataset_location", "life_span", "restart_policy"), _ALONE),
}


def prepare_up(
    template: Template,
    given: Mapping[str, Any],
    *,
    pool: WorkerPool,
    project_dir: Path | None = None,
    workdir: str | None = None,
    key: JobKey = NO_KEY,
    owner: str = "none",
    resolve_secret: ResolveSecret,
    payer: Payer = NOBODY,
    commit: str = "",
    given_origin: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    returning: bool = False,
) -> Work:
    """The work of a template's `up`. TemplateError with all problems; StagingError for a bad project_dir.

    `payer`: whom the pool's quotas count. `given_origin`: what is known of a project that is no repository. `about`:
    more for the job's record. `returning`: an earlier submission is known, which says what is taken along; nothing is
    taken anew before it is of no use.
    """
    user = payer.user
    maker = _UpMaker(template, dict(given), pool, project_dir, workdir or "", key, owner, user, commit, about or {})
    rendered = maker.rendered(_TRIAL, None)  # everything that needs no secret is checked before one is read
    problems = unsupported(rendered.options, kind=pool.kind)
    need = need_of(rendered.options, pool, payer, problems)
    problems += container_problems(rendered.options, pool, has_project=project_dir is not None)
    problems += [problem for build in rendered.builds.values() for problem in _job_problems(build, pool)]
    if problems:
        raise TemplateError(problems)
    recovery = Recovery(preemptible=rendered.options.preemptible)
    takes = Takes(code_of(rendered.options, project_dir, given_origin))
    if not returning:
        takes.now()
        if problems := without_dockerfile(rendered.options, takes.bundle):
            raise TemplateError(problems)
    return Work(
        key=key,
        render=partial(maker.plan, resolve_secret),
        takes=takes,
        need=need,
        warnings=(*rendered.warnings, *_idle(rendered.options, project_dir)),
        makes_resource=True,
        schedule_timeout_s=rendered.options.schedule_timeout_s,
        recovery=recovery,
        orphan_after_s=orphan_after_s(rendered.options, recovery),
        grace_s=rendered.options.grace_s,
    )


def _idle(options: TemplateOptions, project_dir: Path | None) -> list[str]:
    """Options that say how code is taken, where none is: the same template may be used with and without a project."""
    if project_dir is not None or "ref" not in options.given:
        return []
    return [f"{options.given['ref']}: ref means nothing here, since no project_dir is given."]


@dataclass(frozen=True)
class _UpMaker:
    """Renders a template for one attempt after another."""

    template: Template
    given: dict[str, Any]
    pool: WorkerPool
    project_dir: Path | None
    workdir: str
    key: JobKey
    owner: str
    user: str
    commit: str
    about: Mapping[str, Any]

    def rendered(self, resource: str, resolve_secret: ResolveSecret | None) -> RenderedTemplate:
        filled = {
            "id": resource,
            "project": str(self.project_dir.resolve()) if self.project_dir else self.workdir or self.template.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "commit": self.commit,
            "user": self.user,
        }
        rendered = self.template.render(self.given, filled=filled, resolve_secret=resolve_secret)
        return replace(rendered, options=with_preset(rendered.options, self.pool))

    def plan(self, resolve_secret: ResolveSecret, identity: Identity) -> Plan:
        rendered = self.rendered(identity.resource, resolve_secret)
        subdir = rendered.filled["subdir"]
        resource = ResourcePlan(
            id=identity.resource,
            template=self.template.name,
            digest=self.template.digest,
            subdir=subdir,
            project=rendered.filled["project"],
            params=rendered.params,
            builds={name: tuple(_step(part, subdir) for part in rendered.steps(name)) for name in rendered.builds},
        )
        return Plan(
            uid=identity.uid,
            attempt=identity.attempt,
            worker=identity.worker,
            worker_pool=self.pool.name,
            name=f"{self.template.name} up",
            key=self.key,
            owner=self.owner,
            build="up",
            resource_id=identity.resource,
            resource=resource,
            workdir=self.workdir,
            env=rendered.options.env,
            secret_env=resolved(rendered.options.secret_env, resolve_secret),
            limits=limits(rendered.options),
            leftovers=rendered.options.leftovers,
            container=container_of(rendered.options, self.pool) if self.pool.kind == "docker" else {},
            description={
                "template": self.template.name,
                "params": rendered.params,
                **({"preemptible": True} if rendered.options.preemptible else {}),
                **self.about,
            },
        )


def _step(build: RenderedBuild, subdir: str) -> Step:
    """One build that is no sequence; what it writes lies below .jd/<subdir>/tasks, as AI Job Deploy has it."""
    if isinstance(build.content, JobSpec):
        step = spec_step(build.content, build.name)
    else:
        path = str(PurePosixPath(".jd") / subdir / "tasks" / build.name)
        step = Step(name=build.name, kind=build.type, content=str(build.content), path=path)
    return replace(step, ok_codes=build.whitelist.exit_codes, ok_signals=build.whitelist.signals)


def _job_problems(build: RenderedBuild, pool: WorkerPool) -> list[Problem]:
    """What a `job` build asks for that cannot be honoured here."""
    spec = build.content
    if not isinstance(spec, JobSpec):
        return []
    misplaced = [
        Problem(spec.given[name], name, f"the job build {build.name!r} cannot have {name!r} of its own.", hint)
        for name, hint in _OF_THE_RESOURCE.items()
        if name in spec.given
    ]
    return misplaced + unsupported(spec, kind=pool.kind)


def prepare_build(
    build: str, handle: JobHandle, *, pool: WorkerPool, key: JobKey = NO_KEY, owner: str = "none"
) -> Work:
    """The work of another build (`down`, `purge`, ...) of the resource that an `up` has made.

    The build is stored on the worker as it was rendered then. TemplateError when the job made no resource.
    """
    if not handle.resource:
        problem = Problem("<job>", "", f"job {handle.job_id} is of a job spec: it has no build {build!r} to run.")
        raise TemplateError([problem])

    def render(identity: Identity) -> Plan:
        return Plan(
            uid=identity.uid,
            attempt=identity.attempt,
            worker=identity.worker,
            worker_pool=pool.name,
            name=f"{build} of {handle.resource}",
            key=key,
            owner=owner,
            build=build,
            resource_id=identity.resource,
            leftovers="stop",
        )

    return Work(key=key, render=render, resource=handle.resource, worker=handle.worker)
