"""What GPUs cost: a session on a host that has some, and the time in which a free one does nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

from airflow_jobdeploy.backends.channel import LocalClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.backends.session import Session
from airflow_jobdeploy.core.leases import Lease, Ticket, lease_of
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from benchmarks.lab import Lab
from benchmarks.rows import Measured
from tests.servers.gpus import FakeGpus

_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


def start(lab: Lab, rounds: int = 15) -> Iterator[Measured]:
    """As the row `serve_start`, on a host whose eight GPUs an earlier session has seen."""
    path = f"{_equipped(lab).folder}:{_SYSTEM_PATH}"
    _started(lab, path)
    found = statistics.median(_started(lab, path) for _ in range(rounds))
    yield Measured(row="serve_start_gpus", ours=found * 1000)


def _started(lab: Lab, path: str) -> float:
    begun = time.perf_counter()
    session = Session(LocalClient(), python="/usr/bin/python3", root=str(lab.dir / "with GPUs"))
    session.request("hello", env_mode="inherit", path=path)
    taken = time.perf_counter() - begun
    session.close()
    return taken


def freed(lab: Lab, rounds: int = 7) -> Iterator[Measured]:
    """One process holds the only GPU of an SSH host and gives it back; another waits there, and starts a job then."""
    gpus = _equipped(lab, count=1)
    holder, waiter = _backend(lab, gpus), _backend(lab, gpus)
    try:
        times = [_first_line_after(holder, waiter, gpus.model) for _ in range(rounds)]
    finally:
        holder.close()
        waiter.close()
    yield Measured(row="freed", ours=max(times))


def _first_line_after(holder: HostedBackend, waiter: HostedBackend, model: str) -> float:
    demand = {"gpus": [{"type": model, "count": 1}]}
    held = holder.seek(Ticket(uid=new_uid(), demand=demand)).lease or _granted(holder)
    ticket = Ticket(uid=new_uid(), demand=demand)
    assert waiter.seek(ticket).lease is None
    begun = time.monotonic()
    holder.release(held.id)
    step = Step(name="job", kind="shell", content="echo begun; exec sleep 0.2")
    plan = Plan(uid=ticket.uid, steps=(step,), lease=lease_of(ticket, _granted(waiter)))
    waiter.claim(plan)
    waiter.start(plan.job_id)
    while not waiter.read_log(plan.job_id, 0, 100).data:
        waiter.watch([plan.job_id], 1.0)
    taken = time.monotonic() - begun
    while not waiter.poll([plan.job_id])[plan.job_id].status.is_finished:
        waiter.watch([plan.job_id], 1.0)
    return taken


def _granted(backend: HostedBackend) -> Lease:
    while not (answers := backend.granted(5.0)):
        continue
    [answer] = answers.values()
    assert answer.lease, answer
    return answer.lease


def _equipped(lab: Lab, count: int = 8) -> FakeGpus:
    return FakeGpus(lab.dir / f"{count} GPUs", count=count, model=f"Bench {new_uid()[:8]}")


def _backend(lab: Lab, gpus: FakeGpus) -> HostedBackend:
    path = f"{gpus.folder}:{_SYSTEM_PATH}"
    return HostedBackend(worker="bench", kind="ssh", connect=lab.server.client, root=str(lab.dir / "leases"), path=path)
