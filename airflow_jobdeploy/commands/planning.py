"""`plan`: where a job would go, with an answer for every worker. Nothing is sent, nothing starts, nobody waits."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import hook_of
from airflow_jobdeploy.commands.screen import Column, complain, print_data, print_plain, print_table, say
from airflow_jobdeploy.commands.sources import SPEC, check_one_place, folders, found_file, given_overrides
from airflow_jobdeploy.core.impossible import impossible
from airflow_jobdeploy.core.labels import WORKER, mismatch
from airflow_jobdeploy.core.placement import Placement, rank
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.sharing import twice
from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.core.standing import NOW, WorkerView
from airflow_jobdeploy.core.words import size
from airflow_jobdeploy.errors import PoolError, Problem, SpecError
from airflow_jobdeploy.hooks.connect import backend
from airflow_jobdeploy.hooks.files import load_job
from airflow_jobdeploy.service.survey import survey, trees_of, wanted
from airflow_jobdeploy.service.work import Work


@command
def plan(args: Namespace) -> int:
    """Show where a job spec would run."""
    check_one_place(args)
    overrides = given_overrides(args)
    path = found_file(args.file, kind=SPEC).absolute()
    spec, _ = load_job(path, overrides, folders())
    hook = hook_of(args.worker_pool or spec.worker_pool or "local")
    work = hook.prepare_run(path, overrides, project_dir=args.project_dir, workdir=args.workdir, where=folders())
    views = survey(hook.pool, lambda worker: backend(hook.pool, worker), tuple(trees_of(work)))
    if problems := twice(hook.pool, views):
        raise PoolError(problems)
    placement = rank(wanted(work), views)
    _show(placement, work, args.output, _impossible(spec, work, hook.pool, views))
    return 0 if placement.candidates else PROBLEM


def _impossible(spec: JobSpec, work: Work, pool: WorkerPool, views: tuple[WorkerView, ...]) -> list[Problem]:
    """What of the demand no worker can ever meet."""
    need = work.need
    allowed = [view for view in views if not mismatch(need.where, {**view.labels, WORKER: view.name})]
    return impossible(spec, need.demand, pool, allowed)


def _show(placement: Placement, work: Work, output: str, problems: list[Problem]) -> None:
    if output in ("json", "yaml"):
        print_data({"demand": str(work.need.demand), **placement.to_dict()}, output)
    else:
        _table(placement, output)
    asked = f"The job asks for {work.need.demand}."
    if problems:
        complain(str(SpecError(problems)))
    elif output != "table":
        return
    elif not placement.candidates:
        complain(f"no worker can {'ever take it' if placement.is_impossible else 'take it now'}. {asked}")
    else:
        first = placement.candidates[0]
        verb = "would start" if first.fit == NOW else "would wait, first of all,"
        say(f"{asked} It {verb} on {first.worker}.", "")


def _table(placement: Placement, output: str) -> None:
    rows = [choice.to_dict() for choice in placement.choices]
    (print_plain if output == "plain" else print_table)(rows, _COLUMNS)


def _sent(row: Mapping[str, Any]) -> str:
    return size(row["send_bytes"]) if row["send_bytes"] else ""


_COLUMNS = [
    Column(title="WORKER", cell=lambda row: row["worker"], cut=True),
    Column(title="FIT", cell=lambda row: row["fit"], word=True),
    Column(title="WHY", cell=lambda row: row["why"], cut=True),
    Column(title="TO SEND", cell=_sent, optional=True),
    Column(title="WAITS FOR", cell=lambda row: row["waits_for"], cut=True, optional=True),
]
