"""What some jobs hold together, and what is too little beside it, in words. Pure."""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Sequence, Set, Tuple

from airflow_jobdeploy.hostside.fitting import Demand, Gpu, Limits, held_amount

AMOUNTS = ("cpu", "memory", "disk")
_GIB = float(1 << 30)


class Held(NamedTuple):
    """What one lease holds, or one verdict just gave."""

    gpus: Tuple[str, ...]
    cpu: float
    memory: float
    disk: float
    owner: Tuple[str, str]
    past: str
    #: (deployment, team); a team of "" is none.
    team: Tuple[str, str] = ("", "")


def owner_of(data: Mapping[str, Any], kind: str = "owner") -> Tuple[str, str]:
    """(deployment, owner) of a lease or ticket, or (deployment, team)."""
    return str(data.get("deployment") or ""), str(data.get(kind) or "")


def read_lease(lease: Mapping[str, Any]) -> Held:
    """A lease as it came."""
    gpus = lease.get("gpus")
    cpu, memory, disk = (held_amount(lease.get(name)) for name in AMOUNTS)
    named = tuple(str(uuid) for uuid in gpus) if isinstance(gpus, (list, tuple)) else ()
    return Held(named, cpu, memory, disk, owner_of(lease), str(lease.get("past") or ""), owner_of(lease, "team"))


class Sums:
    """What some of those that run hold together."""

    def __init__(self) -> None:
        self.cpu = self.memory = self.disk = 0.0
        self.jobs = 0
        self.gpus: Set[str] = set()

    def add(self, held: Held) -> None:
        self.cpu += held.cpu
        self.memory += held.memory
        self.disk += held.disk
        self.jobs += 1
        self.gpus.update(held.gpus)

    def lack(self, demand: Demand, limits: Limits) -> str:
        """What is too little beside these for `demand`, in words; "" when cores, memory, disk and slots suffice."""
        if self.jobs + 1 > limits.slots:
            return "needs a slot, 0 of %d free" % max(limits.slots, 0)
        for name in AMOUNTS:
            wanted = getattr(demand, name)
            free = getattr(limits, name) - getattr(self, name)
            if wanted and wanted > free + 1e-9:
                return _lack_text(name, wanted, max(free, 0.0), getattr(limits, name))
        return ""


# -- in words ----------------------------------------------------------------------------------------------------------


def _lack_text(name: str, wanted: float, free: float, of: float) -> str:
    if name == "cpu":
        cores = "core" if wanted == 1 else "cores"
        return "needs %g %s, %g of %g free" % (round(wanted, 2), cores, round(free, 2), round(of, 2))
    return "needs %.1f GiB %s, %.1f of %.1f free" % (wanted / _GIB, name, free / _GIB, of / _GIB)


def gpus_text(demand: Demand) -> str:
    return " or ".join(("%d GPU %s" % (wish.many, wish.type)).strip() for wish in demand.wishes)


def models_text(gpus: Sequence[Gpu]) -> str:
    counts: Dict[str, int] = {}
    for gpu in gpus:
        counts[gpu.model] = counts.get(gpu.model, 0) + 1
    return ", ".join("%d %s" % (count, model or "GPU") for model, count in counts.items()) or "no GPU"


def gpus_lack(demand: Demand, free: Sequence[Gpu], usable: Sequence[Gpu]) -> str:
    fit = {gpu.uuid for gpu in usable for wish in demand.wishes if wish.takes(gpu)}
    left = sum(1 for gpu in free if gpu.uuid in fit)
    return "needs %s, %d of %d free" % (gpus_text(demand), left, len(fit))
