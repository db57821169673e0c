"""Files named on the command line, what they are, and what is given with them."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from airflow_jobdeploy.commands.values import UsageError, for_fields, for_params, read_pairs
from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.template import Template
from airflow_jobdeploy.errors import InputError, Problem
from airflow_jobdeploy.hooks import files
from airflow_jobdeploy.operators.arguments import looks_like_template

TEMPLATE, SPEC, POOL = "template", "job spec", "worker pool"
#: Kind -> the command that takes it.
_TAKERS = {TEMPLATE: "up", SPEC: "run"}
_TEMPLATE_KEYS = {"params", "options"}
_POOL_KEYS = {"workers", "kind", "presets", "storage"}


def folders() -> tuple[Path, ...]:
    """Where files named on the command line are looked up: here first, then in `[jobdeploy] search_path`."""
    return tuple(dict.fromkeys((Path.cwd(), *files.folders())))


def found_file(name: str, *, kind: str = "") -> Path:
    """A file named on the command line; `.yaml` may be left out. InputError when there is none, or of another kind."""
    path, found = recognised(name)
    if kind and found != kind:
        taker = f"; use: airflow jobdeploy {_TAKERS[found]} {name}" if found in _TAKERS else ""
        raise InputError([Problem(str(path), "", f"this is a {found}, expected a {kind}{taker}.")])
    return path


def recognised(name: str) -> tuple[Path, str]:
    """A file, and what it is by its content: TEMPLATE, SPEC or POOL. InputError when it is no mapping at all."""
    problems: list[Problem] = []
    item = read_source(name, problems, label="FILE", base=Path(), search_path=folders()[1:])
    if item is None or item.document.path is None:
        raise InputError(problems)
    keys = set(item.value)
    if looks_like_template(item.value) or _TEMPLATE_KEYS & keys:
        return item.document.path, TEMPLATE
    return item.document.path, POOL if _POOL_KEYS & keys else SPEC


def given_params(args: Namespace, template: Template) -> dict[str, Any]:
    """`--params`, each of the type that its param has."""
    return for_params(read_pairs(args.params or ()), template.params)


def given_overrides(args: Namespace) -> dict[str, Any]:
    """`--set`, as overrides of a job spec."""
    return for_fields(read_pairs(args.params or ()))


def check_one_place(args: Namespace) -> None:
    """UsageError when both a folder here and one on the worker are given."""
    if args.project_dir and args.workdir:
        raise UsageError("give --project-dir (a folder here, sent to the worker) or --workdir (one there), not both")


def named_job(args: Namespace) -> str:
    """The job of a command that takes ID, or --job_uuid as DDL's does. UsageError unless it is one of them."""
    if bool(args.id) == bool(args.job_uuid):
        raise UsageError("give the id of a job" + (" once: ID or --job_uuid, not both" if args.id else ""))
    return str(args.id or args.job_uuid)


def named_pool(args: Namespace) -> str:
    """`--worker-pool`, else the pool that the file of `--task_config` names, else `local`."""
    if args.worker_pool or not args.task_config:
        return args.worker_pool or "local"
    problems: list[Problem] = []
    item = read_source(args.task_config, problems, label="--task_config", base=Path(), search_path=folders()[1:])
    if item is None:
        raise InputError(problems)
    pool = item.value.get("worker_pool")  # the rest may have been changed since, and is not asked for
    return pool if isinstance(pool, str) and pool.strip() else "local"
