"""The watchers of a triggerer, by place: whatever pools and connections call a worker, it has one connection."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterable
from typing import Any

from airflow_jobdeploy.hooks.connect import endpoint, reconnecting
from airflow_jobdeploy.hooks.given_up import given_up
from airflow_jobdeploy.hooks.overlap import Overlap
from airflow_jobdeploy.hooks.reaping import Reaper
from airflow_jobdeploy.service import Watcher
from airflow_jobdeploy.service.watching import Chore

#: (pool, worker)
Name = tuple[str, str]


class Watchers:
    """Those that one trigger needs."""

    def __init__(self) -> None:
        self._places: dict[Name, Hashable] = {}

    async def locate(self, names: Iterable[Name]) -> None:
        """Find out where these workers are. In a thread: it reads connections, and keys may lie on slow disks."""
        for name in set(names):
            self._places[name] = await asyncio.to_thread(endpoint, *name)

    def get(self, worker_pool: str, worker: str, task_instance: Any) -> Watcher:
        """The watcher of a worker, on the running loop."""
        name = (worker_pool, worker)
        # The loop, not its id(): a watcher outlives it by some seconds, and the next loop may have the same one.
        key = (asyncio.get_running_loop(), self._places.get(name, name))
        # In dag.test there is no state of other runs to ask for, nor a deployment to reap for.
        chores: list[Chore] = [] if task_instance is None else [Reaper(), Overlap(worker_pool, worker)]
        return Watcher.get(key, reconnecting(worker_pool, worker), chores, given_up)
