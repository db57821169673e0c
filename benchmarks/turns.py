"""Who waits for a GPU, and how soon it has it; a thousand jobs on twenty hosts; a host that is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.sequels import after_end
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.service.line import StillWaiting
from benchmarks import jobs
from benchmarks.lab import CONN, Lab
from benchmarks.rows import Measured
from tests.airflow.standalone import START_S, Airflow, wait_for
from tests.servers.gpus import FakeGpus
from tests.servers.sshd import running

_POOL = "bench_gpus"
_ROUNDS = 5
_HOSTS, _JOBS, _WINDOW_S = 20, 1000, 60.0


class Memo:
    """An intent store that ends with its process."""

    def __init__(self) -> None:
        self._value: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        return self._value

    def save(self, value: Any) -> None:
        self._value = dict(value)


def turns(lab: Lab) -> Iterator[Measured]:
    """One GPU that is held, and one job that waits for it: from the holder's end on."""
    fake = FakeGpus(lab.dir / "tools", count=1, model="Bench GPU")
    extra = {
        "kind": "ssh",
        "workers": [{"conn_id": CONN}],
        "root": str(lab.ram / "gpus"),
        "login_path": f"{fake.folder}:{os.defpath}",
    }
    os.environ[f"AIRFLOW_CONN_{_POOL.upper()}"] = json.dumps({"conn_type": "jobdeploy", "extra": extra})
    processes = [_turn(lab, number, _by_process) for number in range(_ROUNDS)]
    yield Measured(row="turn_process", ours=max(processes))
    triggers = [_turn(lab, number, _by_trigger) for number in range(_ROUNDS)]
    yield Measured(row="turn_trigger", ours=max(triggers), reference=_redispatch(lab))


def _turn(lab: Lab, number: int, wait: Callable[[threading.Event], float]) -> float:
    """Seconds from the end of the holder until the one who waits has what it waits for."""
    door = lab.dir / f"door-{wait.__name__}-{number}"
    ended = Path(f"{door}.ended")
    holder = f"while [ ! -e {door} ]; do sleep 0.01; done; date +%s.%N > {ended}"
    with _workers() as workers:
        service.submit(_work(workers, holder), workers, intents=Memo(), epoch={}, say=_nothing)
    waits = threading.Event()
    found: list[float] = []
    waiter = threading.Thread(target=lambda: found.append(wait(waits)))
    waiter.start()
    assert waits.wait(30)
    door.touch()
    waiter.join(60)
    return found[0] - float(ended.read_text())


def _by_process(waits: threading.Event) -> float:
    """When the first line of its job came: seconds since the epoch."""
    came: list[float] = []

    def line(text: str) -> None:
        came.append(time.time())

    def said(text: str) -> None:
        if text.startswith("Waiting for"):
            waits.set()

    with _workers() as workers:
        handle = service.submit(_work(workers, "echo mine"), workers, intents=Memo(), epoch={}, say=said).handle
        service.follow(workers, handle, say_log=line, say=_nothing)
    return came[0]


def _by_trigger(waits: threading.Event) -> float:
    """When the trigger of a deferred task fired."""
    from airflow_jobdeploy.triggers.line import LineTrigger

    with _workers() as workers:
        try:
            service.submit(_work(workers, "true"), workers, intents=Memo(), epoch={}, say=_nothing, line_s=0.0)
        except StillWaiting as waiting:
            trigger = LineTrigger(wait=waiting.wait.to_dict())
    trigger.task_instance = None  # type: ignore[assignment]

    async def fired() -> tuple[float, dict[str, Any]]:
        asyncio.get_running_loop().call_later(2.0, waits.set)  # by then it stands in line
        async for event in trigger.run():
            return time.time(), event.payload
        raise AssertionError("no event")

    at, event = asyncio.run(fired())
    with _workers() as workers:
        workers.backend(CONN).release(event["granted"]["lease"]["id"])
    return at


def _workers(pool: str = _POOL) -> service.Workers:
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    return JobDeployHook(pool).get_conn()


def _work(workers: service.Workers, command: str) -> service.Work:
    spec = {"command": command, "gpu_types": [{"type": "Bench GPU", "count": 1}]}
    return service.prepare_run(load_spec(spec), pool=workers.pool, resolve_secret=str)


def _nothing(text: str) -> None:
    """What would be said in a task's log."""


_DAG = """
from airflow.sdk import DAG
from airflow_jobdeploy.operators.job import JobRunOperator

with DAG("redispatch", schedule=None, is_paused_upon_creation=False) as dag:
    spec = {"command": "sleep 5; date +%s.%N > {{ dag_run.conf['folder'] }}/ended"}
    JobRunOperator(task_id="run", job_spec=spec, deferrable=True)
"""


