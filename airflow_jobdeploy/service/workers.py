"""The workers of one pool, connected when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.waker import Waker
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.errors import PlacementError, WorkerChanged
from airflow_jobdeploy.service.silence import GivenUp, nobody
from airflow_jobdeploy.service.watching import Watch


class Workers(AbstractContextManager["Workers"]):
    """The workers of one pool, connected when first asked for. Belongs to one thread, but for `wake`."""

    def __init__(self, pool: WorkerPool, connect: Callable[[Worker], Backend], *, given_up: GivenUp = nobody) -> None:
        self.pool = pool
        #: Jobs that a person has taken for lost with their workers.
        self.given_up = given_up
        self._connect = connect
        self._open: dict[str, Backend] = {}
        self._waker = Waker()
        #: The watch that a `follow` waits in, for `wake` to reach it.
        self.watch: Watch | None = None

    def backend(self, name: str, machine: str = "") -> Backend:
        """The backend of a worker. WorkerUnreachable when it cannot be had.

        `machine`: the identity that a job of it was claimed on; WorkerChanged when another machine answers, which
        knows nothing of that job.
        """
        if name not in self._open:
            self._open[name] = self.connect(name)
        backend = self._open[name]
        if machine and (found := backend.facts(quick=True)).machine != machine:
            raise WorkerChanged(
                f"another machine answers as worker {name}: {found.machine} ({found.hostname}), expected {machine}"
            )
        return backend

    def connect(self, name: str) -> Backend:
        """A new backend of a worker, not shared. PlacementError when the pool has no such worker."""
        for worker in self.pool.workers:
            if worker.name == name:
                return self._connect(worker)
        names = ", ".join(worker.name for worker in self.pool.workers)
        raise PlacementError(f"worker {name!r} is not in pool {self.pool.name!r} (it has {names}); was it renamed?")

    def lend(self, name: str) -> Backend:
        """The open connection to a worker, else a new one: the caller's, until it is closed or given back."""
        backend = self._open.pop(name, None)
        return self.connect(name) if backend is None else backend

    def give_back(self, name: str, backend: Backend | None) -> None:
        """Keep a connection for the next who asks."""
        self.drop(name)
        if backend is not None:
            self._open[name] = backend

    def drop(self, name: str) -> None:
        """Forget a connection that failed."""
        backend = self._open.pop(name, None)
        if backend is not None:
            backend.close()

    def wake(self) -> None:
        """Let what waits for a worker look around. Safe in a signal handler."""
        self._waker.wake()
        watch = self.watch
        if watch is not None:
            watch.wake()

    def pause(self, seconds: float) -> None:
        """Wait, unless `wake` is called."""
        self._waker.wait(seconds)

    def close(self) -> None:
        for name in list(self._open):
            self.drop(name)
        self._waker.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
