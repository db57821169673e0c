"""`stop`, `forget`, `reap`: commands that end jobs or what is kept of them."""

from __future__ import annotations

import getpass
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from signal import Signals
from typing import TypeVar

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.attending import short
from airflow_jobdeploy.commands.frame import PROBLEM, command
from airflow_jobdeploy.commands.lookup import Found, Listing, is_job_id, job_id, listing, locate, open_pool
from airflow_jobdeploy.commands.screen import WORDS, complain, say
from airflow_jobdeploy.commands.values import UsageError, read_seconds
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.pool import Worker
from airflow_jobdeploy.core.spec_kinds import signal_number
from airflow_jobdeploy.core.status import JobState, JobStatus, duration
from airflow_jobdeploy.errors import JobDeployError, WorkerError
from airflow_jobdeploy.hooks import reaping, runtime
from airflow_jobdeploy.hooks.deployment import known_deployment
from airflow_jobdeploy.hooks.given_up import give_up
from airflow_jobdeploy.service import Workers

T = TypeVar("T")

#: How long the end of a job is waited for beyond its grace.
STOP_MARGIN_S = 20.0


@command
def stop(args: Namespace) -> int:
    """Stop jobs."""
    reason = args.reason or "stopped by hand"
    with open_pool(args.worker_pool or "local") as workers:
        founds, wrong = _located(workers, args.ids)
        # All orders go out before the first end is waited for.
        wrong += _each(founds, partial(_order, workers, reason))
        if not args.no_wait:
            wrong += _each(founds, lambda found: _tell(stop_and_see(workers, found, reason)))
    return PROBLEM if wrong else 0


def _each(things: Iterable[T], act: Callable[[T], object]) -> int:
    """Do the same to each thing; what is wrong with one is said, and the others follow. How many went wrong."""
    wrong = 0
    for thing in things:
        try:
            act(thing)
        except JobDeployError as error:
            complain(str(error))
            wrong += 1
    return wrong


def _located(workers: Workers, ids: Sequence[str]) -> tuple[list[Found], int]:
    """The jobs, and how many ids named none."""
    known = listing(workers)
    founds: list[Found] = []
    wrong = _each(ids, lambda given: founds.append(locate(workers, given, known)))
    return founds, wrong


def _order(workers: Workers, reason: str, found: Found) -> None:
    handle = service.current(workers, found.handle)
    state = service.stop(workers, handle, reason=reason, by=getpass.getuser())
    if not is_over(state):
        say(f"Job {state.job_id} is told to stop.")


def stop_and_see(workers: Workers, found: Found, reason: str) -> JobState:
    """Stop a job that lives, and see it ended. WorkerError when it does not end."""
    wait_s = found.grace_s + STOP_MARGIN_S
    handle = service.current(workers, found.handle)
    state = service.stop(workers, handle, reason=reason, by=getpass.getuser(), wait_s=wait_s)
    if not is_over(state):
        raise WorkerError(
            f"job {state.job_id} was told to stop and is still {state.status} after {duration(wait_s)}; "
            "its worker goes on ending it"
        )
    return state


def _tell(state: JobState) -> None:
    word = state.status.value
    say(f"Job {state.job_id} {word}: {short(state)}", WORDS.get(word, ""))


@command
def preempt(args: Namespace) -> int:
    """Make a job give up its place."""
    grace_s = None if args.grace is None else read_seconds(args.grace, "--grace", zero=True)
    name = _signal_name(args.signal)
    with open_pool(args.worker_pool or "local") as workers:
        found = locate(workers, args.id)
        wait_s = 0.0 if args.no_wait else (found.grace_s if grace_s is None else grace_s) + STOP_MARGIN_S
        handle = service.current(workers, found.handle)
        reason = args.reason or "preempted by hand"
        by = getpass.getuser()
        state = service.preempt(workers, handle, reason=reason, by=by, signal=name, grace_s=grace_s, wait_s=wait_s)
    _tell(state)
    if is_over(state) and state.status is not JobStatus.SUSPENDED:
        say("It had ended by itself: there is no place to give up.")
    return 0 if is_over(state) or args.no_wait else PROBLEM


