"""Quotas over several workers, in a trigger: what is held of a pool, by the connections that its watchers have."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from airflow_jobdeploy.core.quotas import Judgement, Leases
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.service.line import Wait
from airflow_jobdeploy.service.tally import COUNT_S, SETTLE_S
from airflow_jobdeploy.triggers.watchers import Watchers

#: How long the answers of all workers are waited for, and between two looks while others are to give way, in seconds.
_ANSWERS_S, _AGAIN_S = 5.0, 0.5
#: How often it is counted anew, in seconds: all triggers of a process share the answers.
_ANEW_S = 2 * COUNT_S


class Counting:
    """Of one wait; belongs to the running event loop."""

    def __init__(self, wait: Wait, watchers: Watchers, task_instance: Any) -> None:
        self._wait = wait
        self._watchers = watchers
        self._task_instance = task_instance
        self._tally = wait.tally()
        self._due = 0.0

    def bounds(self, worker: str) -> Mapping[str, Any]:
        """For the ticket there; of any thread."""
        return self._tally.bounds(worker)

    async def is_kept(self, worker: str) -> bool:
        """Is what was granted there within the quotas, all workers together?"""
        if not self._wait.counts:
            return True
        until = time.monotonic() + SETTLE_S
        while True:
            await self._look(0.0)
            found = self._tally.judge(worker, self._tally.leases)
            if found is not Judgement.LOOK_AGAIN or time.monotonic() >= until:
                return found is Judgement.KEEP
            await asyncio.sleep(_AGAIN_S)  # a worker tells nobody of the leases of others

    def why(self) -> str:
        """Why the job has to wait for others of its owner or team; "" when it has not."""
        return self._tally.why()

    async def anew(self) -> list[str]:
        """Count again, if it is time: the workers where quotas leave more or less than before."""
        if not self._wait.counts or time.monotonic() < self._due:
            return []
        before = {worker: self.bounds(worker) for worker in self._wait.tickets}
        await self._look(COUNT_S)
        return [worker for worker, bounds in before.items() if bounds != self.bounds(worker)]

    async def _look(self, max_age_s: float) -> None:
        """Ask all workers at once."""
        loop = asyncio.get_running_loop()
        answers: dict[str, asyncio.Future[Leases | WorkerError]] = {}
        for worker in self._tally.to_ask(time.monotonic()):
            answers[worker] = loop.create_future()
            tell = runtime.on_loop(loop, partial(_answered, answers[worker]))
            watcher = self._watchers.get(self._wait.worker_pool, worker, self._task_instance)
            watcher.look(tell, max_age_s)
        if answers:
            await asyncio.wait(answers.values(), timeout=_ANSWERS_S)
        found = {worker: answer.result() for worker, answer in answers.items() if answer.done()}
        for worker in answers:
            if isinstance(found.get(worker, WorkerError("")), WorkerError):
                self._tally.missed(worker, time.monotonic())
        self._tally.see({worker: held for worker, held in found.items() if not isinstance(held, WorkerError)})
        self._due = time.monotonic() + _ANEW_S


def _answered(future: asyncio.Future[Leases | WorkerError], answer: Leases | WorkerError) -> None:
    if not future.done():
        future.set_result(answer)
