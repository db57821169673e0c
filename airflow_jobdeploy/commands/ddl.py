"""`submit` and `progress`: commands as DDL's users know them; `download` takes DDL's options, too."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.attending import attend
from airflow_jobdeploy.commands.frame import command
from airflow_jobdeploy.commands.lookup import hook_of, locate, open_pool
from airflow_jobdeploy.commands.screen import print_data
from airflow_jobdeploy.commands.sources import SPEC, folders, found_file, named_pool
from airflow_jobdeploy.core.main_file import NAME
from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.errors import Problem, SpecError
from airflow_jobdeploy.hooks.files import load_job

#: Our statuses -> DDL's `job_state`; DDL had words for two of them.
_STATES = {
    JobStatus.PENDING: "waiting for worker to join",
    JobStatus.SUSPENDED: "suspended",
    JobStatus.RUNNING: "running",
    JobStatus.SUCCEEDED: "finished",
    JobStatus.FAILED: "failed",
    JobStatus.CANCELLED: "stopped",
    JobStatus.UNKNOWN: "unknown",
}


@command
def submit(args: Namespace) -> int:
    """Submit a task.yaml, or any job spec, with the project in the current directory; do not wait."""
    path = found_file(args.task_config, kind=SPEC).absolute()
    overrides = {"dirty": "include"} if args.dirty else {}
    spec, _ = load_job(path, overrides, folders())
    hook = hook_of(args.worker_pool or spec.worker_pool or "local")
    work = hook.prepare_run(path, overrides, project_dir=_project(args, spec, path), where=folders())

    def announce(handle: JobHandle, output: str) -> None:
        facts = {"job_uuid": handle.job_id, **({"job_type": spec.framework} if spec.framework else {})}
        _print(facts, output, more=handle.to_dict())

    with open_pool(hook.pool) as workers:
        return attend(workers, work, detach=True, output=args.output, announce=announce)


def _project(args: Namespace, spec: JobSpec, path: Path) -> str | Path | None:
    """The current directory, as DDL has it, unless something else is said."""
    if args.project_dir or spec.project_dir or spec.workdir or not spec.of_ddl:
        return args.project_dir or None
    here = Path.cwd()
    if spec.call_main and not (here / NAME).exists():
        beside = (path.parent / NAME).is_file()
        where = f"{NAME} is beside {path.name}: go there" if beside else "Go to the project"
        hint = f"{where} (cd), or give --project-dir."
        raise SpecError([Problem(str(here), "", f"there is no {NAME} in the current directory.", hint)])
    return here


@command
def progress(args: Namespace) -> int:
    """Show how a job is."""
    with open_pool(named_pool(args)) as workers:
        handle = service.current(workers, locate(workers, args.job_uuid).handle)
        state = service.status(workers, handle)
    _print(_facts(state), args.output, more={**state.to_dict(), "worker": handle.worker})
    return 0


def _facts(state: JobState) -> dict[str, Any]:
    return {
        "job_uuid": state.job_id,
        "job_state": _STATES[state.status],
        "status": f"{state.status}" + (f" ({state.reason})" if state.reason else ""),
        "message": state.message,
    }


def _print(facts: dict[str, Any], output: str, *, more: dict[str, Any]) -> None:
    """Lines `job_uuid: ...`; as data all that is known."""
    if output in ("json", "yaml"):
        print_data({**facts, **more}, output)
        return
    for name, text in facts.items():
        print(f"{name}: {text}")
