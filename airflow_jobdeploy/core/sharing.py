"""One machine seen twice: through pools of two kinds, or as two workers of one pool. Pure.

Hosts and engines hold leases in ways that do not see each other (sockets, containers), so what both give out is given
out twice. Nobody can notice by one pool alone: this judges those that were asked together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import NamedTuple

from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.standing import WorkerView
from airflow_jobdeploy.errors import Problem
from airflow_jobdeploy.hostside import fitting

#: The inode of the PID namespace that a machine boots with (PROC_PID_INIT_INO): any other is a container's.
_OF_THE_MACHINE = "4026531836"
_UNKNOWN = "unknown"
_DOCKER, _LOCAL = "docker", "local"


class Seen(NamedTuple):
    """A worker, as a pool's."""

    pool: WorkerPool
    view: WorkerView

    def __str__(self) -> str:
        return f"worker {self.view.name!r} of pool {self.pool.name!r}"


def kernel_of(boot: str, boot_id: str = "") -> str:
    """The kernel that a worker runs under, by its `boot` (hostside/identity.py) or the boot id that an engine tells.

    "" where that does not name the machine: in a container, or where nothing is known.
    """
    kernel, _, rest = boot.rpartition("-")[0].rpartition("-")
    return kernel if rest == _OF_THE_MACHINE and kernel != _UNKNOWN else boot_id


def twice(pool: WorkerPool, views: Sequence[WorkerView]) -> list[Problem]:
    """Workers of one pool that are the same machine: their jobs, slots and logs would be there twice."""
    found, known = [], {}  # type: list[Problem], dict[str, str]
    for view in views:
        other = known.setdefault(view.machine, view.name) if view.machine else view.name
        if other != view.name:
            message = f"{other!r} and {view.name!r} are the same machine ({view.machine}), with the same records."
            hint = "List it once: else all that it has counts twice."
            found.append(Problem(f"worker pool {pool.name!r}", "workers", message, hint))
    return found


def shared(seen: Sequence[Seen]) -> list[Problem]:
    """Machines and GPUs that pools of two kinds have, each told once."""
    engines = [each for each in seen if each.pool.kind == _DOCKER]
    hosts = [each for each in seen if each.pool.kind != _DOCKER]
    gpus = {id(each.view): _gpus(each.view) for each in seen}
    return [
        problem
        for engine in engines
        for host in hosts
        for problem in _between(engine, host, gpus[id(engine.view)] & gpus[id(host.view)])
    ]


def _between(engine: Seen, host: Seen, both: Set[str]) -> Iterator[Problem]:
    names = " and ".join(repr(name) for name in sorted({engine.pool.name, host.pool.name}))
    place = f"worker pools {names}"
    if both:
        gpus = f"GPU {min(both)} is" if len(both) == 1 else f"GPUs {', '.join(sorted(both))} are"
        hint = "Two jobs could get it at once: use the machine through one kind of pool."
        yield Problem(place, "", f"{gpus} that of {host} and that of {engine}.", hint)
    elif engine.view.kernel and engine.view.kernel == host.view.kernel and host.pool.kind != _LOCAL:
        hint = "Its cores and memory would be given out twice: use it through one kind of pool."
        yield Problem(place, "", f"{host} and {engine} are the same machine (boot {host.view.kernel}).", hint)


def _gpus(view: WorkerView) -> set[str]:
    """Those that jobs of its pool may get."""
    if view.room is None:
        return set()
    whole = fitting.read_limits(dict(view.room.capacity))
    return {gpu.uuid for gpu in (fitting.narrowed(whole, dict(view.within)) or whole).gpus}