class _Airflow(Airflow):
    DAG_IDS = frozenset({"redispatch"})


def _redispatch(lab: Lab, rounds: int = 3) -> float:
    """Seconds from the end of a deferred task's job to the end of the task, in a running Airflow (SQLite)."""
    folder = lab.dir / "redispatch"
    (folder / "dags").mkdir(parents=True)
    (folder / "dags" / "redispatch.py").write_text(_DAG)
    airflow = _Airflow(folder, {"AIRFLOW__CORE__DAGS_FOLDER": str(folder / "dags")})
    found = []
    try:
        airflow.start()
        lab.say("starting an Airflow")
        wait_for(airflow.is_up, "airflow standalone", START_S, every_s=1)
        for _ in range(rounds):
            run = airflow.trigger("redispatch")
            ended = datetime.fromisoformat(run.until("success")["end_date"].replace("Z", "+00:00"))
            found.append(ended.timestamp() - float((run.folder / "ended").read_text()))
    finally:
        airflow.stop()
    return statistics.median(found)


# -- a host that is lost ----------------------------------------------------------------------------------------------

_LOST_AFTER_S = 30.0


def lost(lab: Lab) -> Iterator[Measured]:
    """Two hosts; the one that runs a preemptible job dies with its sshd: until the job runs on the other."""
    with running(lab.dir / "doomed", MaxSessions=100) as doomed:
        extra = {"key_file": str(doomed.key_file), "host_key": doomed.host_key, "look_for_keys": "false"}
        host = {"conn_type": "ssh", "host": "127.0.0.1", "port": doomed.port, "login": doomed.user, "extra": extra}
        os.environ["AIRFLOW_CONN_DOOMED"] = json.dumps(host)
        pool = {"kind": "ssh", "workers": [{"conn_id": "doomed"}, {"conn_id": CONN}], "root": str(lab.ram / "lost")}
        os.environ["AIRFLOW_CONN_BENCH_LOST"] = json.dumps({"conn_type": "jobdeploy", "extra": pool})
        spec = {"command": "exec sleep 600", "preemptible": True, "worker_lost_after": _LOST_AFTER_S, "grace": 1}
        intents = Memo()
        with _workers("bench_lost") as workers:
            work = service.prepare_run(load_spec(spec), pool=workers.pool, resolve_secret=str)
            first = service.submit(work, workers, intents=intents, epoch={}, say=_nothing).handle
            service.follow(workers, first, say_log=_nothing, say=_nothing, until=_runs)
            sessions = jobs.children(doomed.process.pid)
            for pid in (doomed.process.pid, *sessions):
                os.kill(pid, signal.SIGKILL)
            killed = time.monotonic()
            state = service.follow(workers, first, say_log=_nothing, say=_nothing).state
            sequel = after_end(state, work.recovery, preemptions=0, retries=0)
            second = service.submit(work, workers, sequel=sequel, intents=intents, epoch={}, say=_nothing).handle
            service.follow(workers, second, say_log=_nothing, say=_nothing, until=_runs)
            taken = time.monotonic() - killed
            service.stop(workers, second, reason="measured", by="the benchmark", wait_s=30)
    yield Measured(row="host_lost", ours=taken - _LOST_AFTER_S)


def _runs(state: JobState) -> bool:
    return state.status is JobStatus.RUNNING or is_over(state)


# -- many hosts -------------------------------------------------------------------------------------------------------


def fleet(lab: Lab) -> Iterator[Measured]:
    """A thousand quiet jobs on twenty hosts (each a root of its own on one sshd), followed by one triggerer."""
    given = []
    backends = []
    for number in range(_HOSTS):
        name = f"bench_fleet_{number}"
        extra = {"kind": "ssh", "workers": [{"conn_id": CONN}], "root": str(lab.ram / "fleet" / str(number))}
        os.environ[f"AIRFLOW_CONN_{name.upper()}"] = json.dumps({"conn_type": "jobdeploy", "extra": extra})
        with jobs.backend(name) as host:
            handles = [jobs.start(host, "exec sleep 3600", name) for _ in range(_JOBS // _HOSTS)]
        given += jobs.as_json(handles)
        backends.append((name, handles))
        lab.say(f"{len(given)} of {_JOBS} jobs started")
    try:
        before = lab.accepted()
        log = lab.ram / "fleet.log"
        found = lab.apart("benchmarks.loop", kind="ours", jobs=given, window_s=_WINDOW_S, log=str(log))
        connections = lab.accepted() - before
        log.unlink()
    finally:
        for name, handles in backends:
            with jobs.backend(name) as host:
                jobs.stop_all(host, handles)
    yield Measured(row="fleet_cpu", ours=found["cpu_here"] / 60 * 100)
    yield Measured(row="fleet_connections", ours=connections)