def _signal_name(given: str | None) -> str | None:
    """`USR2` as SIGUSR2. UsageError."""
    number = None if given is None else signal_number(given)
    if given is not None and number is None:
        raise UsageError(f"--signal: {given!r} is no signal; signals are SIGTERM, SIGUSR2, ...")
    return None if number is None else Signals(number).name


@command
def bump(args: Namespace) -> int:
    """Let a job live longer."""
    seconds = read_seconds(args.time, "TIME")
    with open_pool(args.worker_pool or "local") as workers:
        handle = service.current(workers, locate(workers, args.id).handle)
        state = service.extend(workers, handle, seconds)
    left_s = max(0.0, (state.life_span_s or 0.0) - (state.running_s or 0.0))
    say(f"Job {state.job_id} may run for {duration(state.life_span_s)}: {duration(left_s)} more.")
    return 0


@command
def forget(args: Namespace) -> int:
    """Remove the records of ended jobs, or give up those whose worker will not come back."""
    with open_pool(args.worker_pool or "local") as workers:
        if args.lost:
            known = listing(workers)
            wrong = _each(args.ids, lambda given: _give_up(workers, given.strip().lower(), known))
            return PROBLEM if wrong else 0
        founds, wrong = _located(workers, args.ids)
        wrong += _each(founds, lambda found: forget_job(workers, found.handle.worker, found.handle.job_id))
    return PROBLEM if wrong else 0


def _give_up(workers: Workers, given: str, known: Listing) -> None:
    """Take a job for lost with its worker. UsageError, WorkerError where there is a better answer."""
    if not is_job_id(given):
        raise UsageError(f"forget --lost: {given!r} is no whole job id; the task's log has it (j and 20 characters)")
    row = next((row for row in known.rows if job_id(row) == given), None)
    if row is not None:
        text = f"job {given} is not lost: worker {row['worker']} answers, and says that it is {row['state']['status']}"
        raise WorkerError(f"{text}. `airflow jobdeploy stop` ends it, `forget` without --lost removes its record")
    _check_database()
    give_up(given, by=getpass.getuser())
    silent = ", ".join(known.silent)
    say(f"Job {given} is given up: who waits for it takes it for lost, and may start it elsewhere.")
    say(f"Should its worker{f' ({silent})' if silent else ''} answer again, what still runs of it is stopped.", "")


def forget_job(workers: Workers, worker: str, job_id: str) -> None:
    """Remove the record of one job. WorkerError while it lives."""
    workers.backend(worker).forget(job_id)
    say(f"Forgot job {job_id}.")


@command
def reap(args: Namespace) -> int:
    """Stop live jobs of this Airflow whose task instance is over or gone."""
    _check_database()
    if not known_deployment():
        say("No task of this Airflow has started a job yet: nothing to stop.", "")
        return 0
    with open_pool(args.worker_pool or "local") as workers:
        stopped, wrong = [], 0
        for worker in workers.pool.workers:
            wrong += _each([worker], lambda worker: stopped.extend(_reaped(workers, worker)))
    for name in stopped:
        say(f"Job {name} is told to stop: its task is over.")
    if not stopped and not wrong:
        say("Every live job has a task that waits for it: nothing to stop.", "")
    return PROBLEM if wrong else 0


def _reaped(workers: Workers, worker: Worker) -> list[str]:
    return reaping.reap([workers.backend(worker.name)])


def _check_database() -> None:
    """JobDeployError when the metadata database, which knows the tasks, cannot be asked."""
    try:
        runtime.connections_of_type()
    except OSError as error:
        raise JobDeployError(f"the metadata database, which knows the tasks, cannot be asked: {error}") from error
