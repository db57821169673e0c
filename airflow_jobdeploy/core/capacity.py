"""What a pool says of how much of its workers may be used, and by whom: declared capacities, quotas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.fields import Record, declared
from airflow_jobdeploy.core.gpus import MAX_GPUS
from airflow_jobdeploy.core.kinds import Number, Problems, Schema, Size, Text, expected
from airflow_jobdeploy.core.quotas import Count
from airflow_jobdeploy.core.source import Item
from airflow_jobdeploy.hostside.queueing import PRIORITIES

GB = 1 << 30
#: The quota of every owner that has none of its own.
OTHERS = "*"


@dataclass(frozen=True)
class GpuNames:
    """A list of GPUs of one host, by the driver's index or by UUID."""

    def read(self, item: Item, problems: Problems) -> tuple[str, ...] | None:
        if not isinstance(item.value, list):
            expected(item, "a list of GPUs, by index or UUID", problems)
            return None
        before = len(problems)
        found: list[str] = []
        for element in item.elements():
            if isinstance(element.value, int) and not isinstance(element.value, bool):
                name = Number(whole=True, minimum=0, maximum=MAX_GPUS).read(element, problems)
            else:
                name = Text().read(element, problems)
            if str(name) in found:
                problems.append(element.problem(f"GPU {name} is given twice."))
            found.append(str(name))
        return tuple(found) if len(problems) == before else None

    def schema(self) -> Schema:
        return {"type": "array", "items": {"type": ["integer", "string"]}}


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The most of a worker that this pool's jobs may hold, where that is less than all."""

    cpu: float | None = declared(Number(above=0), "CPU cores.")
    memory_bytes: int | None = declared(Size(GB), "Memory; a number is GB.")
    disk_space_bytes: int | None = declared(Size(GB), "Disk space; a number is GB.")
    gpus: tuple[str, ...] | None = declared(GpuNames(), "The GPUs that may be used, by index or UUID; [] for none.")

    def to_wire(self) -> dict[str, Any]:
        """As hosts read it (hostside.fitting.narrowed)."""
        gpus = None if self.gpus is None else list(self.gpus)
        return {"cpu": self.cpu, "memory": self.memory_bytes, "disk": self.disk_space_bytes, "gpus": gpus}


@dataclass(frozen=True, kw_only=True)
class Quota:
    """The most that one owner or team may have of a pool."""

    max_gpus: int | None = declared(Number(whole=True, minimum=0), "GPUs held at once.")
    max_priority: str | None = declared(Text(PRIORITIES), "The highest priority; a higher one counts as this.")


CAPACITY: Any = Record(Capacity, "a worker's capacity")
QUOTA: Any = Record(Quota, "a quota")


@dataclass(frozen=True, kw_only=True)
class Allowance:
    """What the pool allows a job of `owner` and `team` ("": it has none)."""

    owner: str = ""
    team: str = ""
    #: GPUs that all jobs of the owner, and of the team, may hold at once; None: no bound.
    max_gpus: int | None = None
    team_max_gpus: int | None = None
    max_priority: str = PRIORITIES[0]

    def priority(self, asked: str | None) -> str:
        """The priority that `asked` comes to."""
        return max(asked or "normal", self.max_priority, key=PRIORITIES.index)

    def counts(self, deployment: str) -> tuple[Count, ...]:
        """The quotas that bound its GPUs."""
        given = (("owner", self.owner, self.max_gpus), ("team", self.team, self.team_max_gpus))
        return tuple(
            Count(kind=kind, name=name, most=most, deployment=deployment)
            for kind, name, most in given
            if most is not None
        )


#: Of who has no quota and no name.
UNBOUNDED = Allowance()


def allowance(quotas: Mapping[str, Quota], *, owner: str = "", team: str = "") -> Allowance:
    """What `quotas` allow: the owner's own and the team's, each of them; that of `*` to an owner who has neither."""
    own, shared = (quotas.get(name) if name not in ("", OTHERS) else None for name in (owner, team))
    if own is None and shared is None:
        own = quotas.get(OTHERS)
    most = [quota.max_priority or PRIORITIES[0] for quota in (own, shared) if quota is not None]
    return Allowance(
        owner=owner,
        team=team,
        max_gpus=own.max_gpus if own else None,
        team_max_gpus=shared.max_gpus if shared else None,
        max_priority=max(most, key=PRIORITIES.index, default=PRIORITIES[0]),
    )
