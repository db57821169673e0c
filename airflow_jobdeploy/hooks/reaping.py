"""The reaper: a live job whose task is over, and for which nobody waits, is stopped.

It is what is left when `on_kill` could not act: the triggerer was down, a process was killed, Airflow could not be
asked. A watcher does it on connect and every minute; a task that comes by the worker does it when nobody of its
machine has within a minute; `airflow jobdeploy reap` by hand. Only jobs of this deployment whose record says `owner:
task` are looked at. A job that was given up (given_up.py) while its worker was silent has no task either. That a job
is followed here does not save it when its task is over: SQLite gives the id of a deleted trigger to the next one, and
a triggerer that has the old one running goes on running it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import IO, Any

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.gate import own_directory
from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.reaping import GONE, reaping
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.hooks.deployment import deployment_id
from airflow_jobdeploy.hooks.given_up import given_up
from airflow_jobdeploy.service.asking import REAPER
from airflow_jobdeploy.service.silence import GivenUp

log = logging.getLogger(__name__)

#: (dag id, run ids) -> run id -> name of a task instance ("train", "train_3" when mapped) -> state
AskStates = Callable[[str, list[str]], Mapping[str, Mapping[str, Any]]]


class Reaper:
    """One worker's reaper: a chore of its watcher. Remembers whom it suspects from one look to the next."""

    def __init__(
        self,
        ask: AskStates = runtime.states_of_runs,
        deployment: Callable[[], str] = deployment_id,
        suspects: Iterable[str] = (),
        given_up: GivenUp = given_up,
    ) -> None:
        self._ask = ask
        self._given_up = given_up
        self._deployment = deployment
        #: Jobs whose owner seemed gone at the last look.
        self.suspects = frozenset(suspects)

    def __call__(self, backend: Backend, followed: frozenset[str]) -> list[str]:
        """Look once; the ids of the jobs that were told to stop. When Airflow cannot be asked, none."""
        try:
            keys = self._owned(backend)
            owners = owner_states(keys, self._ask)
        except runtime.CANNOT_ASK as error:
            log.warning("Airflow cannot be asked for the owners of live jobs (%s); looking again later.", error)
            return []
        # Whoever follows a job knows better than an answer that finds nothing.
        owners = {job_id: state for job_id, state in owners.items() if state != GONE or job_id not in followed}
        found = reaping(owners, self.suspects, self._given_up() if keys else {})
        self.suspects = found.suspects
        for job_id, why in found.stop.items():
            log.warning("Stopping job %s of %s: %s.", job_id, keys[job_id], why)
            backend.stop(job_id, reason=why, by=REAPER)
        return sorted(found.stop)

    def _owned(self, backend: Backend) -> dict[str, JobKey]:
        """Live jobs of ours that belong to tasks."""
        jobs = backend.jobs(deployment=self._deployment(), live_only=True)
        plans = [job["plan"] for job in jobs if job["plan"].get("owner") == "task"]
        keys = {str(plan["job_id"]): JobKey(**plan["key"]) for plan in plans}
        return {job_id: key for job_id, key in keys.items() if key.run_id}


#: So many runs are asked for in one question: their ids stand in a URL.
_RUNS_AT_ONCE = 100


def owner_states(keys: Mapping[str, JobKey], ask: AskStates) -> dict[str, str | None]:
    """The state of each job's task instance: one question a DAG, more for very many runs."""
    runs: dict[str, set[str]] = defaultdict(set)
    for key in keys.values():
        runs[key.dag_id].add(key.run_id)
    states: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for dag_id, found in runs.items():
        wanted = sorted(found)
        for start in range(0, len(wanted), _RUNS_AT_ONCE):
            states[dag_id].update(ask(dag_id, wanted[start : start + _RUNS_AT_ONCE]))
    return {job_id: _state(key, states[key.dag_id]) for job_id, key in keys.items()}


def _state(key: JobKey, states: Mapping[str, Mapping[str, Any]]) -> str | None:
    run = states.get(key.run_id, {})
    name = f"{key.task_id}_{key.map_index}" if key.map_index >= 0 else key.task_id
    if name not in run:
        return GONE
    state = run[name]
    return str(getattr(state, "value", state)) if state is not None else None


def reap(backends: Iterable[Backend]) -> list[str]:
    """Look once, from outside a task: Airflow's database itself is asked, so what is gone is gone."""
    stopped: list[str] = []
    for backend in backends:
        reaper = Reaper(runtime.states_in_database)
        stopped += reaper(backend, frozenset()) + reaper(backend, frozenset())
    return stopped


#: How long a look from a task counts for the other tasks of the machine, in seconds.
LOOK_EVERY_S = 60.0


def reap_in_passing(
    backend: Backend,
    followed: frozenset[str],
    ask: AskStates = runtime.states_of_runs,
    deployment: Callable[[], str] = deployment_id,
) -> list[str]:
    """Look from a task that has come to a worker anyway; the ids of the jobs that were told to stop.

    A task that is marked failed after it deferred and before its trigger began gets no `on_kill` from anybody, and
    where no other job is followed on its worker no triggerer comes to look. So tasks do, one a minute for all of the
    machine: 500 that come at once cost one look. WorkerError when the worker cannot be asked.
    """
    # Not by the name of the deployment: to look that up would cost each task a question to Airflow.
    mine = f"{backend.facts(quick=True).machine} {os.environ.get('AIRFLOW_HOME', '')}"
    name = hashlib.sha256(mine.encode()).hexdigest()[:20]
    with (own_directory() / f"reaped-{name}").open("a+") as notes:
        try:
            fcntl.flock(notes, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:  # another task is just looking
            return []
        last = _read(notes)
        if 0 <= time.time() - last["at"] < LOOK_EVERY_S:
            return []
        reaper = Reaper(ask, deployment, last["suspects"])
        stopped = reaper(backend, followed)
        notes.truncate(0)
        notes.write(json.dumps({"at": time.time(), "suspects": sorted(reaper.suspects)}))
        return stopped


def _read(notes: IO[str]) -> dict[str, Any]:
    """What the last look left; nothing where there was none, or it was cut off."""
    notes.seek(0)
    try:
        last = json.loads(notes.read())
        return {"at": float(last["at"]), "suspects": [str(job_id) for job_id in last["suspects"]]}
    except (ValueError, KeyError, TypeError):
        return {"at": 0.0, "suspects": []}
