"""Questions to workers that are asked again while a worker is unreachable."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.errors import WorkerChanged, WorkerUnreachable
from airflow_jobdeploy.service.repeating import Repeating
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.workers import Workers

#: How long a submitter asks for the worker that has its job and does not answer, unless `schedule_timeout` says
#: otherwise. A host reboots within that.
PATIENCE_S = 600.0

T = TypeVar("T")


@dataclass(frozen=True)
class Insisting:
    """Asks with growing delays, for `patience_s` at most: only what may be asked twice. `check` may raise to end it."""

    workers: Workers
    say: Callable[[str], None]
    check: Callable[[], None]
    patience_s: float = PATIENCE_S

    def __call__(
        self,
        worker: str,
        question: Callable[[Backend], T],
        *,
        machine: str = "",
        patience_s: float | None = None,
        enough: Callable[[], bool] = lambda: False,
    ) -> T:
        """The worker's answer. WorkerUnreachable when there was none for so long; WorkerChanged when all that time it
        was another machine than `machine` that answered under its name. `enough`: need it be asked no longer?"""
        limit_s = self.patience_s if patience_s is None else patience_s
        begun, failures, say = time.monotonic(), 0, Repeating(self.say)
        while True:
            self.check()
            try:
                return question(self.workers.backend(worker, machine))
            except (WorkerUnreachable, WorkerChanged) as error:
                self.workers.drop(worker)
                failures += 1
                if time.monotonic() - begun >= limit_s or enough():
                    raise
                say(f"Worker {worker} cannot be asked, trying again: {error}")
                self.workers.pause(backoff_s(failures, random.random()))
