"""What works on one connection to an engine, put together, once the machine is known to be the expected one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from airflow_jobdeploy.backends.base import WorkerFacts
from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.claims import Claims
from airflow_jobdeploy.backends.engine.containers import JobContainers
from airflow_jobdeploy.backends.engine.derived import Derived
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.ledger import Ledger
from airflow_jobdeploy.backends.engine.line import Line
from airflow_jobdeploy.backends.engine.places import Places, machine_label
from airflow_jobdeploy.backends.engine.resources import Resources
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.backends.engine.starts import Starts
from airflow_jobdeploy.backends.engine.stays import Stays
from airflow_jobdeploy.backends.engine.stock import Stock
from airflow_jobdeploy.backends.engine.watching import EngineWatch
from airflow_jobdeploy.errors import WorkerChanged
from airflow_jobdeploy.hostside import layout


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What works on one connection."""

    places: Places
    jobs: Jobs
    resources: Resources
    containers: JobContainers
    claims: Claims
    starts: Starts
    watch: EngineWatch
    stock: Stock
    line: Line
    stays: Stays
    #: Who the engine is, and whether it takes jobs: what it has takes it long to tell.
    quick_facts: WorkerFacts


def assembled(
    engine: Engine,
    places: Places,
    watch: EngineWatch,
    settings: Settings,
    secrets: dict[str, Mapping[str, str]],
    machine: str,
) -> Parts:
    """All parts, on the connection that `engine` has now. `watch`, `secrets`: these outlive it. WorkerUnreachable."""
    jobs = Jobs(engine, places)
    jobs.machine = machine
    resources = Resources(places)
    stock = Stock(engine, places, settings)
    derived = Derived(engine, places, settings.auth)
    containers = JobContainers(engine, places, derived, settings, stock.inventory)
    claims = Claims(engine, places, jobs, resources, settings, secrets, derived, containers)
    ledger = Ledger(engine, places)
    line = Line(places, jobs, stock, ledger)
    return Parts(
        places=places,
        jobs=jobs,
        resources=resources,
        containers=containers,
        claims=claims,
        starts=Starts(engine, places, jobs, claims, containers, line),
        watch=watch,
        stock=stock,
        line=line,
        stays=Stays(ledger, places),
        quick_facts=WorkerFacts(worker=engine.worker, machine=machine, cordoned=stock.cordoned()),
    )


def checked_machine(worker: str, places: Places, expected: str | None) -> str:
    """The identity of the engine's machine; `expected`: None at the first time. WorkerUnreachable, WorkerChanged.

    By a label in the engine's own data: with that all jobs would go, and come.
    """
    labels = places.volume_labels(names.MACHINE_VOLUME)
    if not (labels or {}).get(names.MACHINE):
        labels = places.make_volume(names.MACHINE_VOLUME, machine_label())
    machine = "m" + layout.letters(str((labels or {}).get(names.MACHINE, "")).encode(), 20)
    if expected is not None and machine != expected:
        raise WorkerChanged(
            f"another machine answers as {worker}: {machine}, expected {expected}."
            " Was the engine's data removed, or does the name lead to several engines?"
        )
    return machine
