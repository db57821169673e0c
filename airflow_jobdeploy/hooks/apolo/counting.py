"""How many jobs of each preset a pool could start now."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_jobdeploy.core.demand import demand_of
from airflow_jobdeploy.core.placement import wire
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.standing import NOW, Standing, WorkerView
from airflow_jobdeploy.hostside.fitting import Demand

#: Counted no further: a preset that asks for nothing fits as often as one likes.
MOST = 1000


def capacity(pool: WorkerPool, views: Sequence[WorkerView]) -> dict[str, int]:
    """Preset -> jobs that would start at once, were they all of it; at most MOST on a worker."""
    found = {}
    for name in pool.presets:
        demand = wire(demand_of(load_spec({"command": "true", "preset": name}), pool))
        found[name] = sum(_on(view, demand) for view in views)
    return found


def _on(view: WorkerView, demand: Demand) -> int:
    if view.room is None or view.cordoned or view.set_aside:
        return 0
    standing, count = Standing(view, view.room), 0
    needs = standing.needs(demand)
    while needs is not None and count < MOST and standing.look(needs).fit == NOW:
        standing.take(demand)
        count += 1
    return count
