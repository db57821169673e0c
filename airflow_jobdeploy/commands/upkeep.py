"""`pools cordon`, `uncordon` and `drain`: a worker that takes no new jobs for a while, for whoever looks after it."""

from __future__ import annotations

import getpass
from argparse import Namespace
from collections.abc import Sequence

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import Row, handle_of, job_id, listing, open_pool
from airflow_jobdeploy.commands.screen import complain, say
from airflow_jobdeploy.commands.values import UsageError
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.records import is_preemptible
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.core.words import counted
from airflow_jobdeploy.errors import JobDeployError, PoolError, Problem, nearest
from airflow_jobdeploy.service import Workers

#: How long one question for changes waits, in seconds.
_WATCH_S = 5.0


@command
def cordon(args: Namespace) -> int:
    """Let workers take no new jobs."""
    with open_pool(args.worker_pool) as workers:
        return _each(workers, _chosen(workers, args.workers), why=args.why or "")


@command
def uncordon(args: Namespace) -> int:
    """Let workers take new jobs again."""
    with open_pool(args.worker_pool) as workers:
        return _each(workers, _chosen(workers, args.workers), lift=True)


@command
def drain(args: Namespace) -> int:
    """Cordon workers, preempt the jobs there that may be, and see the others end."""
    with open_pool(args.worker_pool) as workers:
        names = _chosen(workers, args.workers)
        wrong = _each(workers, names, why=args.why or "drained", keep=not args.why)
        left = [row for row in _live(workers) if row["worker"] in names]
        for row in left:
            wrong |= _ask_to_leave(workers, row, args.why or f"worker {row['worker']} is drained")
        for name in names:
            _tell_of_others(workers, name)
        if args.wait:
            for name in names:
                _see_ended(workers, name, [job_id(row) for row in left if row["worker"] == name and not _sits(row)])
            return wrong
        if left:
            say(f"{counted(len(left), 'job')} still there: wait for them with --wait, or stop them.", "")
        return PROBLEM if left else wrong


def _chosen(workers: Workers, given: Sequence[str]) -> list[str]:
    """The names of workers. UsageError when none is given and there are several, PoolError for unknown ones."""
    known = [worker.name for worker in workers.pool.workers]
    if not given and len(known) > 1:
        raise UsageError(f"pool {workers.pool.name!r} has {len(known)} workers: name those that are meant")
    where = f"worker pool {workers.pool.name!r}"
    strange = [name for name in given if name not in known]
    if strange:
        hints = {name: nearest(name, known) or f"It has {', '.join(known[:20])}." for name in strange}
        raise PoolError([Problem(where, "", f"there is no worker {name!r}.", hint) for name, hint in hints.items()])
    return list(dict.fromkeys(given)) or known


def _each(workers: Workers, names: Sequence[str], *, why: str = "", lift: bool = False, keep: bool = False) -> int:
    """`keep`: what was said of a worker that is cordoned already stays."""
    code = 0
    for name in names:
        try:
            backend = workers.backend(name)
            told = (keep and backend.facts().cordoned) or backend.cordon(by=getpass.getuser(), why=why, lift=lift)
        except JobDeployError as error:
            complain(f"worker {name}: {error}")
            code = PROBLEM
            continue
        say(f"Worker {name} takes no new jobs: {told}." if told else f"Worker {name} takes new jobs.", "")
    return code


def _live(workers: Workers) -> list[Row]:
    return [row for row in listing(workers).rows if row["state"].get("phase") != "ended"]


def _has_begun(row: Row) -> bool:
    """Has its command been started?"""
    return row["state"].get("status") != JobStatus.PENDING.value


def _is_moved(row: Row) -> bool:
    """Is it preempted? What has not begun loses nothing by that, if somebody is there to start it elsewhere."""
    plan = row["plan"]
    is_free = plan.get("owner") == "task" and plan.get("build") in (None, "", "up")
    return is_preemptible(plan) or (is_free and not _has_begun(row))


def _sits(row: Row) -> bool:
    """Does it wait for this worker, with nobody there to start it elsewhere?"""
    return not _has_begun(row) and not _is_moved(row)


def _ask_to_leave(workers: Workers, row: Row, reason: str) -> int:
    """Preempt a job that may be, or that has not begun; of others say that they stay."""
    name = job_id(row)
    if not _is_moved(row):
        does = "waits here until the worker takes jobs again" if _sits(row) else "is not preemptible, and goes on"
        say(f"Job {name} ({row['plan'].get('name', '')}) {does}.", "")
        return 0
    try:
        service.preempt(workers, handle_of(row, workers.pool.name), reason=reason, by=getpass.getuser())
    except JobDeployError as error:
        complain(f"job {name}: {error}")
        return PROBLEM
    say(f"Job {name} is told to make room.", "")
    return 0


def _tell_of_others(workers: Workers, name: str) -> None:
    """What other accounts hold there: their jobs are not ours to preempt, nor to wait for."""
    backend = workers.backend(name)
    leases = backend.room(gpus=False).leases if backend.capabilities.leases else ()
    users = sorted({str(lease.get("user")) for lease in leases if not lease.get("ours", True)})
    if users:
        say(f"Jobs of other accounts are on worker {name}, too, and go on: of {', '.join(users)}.", "")


def _see_ended(workers: Workers, name: str, jobs: Sequence[str]) -> None:
    left = set(jobs)
    while left:
        changed = workers.backend(name).watch(sorted(left), _WATCH_S)
        ended = {job for job, state in changed.items() if is_over(state)}
        for job in sorted(ended & left):
            say(f"Job {job} {changed[job].status.value}.", "")
        left -= ended
    say(f"No job of ours is on worker {name} any more.", "")
