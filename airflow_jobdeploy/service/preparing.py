"""From text that has been read to work that can be submitted. Nothing starts here.

A `Work` is checked and rendered once when it is made, so that every problem is heard before anything
starts; it renders again with the real ids for each attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from airflow_jobdeploy.core.fields import plain
from airflow_jobdeploy.core.plan import NO_KEY, JobKey, Limits, Plan, ResourcePlan, Step
from airflow_jobdeploy.core.policy import Recovery
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.render import RenderedBuild, RenderedTemplate
from airflow_jobdeploy.core.requirements import environment_of
from airflow_jobdeploy.core.source import in_order
from airflow_jobdeploy.core.spec import JobSpec, TemplateOptions
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.core.support import storage_fields, storage_notes, unmountable, unsupported
from airflow_jobdeploy.core.template import Template
from airflow_jobdeploy.core.volumes import Volume
from airflow_jobdeploy.errors import Problem, SpecError, TemplateError
from airflow_jobdeploy.packing.main_file import checked_main
from airflow_jobdeploy.packing.project import ProjectArchive, archive
from airflow_jobdeploy.packing.texts import texts_of_folder

#: Stands for the ids of an attempt while a template is checked.
_TRIAL = "00000000"

_OPTION = "Write it under `options:` of the template."
_OPERATOR = "All builds of a resource run in one place: give it to the operator."
#: Fields of a job spec that a `job` build shares with the rest of its resource.
_OF_THE_RESOURCE = {
    **dict.fromkeys(("project_dir", "workdir", "worker_pool"), _OPERATOR),
    **dict.fromkeys(("setup_timeout", "schedule_timeout", "grace", "log_limit"), _OPTION),
    **dict.fromkeys(("leftovers", "keep_for", "secret_env", "signal"), _OPTION),
    "requirements": "Install them in a script build, as the example template venv.yaml does, or run a job spec.",
    **dict.fromkeys(("volumes", "dataset_location"), "Run it as a job spec, with JobRunOperator."),
}

#: A job that asked to be restarted elsewhere stops itself after so much silence, in seconds.
WORKER_LOST_AFTER_S = 90.0

#: Added to what a job needs to stop itself before it counts as stopped, in seconds.
LOST_MARGIN_S = 15.0

NO_RECOVERY = Recovery()

_NOT_SHARED = "the storage of pool {pool!r} is not shared, and what the attempt before has written is there"

ResolveSecret = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What distinguishes one attempt from the next: chosen by `submit`."""

    uid: str
    attempt: int
    worker: str
    resource: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """Checked work, ready to be submitted as often as it takes."""

    key: JobKey
    render: Callable[[Identity], Plan]
    #: Makes the stream of the project tree, when one is sent.
    project: Callable[[], ProjectArchive] | None = None
    #: To be told to the author: accepted spellings that mean something else, and the like.
    warnings: tuple[str, ...] = ()
    makes_resource: bool = False
    #: The resource and worker that a later build of a template belongs to.
    resource: str = ""
    worker: str = ""
    schedule_timeout_s: float | None = None
    recovery: Recovery = NO_RECOVERY
    grace_s: float = 10.0
    #: The job stops itself after so much silence, in seconds; None: it goes on.
    orphan_after_s: float | None = None
    #: Why later attempts stay on the worker of the one before; "": they need not.
    stays: str = ""

    @property
    def lost_after_s(self) -> float | None:
        """Silence after which the job has surely stopped itself: with its grace, and room for both clocks."""
        return None if self.orphan_after_s is None else self.orphan_after_s + self.grace_s + LOST_MARGIN_S

    def plan(self, identity: Identity, *, slots: int | None, delay_s: float = 0.0) -> Plan:
        """The plan of one attempt, to be started by its worker after `delay_s`."""
        plan = self.render(identity)
        return replace(plan, slots=slots, delay_s=delay_s, orphan_after_s=self.orphan_after_s)


def _resolved(references: Mapping[str, str], resolve_secret: ResolveSecret) -> dict[str, str]:
    return {name: resolve_secret(reference) for name, reference in references.items()}


def _limits(wanted: JobSpec | TemplateOptions) -> Limits:
    return Limits(
        timeout_s=wanted.timeout_s,
        setup_timeout_s=wanted.setup_timeout_s,
        schedule_timeout_s=wanted.schedule_timeout_s,
        grace_s=wanted.grace_s,
        signal=wanted.signal if isinstance(wanted, JobSpec) else Limits.signal,
        log_limit_bytes=wanted.log_limit_bytes,
        keep_for_s=Limits.keep_for_s if wanted.keep_for_s is None else wanted.keep_for_s,
    )


def _spec_step(spec: JobSpec, name: str) -> Step:
    """`command` is sh text and wins; a script takes `args`; `args` alone are the command line."""
    common: dict[str, Any] = {"name": name}
    if name != "job":  # a build: what a spec gives its job, the step gives itself
        common.update(env=spec.env, timeout_s=spec.timeout_s)
    if spec.command is not None:
        return Step(kind="shell", content=spec.command, **common)
    if spec.call_main:
        return Step(kind="main", path="main.py", args=spec.args or (), python=spec.python or "", **common)
    if spec.entry_script is not None:
        return Step(kind="entry", path=spec.entry_script, args=spec.args or (), python=spec.python or "", **common)
    return Step(kind="argv", args=spec.args or (), **common)


