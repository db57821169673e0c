"""Who used how many GPUs for how long, from the records that workers keep of jobs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What the jobs of one owner for one team came to. `owner`, `team`: as quotas count them; an owner of "": jobs that
    asked for nothing; a team of "": those of none."""

    owner: str
    team: str = ""
    jobs: int = 0
    #: Of jobs that run.
    gpus_now: int = 0
    #: GPUs times the hours that the commands ran.
    gpu_hours: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def usage_of(rows: Iterable[Mapping[str, Any]]) -> list[Usage]:
    """By owner and team, the most GPU-hours first. `rows`: {"plan", "state"} as `Backend.jobs` gives them."""
    found: dict[tuple[str, str], Usage] = {}
    for row in rows:
        lease = row["plan"].get("lease") or {}
        owner, team = whose = _whose(lease.get("ticket") or {})
        before = found.get(whose, Usage(owner=owner, team=team))
        gpus, state = _gpus(lease, row["state"]), row["state"]
        runs = state.get("status") == "RUNNING"
        found[whose] = Usage(
            owner=owner,
            team=team,
            jobs=before.jobs + 1,
            gpus_now=before.gpus_now + (gpus if runs else 0),
            gpu_hours=before.gpu_hours + gpus * _ran_s(state) / 3600,
        )
    return sorted(found.values(), key=lambda usage: (-usage.gpu_hours, -usage.jobs, usage.owner, usage.team))


def _whose(ticket: Mapping[str, Any]) -> tuple[str, str]:
    return str(ticket.get("owner") or ""), str(ticket.get("team") or "")


def _gpus(lease: Mapping[str, Any], state: Mapping[str, Any]) -> int:
    """How many the job held: as its worker says, as it was granted, else (it stood in line there) as it asked."""
    told = (state.get("facts") or {}).get("gpus") or lease.get("gpus")
    if told:
        return len(told)
    wishes = ((lease.get("ticket") or {}).get("demand") or {}).get("gpus") or [{"count": 0}]
    return int(wishes[0].get("count") or 0)


def _ran_s(state: Mapping[str, Any]) -> float:
    wall_s = (state.get("usage") or {}).get("wall_s")
    return float(wall_s if wall_s is not None else state.get("running_s") or 0.0)
