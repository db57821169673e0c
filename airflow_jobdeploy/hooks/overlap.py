"""A triggerer sees the workers of all pools in use, so it is there that a machine in pools of two kinds can be noticed.

It cannot help it, and stops nothing: it says so, once, as an error in its log. See core.sharing.
"""

from __future__ import annotations

import logging
import threading
from typing import ClassVar

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.sharing import Seen, shared
from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.hooks.pools import worker_pool
from airflow_jobdeploy.service.survey import view_of

log = logging.getLogger(__name__)

_DOCKER = "docker"


class Overlap:
    """A chore of a worker's watcher: look whether another watcher of this process has the same machine or GPUs."""

    #: Of the whole process: the kinds of workers, what was seen of them, and what was told.
    kinds: ClassVar[dict[tuple[str, str], str]] = {}
    seen: ClassVar[dict[tuple[str, str], Seen]] = {}
    told: ClassVar[set[str]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, pool: str, worker: str) -> None:
        self._name = (pool, worker)

    def __call__(self, backend: Backend, followed: frozenset[str]) -> None:
        """Nothing is asked where all workers are of one kind. WorkerError when this one cannot be asked."""
        with self._lock:
            self.kinds[self._name] = backend.capabilities.kind
            if len({kind == _DOCKER for kind in self.kinds.values()}) < 2:
                return
        found = self._looked(backend)
        if found is None:
            return
        with self._lock:
            self.seen[self._name] = found
            others = [each for name, each in self.seen.items() if name != self._name]
            texts = {str(problem) for other in others for problem in shared([found, other])} - self.told
            self.told.update(texts)
        for text in sorted(texts):
            log.error("%s", text)

    def _looked(self, backend: Backend) -> Seen | None:
        name, worker_name = self._name
        try:
            pool = worker_pool(name)
        except JobDeployError:  # it was changed or removed meanwhile: who needs it is told
            return None
        worker = pool.worker(worker_name)
        return Seen(pool, view_of(worker, backend, gpus=False)) if worker is not None else None
