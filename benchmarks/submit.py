"""Submit `true` and see it end: as a task alone, and inside dag.test()."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from benchmarks.lab import CONN, Lab, execute, task
from benchmarks.measure import interleaved, wall_s
from benchmarks.rows import Measured

_CHAIN = 5


def raw(lab: Lab, rounds: int = 15) -> Iterator[Measured]:
    """operator.execute against SSHRemoteJobOperator with its trigger; and the connections that one submit makes."""
    from benchmarks import stock

    def ours() -> float:
        with task(lab.dir, uuid.uuid4().hex) as context:
            return wall_s(lambda: execute(_ours(), context))

    def theirs() -> float:
        with task(lab.dir, uuid.uuid4().hex) as context:
            return wall_s(lambda: stock.run_deferred(stock.remote_job("true"), context))

    ours(), theirs()  # what happens once a host, or once a process, is not what a job costs
    yield Measured(row="connections", ours=_connections(lab, ours), reference=_connections(lab, theirs))
    found = interleaved({"ours": ours, "stock": theirs}, rounds)
    yield Measured(row="submit", ours=found["ours"] * 1000, reference=found["stock"] * 1000)


def _ours(task_id: str = "t", **options: Any) -> Any:
    from airflow_jobdeploy.operators.job import JobRunOperator

    return JobRunOperator(task_id=task_id, job_spec={"command": "true"}, worker_pool=CONN, **options)


def _connections(lab: Lab, action: Callable[[], object]) -> int:
    before = lab.accepted()
    action()
    return lab.accepted() - before


def in_dag_test(lab: Lab) -> Iterator[Measured]:
    """Five chained tasks a DAG; what one costs over a Python task that does nothing."""
    found = lab.apart("benchmarks.submit", rounds=5)
    yield Measured(row="dag_test", ours=found["ours"], reference=found["stock"])


def answer(question: dict[str, Any]) -> dict[str, float]:
    """Milliseconds a task over no-op."""
    import airflow.utils.db

    from tests.airflow.conftest import sync_dag

    airflow.utils.db.initdb()
    dags = {name: _chain(name) for name in ("noop", "ours", "stock")}
    for dag in dags.values():
        sync_dag(dag)
        _walked(dag)
    found = interleaved({name: partial(_walked, dag) for name, dag in dags.items()}, question["rounds"])
    return {name: (found[name] - found["noop"]) * 1000 / _CHAIN for name in ("ours", "stock")}


def _chain(kind: str) -> Any:
    from airflow.providers.standard.operators.python import PythonOperator
    from airflow.sdk import DAG

    from benchmarks import stock

    makers: dict[str, Callable[[str], Any]] = {
        "noop": lambda name: PythonOperator(task_id=name, python_callable=_nothing),
        "ours": lambda name: _ours(name, deferrable=True),
        "stock": lambda name: stock.remote_job("true", task_id=name, cleanup="always"),
    }
    with DAG(f"bench_{kind}", schedule=None) as dag:
        tasks = [makers[kind](f"t{number}") for number in range(_CHAIN)]
        for before, after in itertools.pairwise(tasks):
            before >> after
    return dag


def _nothing() -> None:
    """What the other tasks are compared with."""


def _walked(dag: Any) -> float:
    begun = time.perf_counter()
    run = dag.test()
    taken = time.perf_counter() - begun
    assert str(run.state) == "success", run.state
    return taken
