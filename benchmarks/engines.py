"""The same on a Docker engine of our own, beside the docker client and DockerOperator. Needs root and dockerd."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from airflow_jobdeploy.backends.engine import names
from benchmarks import jobs
from benchmarks.lab import ENGINE, Lab, execute, task
from benchmarks.loop import held
from benchmarks.measure import interleaved, wall_s
from benchmarks.rows import Measured
from tests.servers.dockerd import IMAGE, Dockerd, started

_BIG = 512 * 1024 * 1024
_FILES, _SMALL = 5000, 8 * 1024


@contextmanager
def _engine() -> Iterator[Dockerd]:
    with started() as engine:
        extra = {"image": IMAGE, "containers": {"user": "0:0"}}
        os.environ[f"AIRFLOW_CONN_{ENGINE.upper()}"] = json.dumps(
            {"conn_type": "docker", "host": engine.url, "extra": extra}
        )
        yield engine


def submit(lab: Lab, rounds: int = 15) -> Iterator[Measured]:
    """operator.execute of `true`, against `docker run --rm` and DockerOperator."""
    from benchmarks import stock

    def executed(operator: Any) -> float:
        with task(lab.dir, uuid.uuid4().hex) as context:
            return wall_s(lambda: execute(operator, context))

    with _engine() as engine:
        cases: dict[str, Callable[[], float]] = {
            "ours": lambda: executed(_ours("true")),
            "client": lambda: wall_s(lambda: _docker(engine, "run", "--rm", IMAGE, "true")),
            "stock": lambda: executed(stock.docker(engine.url, "true")),
        }
        for case in cases.values():  # what happens once a process is not what a job costs
            case()
        found = interleaved(cases, rounds)
    ours = found["ours"] * 1000
    yield Measured(row="engine_run", ours=ours, reference=found["client"] * 1000)
    yield Measured(row="engine_submit", ours=ours, reference=found["stock"] * 1000)


def _ours(command: str) -> Any:
    from airflow_jobdeploy.operators.job import JobRunOperator

    return JobRunOperator(task_id="t", job_spec={"command": command}, worker_pool=ENGINE)


def _docker(engine: Dockerd, *words: str) -> None:
    environment = {**os.environ, "DOCKER_HOST": engine.url}
    subprocess.run(["docker", *words], env=environment, check=True, stdout=subprocess.DEVNULL)


def quiet(lab: Lab, count: int = 100, window_s: float = 60.0) -> Iterator[Measured]:
    """CPU here and of the engine, and connections: our triggers, against an inspect of each container each second."""
    with _engine() as engine, jobs.backend(ENGINE, ENGINE) as host:
        handles = jobs.start_many(host, "exec sleep 3600", count, lab.say, pool=ENGINE, worker=ENGINE)
        found = {}
        for kind in ("ours", "inspect"):
            # The daemons alone: containers cost the same, whoever looks at them.
            given = {"sshd": engine.pid, "mark": f"{engine.dir}/nobody", "socket": engine.url, "held": held(engine.url)}
            given |= {"jobs": jobs.as_json(handles), "log": str(lab.ram / kind), "window_s": window_s}
            found[kind] = lab.apart("benchmarks.loop", kind=kind, **given)
    for row, name in (("here", "cpu_here"), ("engine", "cpu_host"), ("connections", "connections")):
        ours, polled = found["ours"][name], found["inspect"][name]
        yield Measured(row=f"engine_watch_{row}", ours=ours, reference=polled)


def down(lab: Lab, rounds: int = 3) -> Iterator[Measured]:
    """Artifacts out of a container that has ended, against `docker cp`; each of our files is verified."""
    big = f"head -c {_BIG // 2} /dev/urandom > big; head -c {_BIG // 2} /dev/zero >> big"
    many = f"for n in $(seq {_FILES}); do head -c {_SMALL} /dev/urandom > file$n; done"
    with _engine() as engine:
        with jobs.backend(ENGINE, ENGINE) as host:
            made = {"big": _made(lab, host, big), "many": _made(lab, host, many)}
        found = {}
        for name, handle in made.items():
            cases = {"ours": partial(_downloaded, lab, handle), "client": partial(_copied, lab, engine, handle)}
            found[name] = interleaved(cases, rounds)
    rate = {name: _BIG / taken / 1e6 for name, taken in found["big"].items()}
    yield Measured(row="engine_big_file", ours=rate["ours"], reference=rate["client"])
    yield Measured(row="engine_small_files", ours=found["many"]["ours"], reference=found["many"]["client"])


def _made(lab: Lab, host: Any, command: str) -> Any:
    lab.say("making artifacts")
    handle = jobs.start(host, f'cd "$JOBDEPLOY_OUTPUT_DIR" && {command}', ENGINE, worker=ENGINE)
    state = jobs.finished(host, handle.job_id)
    assert state.status == "SUCCEEDED", state.message
    return handle.with_state(state)


def _downloaded(lab: Lab, handle: Any) -> float:
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    dest = lab.dest()
    return wall_s(lambda: JobDeployHook(ENGINE).download(handle.to_dict(), dest))


def _copied(lab: Lab, engine: Dockerd, handle: Any) -> float:
    dest = lab.dest()
    taken = wall_s(lambda: _docker(engine, "cp", f"{handle.job_id}:{names.OUTPUT}/.", str(dest)))
    assert sum(1 for _ in dest.iterdir()) in (1, _FILES)
    return taken


def flood(lab: Lab, lines: int = 1_000_000) -> Iterator[Measured]:
    """Lines a second, lines lost, memory of the task: JobRunOperator against DockerOperator."""
    program = f'BEGIN {{ for (n = 0; n < {lines}; n++) printf "line %07d {"x" * 186}\\n", n }}'
    found = {}
    with _engine() as engine:
        for kind in ("ours_on_engine", "stock_on_engine"):
            log = lab.ram / f"{kind}.log"
            given = {"command": f"awk '{program}'", "log": str(log), "lines": lines, "engine": engine.url}
            found[kind] = lab.apart("benchmarks.logs", kind=kind, **given)
            log.unlink()
    ours, stock = found["ours_on_engine"], found["stock_on_engine"]
    yield Measured(row="engine_log_rate", ours=lines / ours["wall_s"], reference=lines / stock["wall_s"])
    yield Measured(row="engine_log_lost", ours=ours["lost"], reference=stock["lost"])
    yield Measured(row="engine_log_rss", ours=ours["rss"] / 1e6, reference=stock["rss"] / 1e6)
