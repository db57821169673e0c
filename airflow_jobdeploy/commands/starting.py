"""`run`, `up`, `down`, `build`, `rm`: commands that start something."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.attending import attend
from airflow_jobdeploy.commands.ending import forget_job, stop_and_see
from airflow_jobdeploy.commands.frame import command
from airflow_jobdeploy.commands.lookup import hook_of, job_id, listing, locate, open_pool, resource_id
from airflow_jobdeploy.commands.screen import say
from airflow_jobdeploy.commands.sources import (
    SPEC,
    TEMPLATE,
    check_one_place,
    folders,
    found_file,
    given_overrides,
    given_params,
)
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.core.template import load_template
from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.hooks.files import load_job
from airflow_jobdeploy.service import Workers


@command
def run(args: Namespace) -> int:
    """Run a job spec."""
    check_one_place(args)
    overrides = given_overrides(args)
    path = found_file(args.file, kind=SPEC).absolute()
    spec, _ = load_job(path, overrides, folders())
    hook = hook_of(args.worker_pool or spec.worker_pool or "local")
    work = hook.prepare_run(path, overrides, project_dir=args.project_dir, workdir=args.workdir, where=folders())
    with open_pool(hook.pool) as workers:
        return attend(workers, work, detach=args.detach, output=args.output)


@command
def up(args: Namespace) -> int:
    """Bring a template up."""
    check_one_place(args)
    path = found_file(args.file, kind=TEMPLATE).absolute()
    given = given_params(args, load_template(path, search_path=folders()))
    hook = hook_of(args.worker_pool or "local")
    work = hook.prepare_up(path, given, project_dir=args.project_dir, workdir=args.workdir, where=folders())
    with open_pool(hook.pool) as workers:
        return attend(workers, work, detach=args.detach, output=args.output, after=_say_how_to_end)


def _say_how_to_end(handle: JobHandle) -> None:
    pool = "" if handle.worker_pool == "local" else f" --worker-pool {handle.worker_pool}"
    say(f"To take it down: airflow jobdeploy down {handle.resource}{pool}")


# -- builds of a resource -------------------------------------------------------------------------------------------


@command
def build(args: Namespace) -> int:
    """Run a build of a resource."""
    with open_pool(args.worker_pool or "local") as workers:
        handle = _of_template(locate(workers, args.id).handle)
        return _build(workers, handle, args.build, detach=args.detach, output=args.output)


@command
def down(args: Namespace) -> int:
    """Take a resource down."""
    with open_pool(args.worker_pool or "local") as workers:
        handle = _of_template(locate(workers, args.id).handle)
        why = _is_down(handle, _record(workers, handle))
        if why:
            say(why, "")
            return 0
        return _build(workers, handle, "down", detach=args.detach, output=args.output)


def _build(workers: Workers, handle: JobHandle, name: str, *, detach: bool = False, output: str = "table") -> int:
    work = service.prepare_build(name, handle, pool=workers.pool)
    return attend(workers, work, detach=detach, output=output)


def _of_template(handle: JobHandle) -> JobHandle:
    if handle.resource:
        return handle
    raise JobDeployError(
        f"job {handle.job_id} is of a job spec: it has no builds. `airflow jobdeploy stop {handle.job_id}` ends it"
    )


def _record(workers: Workers, handle: JobHandle) -> Mapping[str, Any] | None:
    return workers.backend(handle.worker).resource(handle.resource)


def _is_down(handle: JobHandle, record: Mapping[str, Any] | None) -> str:
    """Why there is nothing to take down, or ""."""
    if record is None:
        return f"Resource {handle.resource} is not on worker {handle.worker} any more: nothing to take down."
    if record.get("stopped"):
        return f"Resource {handle.resource} was taken down before: nothing left to do."
    return ""


# -- rm -------------------------------------------------------------------------------------------------------------


@command
def rm(args: Namespace) -> int:
    """Take down, purge if asked, and forget."""
    with open_pool(args.worker_pool or "local") as workers:
        found = locate(workers, args.id)
        if found.handle.resource:
            return _remove_resource(workers, found.handle, purge=args.purge)
        if args.purge:
            _of_template(found.handle)
        stop_and_see(workers, found, "removed")
        forget_job(workers, found.handle.worker, found.handle.job_id)
        return 0


def _remove_resource(workers: Workers, handle: JobHandle, *, purge: bool) -> int:
    record = _record(workers, handle)
    if purge and record is not None and "purge" not in record.get("build_names", ()):
        known = ", ".join(record.get("build_names", ()))
        raise JobDeployError(f"resource {handle.resource} has no build 'purge' (it has {known}). Leave out --purge")
    steps = ["down"] if not _is_down(handle, record) else []
    steps += ["purge"] if purge and record is not None else []
    for name in steps:
        code = _build(workers, handle, name)
        if code:
            say(f"Nothing was forgotten: {name} of resource {handle.resource} did not succeed.", "yellow")
            return code
    for row in listing(workers).rows:
        if resource_id(row) == handle.resource:
            forget_job(workers, handle.worker, job_id(row))
    return 0
