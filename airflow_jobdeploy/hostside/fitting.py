"""What a job asks of a host, what the host has, and which GPUs would do. Pure; amounts as they cross the wire.

    demand    {"cpu": 2.5, "memory": bytes, "disk": bytes,
               "gpus": [{"type": "A100", "count": 2, "memory_min": bytes, "memory_max": bytes}, ...]}
              alternatives in order of preference, all of them optional
    capacity  {"cpu", "memory", "disk", "slots", "gpus": [{"index", "uuid", "model", "memory_bytes", "mig"}, ...]}
              what is not there, or None, has no limit; `slots` is jobs at once

What another account wrote is believed only as far as it is well formed: `read_demand` gives None for the rest.
"""

from __future__ import annotations

import math
from typing import Any, Collection, Dict, FrozenSet, Iterable, List, NamedTuple, Optional, Sequence, Tuple

from airflow_jobdeploy.hostside.gpu_names import is_model

#: More than any host has: beyond it lies nonsense, and sums stay exact far below it.
_MOST = float(1 << 60)
_MOST_GPUS = 1024
_BOUNDS = ("cpu", "memory", "disk", "slots")


class Gpu(NamedTuple):
    """One GPU that may be given out."""

    uuid: str
    #: The driver's index on this host.
    number: int
    model: str
    memory_bytes: int


class Wish(NamedTuple):
    """So many GPUs of a kind. `type` "": any; the range of memory counts each GPU's own, both ends included."""

    type: str = ""
    many: int = 1
    memory_min: int = 0
    memory_max: float = math.inf

    def takes(self, gpu: Gpu) -> bool:
        return self.memory_min <= gpu.memory_bytes <= self.memory_max and is_model(self.type, gpu.model)


class Demand(NamedTuple):
    """What one job asks for."""

    cpu: float = 0
    memory: int = 0
    disk: int = 0
    wishes: Tuple[Wish, ...] = ()


class Limits(NamedTuple):
    """The most that jobs may hold together; `gpus`: those that may be given out."""

    cpu: float = math.inf
    memory: float = math.inf
    disk: float = math.inf
    slots: float = math.inf
    gpus: Tuple[Gpu, ...] = ()


# -- what others wrote -----------------------------------------------------------------------------------------------


def read_demand(data: Any) -> Optional[Demand]:
    """A demand from the wire; None where it is none."""
    if not isinstance(data, dict):
        return None
    amounts = [read_amount(data.get(name, 0)) for name in ("cpu", "memory", "disk")]
    gpus = data.get("gpus", ())
    wishes = [_wish(each) for each in gpus] if isinstance(gpus, (list, tuple)) and len(gpus) <= 64 else [None]
    if None in amounts or None in wishes:
        return None
    cpu, memory, disk = (amount or 0 for amount in amounts)
    return Demand(cpu, int(memory), int(disk), tuple(wish for wish in wishes if wish))


def _wish(data: Any) -> Optional[Wish]:
    if not isinstance(data, dict):
        return None
    kind, count = data.get("type") or "", data.get("count", 1)
    least, most = data.get("memory_min") or 0, data.get("memory_max")
    most = math.inf if most is None else read_amount(most)
    if not isinstance(kind, str) or len(kind) > 100 or read_amount(least) is None or most is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= _MOST_GPUS:
        return None
    return Wish(kind, count, int(least), most)


def read_amount(value: Any) -> Optional[float]:
    """A number of something; None for text, nan, infinity, less than nothing, more than there is."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST:
        return None
    return value


def held_amount(value: Any) -> float:
    """The same of a lease, where nonsense must not give anything away: it counts as nothing held."""
    return read_amount(value) or 0


def read_limits(capacity: Dict[str, Any]) -> Limits:
    """What a host has. GPUs that are split (MIG) are not given out."""
    gpus = [
        Gpu(str(gpu["uuid"]), int(gpu.get("index", 0)), str(gpu.get("model", "")), int(gpu.get("memory_bytes") or 0))
        for gpu in capacity.get("gpus") or ()
        if gpu.get("uuid") and not gpu.get("mig")
    ]
    cpu, memory, disk, slots = (_limit(capacity.get(name)) for name in _BOUNDS)
    return Limits(cpu, memory, disk, slots, tuple(sorted(gpus, key=lambda gpu: gpu.number)))


def _limit(value: Any) -> float:
    return math.inf if value is None else read_amount(value) or 0


def narrowed(limits: Limits, within: Any) -> Optional[Limits]:
    """`limits`, and no more than a declared capacity; its GPUs are named by UUID or index. None: it is none."""
    if within is None or within == {}:
        return limits
    if not isinstance(within, dict):
        return None
    bounds = {}
    for name in _BOUNDS:
        value = within.get(name)
        bound = math.inf if value is None else read_amount(value)
        if bound is None:
            return None
        bounds[name] = min(getattr(limits, name), bound)
    named = within.get("gpus")
    if named is None:
        return limits._replace(**bounds)
    if not isinstance(named, (list, tuple)):
        return None
    names = {str(name) for name in named[:_MOST_GPUS]}
    gpus = tuple(gpu for gpu in limits.gpus if gpu.uuid in names or str(gpu.number) in names)
    return limits._replace(gpus=gpus, **bounds)


# -- which GPUs --------------------------------------------------------------------------------------------------------


def choose(wishes: Sequence[Wish], gpus: Sequence[Gpu]) -> Optional[Tuple[Gpu, ...]]:
    """GPUs for the first alternative that `gpus` (by index) can fill; () where none is asked for, None: none can."""
    if not wishes:
        return ()
    for wish in wishes:
        found = pick(wish, gpus)
        if found is not None:
            return found
    return None


def pick(wish: Wish, gpus: Sequence[Gpu]) -> Optional[Tuple[Gpu, ...]]:
    """The GPUs that others miss least: the smallest memory that does, all of one model, neighbours.

    Different models are mixed only where no one of them is enough.
    """
    if len(gpus) < wish.many:
        return None
    fit = [gpu for gpu in gpus if wish.takes(gpu)]
    if len(fit) < wish.many:
        return None
    groups: Dict[Tuple[int, str], List[Gpu]] = {}
    for gpu in fit:
        groups.setdefault((gpu.memory_bytes, gpu.model), []).append(gpu)
    enough = [key for key, group in groups.items() if len(group) >= wish.many]
    if not enough:
        return tuple(sorted(fit, key=lambda gpu: gpu.memory_bytes)[: wish.many])
    return _neighbours(groups[min(enough, key=lambda key: (key[0], len(groups[key]), key[1]))], wish.many)


def _neighbours(gpus: Sequence[Gpu], count: int) -> Tuple[Gpu, ...]:
    """`count` of `gpus`: the shortest row of neighbours that has so many, else the longest rows; whole ones stay."""
    rows: List[List[Gpu]] = []
    for gpu in gpus:
        if rows and gpu.number == rows[-1][-1].number + 1:
            rows[-1].append(gpu)
        else:
            rows.append([gpu])
    long = [row for row in rows if len(row) >= count]
    if long:
        return tuple(min(long, key=len)[:count])
    rows.sort(key=len, reverse=True)
    return tuple([gpu for row in rows for gpu in row][:count])


def without(gpus: Iterable[Gpu], taken: Collection[str]) -> Tuple[Gpu, ...]:
    """Those of `gpus` that are not in `taken` (UUIDs)."""
    return tuple(gpu for gpu in gpus if gpu.uuid not in taken)


def uuids(gpus: Iterable[Gpu]) -> FrozenSet[str]:
    return frozenset(gpu.uuid for gpu in gpus)
