"""Of workers that give out no leases yet: a plain no, before anything waits (`Capabilities.leases`)."""

from __future__ import annotations

from typing import NoReturn

from airflow_jobdeploy.backends.base import Capabilities
from airflow_jobdeploy.core.leases import Room, SeekAnswer, Ticket
from airflow_jobdeploy.errors import WorkerError


class Unleased:
    """The methods of clauses 14 and 15, for a backend that cannot keep them."""

    worker: str
    capabilities: Capabilities

    def _no(self) -> NoReturn:
        kind = self.capabilities.kind
        raise WorkerError(
            f"{self.worker}: workers of kind {kind} give out no leases yet; use a pool of local or ssh ones"
        )

    def seek(self, ticket: Ticket) -> SeekAnswer:
        self._no()

    def granted(self, timeout_s: float = 0.0) -> dict[str, SeekAnswer]:
        self._no()

    def drop(self, uid: str) -> None:
        self._no()

    def release(self, lease_id: str) -> bool:
        self._no()

    def room(self, *, gpus: bool = True) -> Room:
        self._no()

    def cordon(self, *, by: str, why: str = "", lift: bool = False) -> str:
        self._no()
