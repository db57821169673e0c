"""A trigger whose job is bound by a quota over several workers: what it is granted is not always its own."""

from __future__ import annotations

import asyncio
from typing import Any

from airflow_jobdeploy.core.leases import Ticket
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.core.quotas import Count
from airflow_jobdeploy.service import Watcher
from airflow_jobdeploy.service.line import Wait
from airflow_jobdeploy.testing import MemoryHost
from airflow_jobdeploy.triggers.counting import Counting

QUOTA = Count(kind="owner", name="ada", most=2, deployment="d")


class Pool:
    """Two workers with two GPUs each, as the watchers of a triggerer."""

    def __init__(self) -> None:
        capacity = {name: [{"index": n, "uuid": f"{name}{n}", "model": "A100"} for n in (0, 1)] for name in "ab"}
        self.hosts = {name: MemoryHost(name=name, capacity={"gpus": gpus}) for name, gpus in capacity.items()}

    def get(self, worker_pool: str, worker: str, task_instance: Any) -> Watcher:
        return Watcher.get((self, worker), self.hosts[worker].backend)


def ticket(waited_s: float) -> Ticket:
    owner: dict[str, Any] = {"owner": QUOTA.name, "deployment": QUOTA.deployment, "max_gpus": QUOTA.most}
    return Ticket(uid=new_uid(), demand={"gpus": [{"type": "A100", "count": 2}]}, waited_s=waited_s, **owner)


async def counted(mine: Ticket, pool: Pool) -> Counting:
    wait = Wait(
        uid=mine.uid,
        worker_pool="lab",
        since=0.0,
        tickets={"a": mine, "b": mine},
        wanted="2 A100",
        counts=(QUOTA,),
        counted_on=("a", "b"),
    )
    return Counting(wait, pool, None)  # type: ignore[arg-type]


def test_of_two_the_later_in_the_line_gives_way_and_knows_what_is_left() -> None:
    async def story() -> None:
        pool, mine, rival = Pool(), ticket(waited_s=10), ticket(waited_s=99)
        a, b = (pool.hosts[name].backend() for name in "ab")
        assert a.seek(mine).lease
        granted = b.seek(rival).lease
        assert granted
        counting = await counted(mine, pool)
        assert not await counting.is_kept("a")
        assert counting.bounds("a") == {"max_gpus": 0}
        assert counting.why() == "its owner ada holds 2 of the 2 GPUs that it may"
        b.release(granted.id)
        assert await counting.is_kept("a")
        assert counting.bounds("b") == {"max_gpus": 2}

    asyncio.run(story())


def test_a_silent_worker_counts_as_it_was_seen_last() -> None:
    async def story() -> None:
        pool, mine, rival = Pool(), ticket(waited_s=10), ticket(waited_s=99)
        assert pool.hosts["b"].backend().seek(rival).lease
        counting = await counted(mine, pool)
        assert await counting.anew() == ["a", "b"]
        assert counting.bounds("a") == {"max_gpus": 0}
        pool.hosts["b"].unplug()
        assert pool.hosts["a"].backend().seek(mine).lease
        assert not await counting.is_kept("a")

    asyncio.run(story())
