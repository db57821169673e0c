"""What a simulation is made of: how large it is, jobs and whoever waits for them, hosts with their leases and lines."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.core.demand import Demand
from airflow_jobdeploy.core.gpus import GB, GpuWish
from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.placement import Wanted
from airflow_jobdeploy.core.standing import WorkerView

#: Of hosts: the model of their GPUs, its memory, how many.
MODELS = (("NVIDIA A100-SXM4-80GB", 80 * GB, 8), ("NVIDIA L4", 23 * GB, 4), ("Tesla T4", 15 * GB, 2), ("", 0, 0))
_A100, _SMALL, _ANY = GpuWish(type="A100"), GpuWish(type="T4"), GpuWish()
DEMANDS = (
    Demand(cpu_count=2, memory_bytes=4 * GB),
    Demand(cpu_count=2, memory_bytes=8 * GB, gpus=(_ANY,)),
    Demand(cpu_count=4, memory_bytes=16 * GB, gpus=(_A100,)),
    Demand(cpu_count=2, memory_bytes=8 * GB, gpus=(_SMALL, GpuWish(type="L4"))),
    Demand(cpu_count=4, memory_bytes=32 * GB, gpus=(GpuWish(count=2),)),
    Demand(cpu_count=8, memory_bytes=64 * GB, gpus=(GpuWish(type="A100", count=4),)),
    Demand(cpu_count=16, memory_bytes=128 * GB, gpus=(GpuWish(type="A100", count=8),)),
)
WEIGHTS = (10, 30, 15, 20, 12, 4, 1)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How large, and how bad luck is. `load`: of the GPUs, by those that arrive."""

    workers: int = 1000
    jobs: int = 10_000
    seed: int = 1
    load: float = 0.9
    mean_s: float = 1800.0
    #: Of jobs whose waiter is killed; hosts killed for each hundred jobs.
    kills: float = 0.05
    deaths: float = 1.0


@dataclass(kw_only=True)
class Job:
    """A job and whoever waits for it."""

    wanted: Wanted
    born_s: float
    runs_s: float
    wire: dict[str, Any]
    #: Workers that it has tickets on -> does it reserve there?
    tickets: dict[str, bool] = field(default_factory=dict)
    #: Where it holds a lease that it has accepted.
    at: str = ""
    started_s: float | None = None
    is_done: bool = False
    #: Its waiter was killed then; None: it is alive.
    killed_s: float | None = None
    #: Distinguishes what was scheduled for it before it was killed.
    life: int = 0


@dataclass(kw_only=True)
class Lease:
    """What a host holds. `ends_s`: the latest moment at which it does."""

    job: Job | None
    data: dict[str, Any]
    ends_s: float
    is_claimed: bool = False


class Host:
    """One worker: its leases, its line."""

    def __init__(self, name: str, kind: tuple[str, int, int]) -> None:
        model, memory, count = kind
        gpus = [
            {"index": i, "uuid": f"{name}-{i}", "model": model, "memory_bytes": memory, "mig": False}
            for i in range(count)
        ]
        self.name = name
        self.capacity: dict[str, Any] = {"cpu": 8.0 * max(count, 2), "memory": 64 * GB * max(count, 2), "gpus": gpus}
        self.leases: dict[str, Lease] = {}
        self.line: dict[str, tuple[Job, bool]] = {}
        self.is_up = True
        #: The first in line that reserves, and when it must have started.
        self.head: tuple[str, float] = ("", 0.0)

    def check(self) -> None:
        """No over-commit."""
        held = [uuid for lease in self.leases.values() for uuid in lease.data["gpus"]]
        assert len(held) == len(set(held)) <= len(self.capacity["gpus"]), f"a GPU of {self.name} was given out twice"
        for name in ("cpu", "memory"):
            total = sum(lease.data[name] for lease in self.leases.values())
            assert total <= self.capacity[name] + 1e-6, f"{self.name} gave out {total} of {name}"

    def view(self) -> WorkerView:
        room = None
        if self.is_up:
            own = [(uid, job) for uid, (job, reserves) in self.line.items() if reserves]
            line = [{"who": uid, "position": 1, "demand": job.wire} for uid, job in own]
            room = Room(capacity=self.capacity, leases=[lease.data for lease in self.leases.values()], tickets=line)
        return WorkerView(name=self.name, room=room)