# -- templates -----------------------------------------------------------------------------------------------------


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
    user: str = "",
    commit: str = "",
) -> Work:
    """The work of a template's `up`. TemplateError with all problems; StagingError for a bad project_dir."""
    maker = _UpMaker(template, dict(given), pool, project_dir, workdir or "", key, owner, user, commit)
    rendered = maker.rendered(_TRIAL, None)  # everything that needs no secret is checked before one is read
    problems = unsupported(rendered.options, kind=pool.kind)
    problems += [problem for build in rendered.builds.values() for problem in _job_problems(build, pool)]
    if problems:
        raise TemplateError(problems)
    recovery = Recovery(preemptible=rendered.options.preemptible)
    return Work(
        key=key,
        render=partial(maker.plan, resolve_secret),
        project=partial(archive, project_dir) if project_dir else None,
        warnings=rendered.warnings,
        makes_resource=True,
        schedule_timeout_s=rendered.options.schedule_timeout_s,
        recovery=recovery,
        orphan_after_s=_orphan_after_s(rendered.options, recovery),
        grace_s=rendered.options.grace_s,
    )


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

    def rendered(self, resource: str, resolve_secret: ResolveSecret | None) -> RenderedTemplate:
        filled = {
            "id": resource,
            "project": str(self.project_dir.resolve()) if self.project_dir else self.workdir or self.template.name,
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "commit": self.commit,
            "user": self.user,
        }
        return self.template.render(self.given, filled=filled, resolve_secret=resolve_secret)

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
            ships_project=self.project_dir is not None,
            env=rendered.options.env,
            secret_env=_resolved(rendered.options.secret_env, resolve_secret),
            limits=_limits(rendered.options),
            leftovers=rendered.options.leftovers,
            description={"template": self.template.name, "params": rendered.params},
        )


def _step(build: RenderedBuild, subdir: str) -> Step:
    """One build that is no sequence; what it writes lies below .jd/<subdir>/tasks, as AI Job Deploy has it."""
    if isinstance(build.content, JobSpec):
        step = _spec_step(build.content, build.name)
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


# -- job specs -----------------------------------------------------------------------------------------------------


def prepare_run(
    spec: JobSpec,
    *,
    pool: WorkerPool,
    project_dir: Path | None = None,
    workdir: str | None = None,
    key: JobKey = NO_KEY,
    owner: str = "none",
    resolve_secret: ResolveSecret,
) -> Work:
    """The work of a job spec. SpecError names each field that `pool` or this release cannot honour."""
    problems = unsupported(spec, kind=pool.kind) + unmountable(spec, pool)
    notes: tuple[str, ...] = ()
    if spec.call_main:
        checked = checked_main(spec, project_dir, workdir)
        problems, notes = [*problems, *checked.problems], checked.warnings
    if problems:
        raise SpecError(in_order(problems))
    read = texts_of_folder(project_dir) if project_dir else None
    environment = environment_of(spec, read, unasked=spec.call_main)
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
            steps=(_spec_step(spec, "job"),),
            workdir=workdir or spec.workdir or "",
            ships_project=project_dir is not None,
            env=spec.env,
            environment=environment,
            secret_env=_resolved(spec.secret_env, resolve_secret),
            limits=_limits(spec),
            leftovers=spec.leftovers,
            storage=plain(pool.storage) if stored else {},
            volumes=tuple(_mounted(volume) for volume in spec.volumes),
            description={"spec": spec.to_dict()},
        )

    return Work(
        key=key,
        render=render,
        project=partial(archive, project_dir) if project_dir else None,
        warnings=(*spec.warnings, *notes, *storage_notes(spec, pool)),
        schedule_timeout_s=spec.schedule_timeout_s,
        recovery=recovery,
        orphan_after_s=_orphan_after_s(spec, recovery),
        grace_s=spec.grace_s,
        stays=_NOT_SHARED.format(pool=pool.name) if stored and not (pool.storage and pool.storage.shared) else "",
    )


def _name(spec: JobSpec, project_dir: Path | None) -> str:
    """Jobs that run main() are called as their project, as in DDL."""
    project = project_dir.resolve().name if spec.call_main and project_dir is not None else ""
    return spec.job_name or project or "job"


def _mounted(volume: Volume) -> dict[str, Any]:
    return {"path": volume.path, "link": volume.link, "read_only": volume.read_only}


def _recovery(spec: JobSpec) -> Recovery:
    common: dict[str, Any] = {
        "preemptible": spec.preemptible,
        "on_preemption": spec.on_preemption,
        "max_preemptions": spec.max_preemptions,
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


def _orphan_after_s(wanted: JobSpec | TemplateOptions, recovery: Recovery) -> float | None:
    """Only a job that stops itself may be started elsewhere while its worker is silent."""
    asks = recovery.preemptible or "worker_lost" in recovery.retry_on
    if (wanted.on_orphan or ("stop" if asks else "continue")) == "continue":
        return None
    given = wanted.worker_lost_after_s if isinstance(wanted, JobSpec) else None
    return WORKER_LOST_AFTER_S if given is None else given
