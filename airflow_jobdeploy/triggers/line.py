"""The trigger that stands in the lines of workers for a job that has none yet.

It holds nothing but tickets, which end with it; what it is granted is provisional, and void after two minutes unless
the task claims it. A trigger that is moved to another triggerer puts its tickets anew, as old as its wait is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from functools import partial
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_jobdeploy.core.leases import SeekAnswer
from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.service.line import Age, Places, Wait, timed_out
from airflow_jobdeploy.service.seekers import Seeker
from airflow_jobdeploy.service.watcher import Place
from airflow_jobdeploy.triggers.counting import Counting
from airflow_jobdeploy.triggers.events import LineEvent
from airflow_jobdeploy.triggers.watchers import Watchers

#: How often it is looked whether there is something to say, or the wait has lasted too long, in seconds.
LOOK_S = 5.0

News = tuple[str, SeekAnswer | WorkerError]


class LineTrigger(BaseTrigger):
    """Waits until a worker grants a lease. `wait`: a `Wait`; `sequel`: of the attempt, where it is not the first."""

    def __init__(self, *, wait: Mapping[str, Any], sequel: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.wait = dict(wait)
        self.sequel = dict(sequel) if sequel else None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return f"{__name__}.{type(self).__name__}", {"wait": self.wait, "sequel": self.sequel}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yields one event: `LineEvent.to_dict()`."""
        wait = Wait.from_dict(self.wait)
        age, watchers = wait.age(), Watchers()
        await watchers.locate((wait.worker_pool, worker) for worker in {*wait.tickets, *wait.counted_on})
        counting = Counting(wait, watchers, self.task_instance)
        news: asyncio.Queue[News] = asyncio.Queue()
        tell = runtime.on_loop(asyncio.get_running_loop(), news.put_nowait)
        places: dict[str, Place] = {}
        taken = ""
        try:
            for worker in wait.tickets:
                seeker = Seeker(
                    wait.uid,
                    ticket=partial(_ticket, wait, worker, age, counting),
                    deliver=partial(_told, tell, worker),
                )
                places[worker] = watchers.get(wait.worker_pool, worker, self.task_instance).seek(seeker)
            event = await self._outcome(wait, age, news, counting, places)
            taken = event.granted.worker if event.granted else ""
        finally:
            for worker, place in places.items():
                place.close(taken=worker == taken)
        yield TriggerEvent(event.to_dict())

    async def _outcome(
        self, wait: Wait, age: Age, news: asyncio.Queue[News], counting: Counting, places: Mapping[str, Place]
    ) -> LineEvent:
        said = Places(wait, age)
        said.quotas = counting.why
        sequel = Sequel(**self.sequel) if self.sequel else None
        while True:
            try:
                worker, answer = await asyncio.wait_for(news.get(), LOOK_S)
            except asyncio.TimeoutError:
                pass
            else:
                if isinstance(answer, WorkerError):
                    said.missed(worker, answer)
                    continue
                said.heard(worker, answer)
                if answer.lease is not None and await counting.is_kept(worker):
                    granted = wait.granted(worker, answer.lease, counting.bounds(worker))
                    return LineEvent(wait=wait, granted=granted, sequel=sequel)
                if answer.lease is not None:
                    self.log.info("Worker %s had %s, which others were to have: it is given back.", worker, wait.wanted)
                    places[worker].renew(refuses=True)
            if wait.is_over(age()):
                return LineEvent(wait=wait, timed_out=str(timed_out(wait, said.text())), sequel=sequel)
            if line := said.news():
                self.log.info("%s", line)
            for changed in await counting.anew():
                places[changed].renew()


def _ticket(wait: Wait, worker: str, age: Age, counting: Counting) -> Any:
    return wait.ticket(worker, age(), counting.bounds(worker))


def _told(tell: Any, worker: str, answer: SeekAnswer | WorkerError) -> None:
    tell((worker, answer))
