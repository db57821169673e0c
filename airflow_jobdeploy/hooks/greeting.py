"""What a worker says of itself when it is asked who it is: one line."""

from __future__ import annotations

from airflow_jobdeploy.backends.base import WorkerFacts
from airflow_jobdeploy.core.words import size
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.service import Workers


def greeted(workers: Workers, name: str) -> tuple[bool, str]:
    """Does it answer? And the line."""
    try:
        facts = workers.backend(name).facts()
    except WorkerError as error:
        return False, f"{name}: {error}"
    return True, f"{name}: {_described(facts)}"


def _described(facts: WorkerFacts) -> str:
    said = (
        f"{facts.user}@{facts.hostname}, Python {facts.python}, {facts.cpu_count:g} CPUs, "
        f"{size(facts.memory_bytes)} memory, {size(facts.disk_free_bytes)} free in {facts.root}"
    )
    return said + "".join(f" (note: {warning})" for warning in facts.warnings)
