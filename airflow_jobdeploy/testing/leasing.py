"""The line and the leases of a MemoryHost, as a backend asks for them."""

from __future__ import annotations

import json

from airflow_jobdeploy.core.leases import Room, SeekAnswer, Ticket
from airflow_jobdeploy.testing.machine import Machine


class Leasing:
    """The methods of clauses 14 and 15 of backends/base.py. Tickets end with their backend."""

    def __init__(self, host: Machine) -> None:
        self._host = host
        self._closed = False
        self._woken = False
        #: What was told of tickets and not given out yet.
        self._answers: dict[str, SeekAnswer] = {}

    def _ask(self) -> Machine:
        """The host, while it can be asked: the backend says when."""
        raise NotImplementedError

    def seek(self, ticket: Ticket) -> SeekAnswer:
        with self._host.changed:
            sent = Ticket.from_wire(json.loads(json.dumps(ticket.to_wire())))
            answer = self._ask().line.seek(sent, self)
            self._answers.pop(ticket.uid, None)
            return answer

    def _has_answers(self) -> bool:
        self._answers.update(self._ask().line.news(self))
        return bool(self._answers)

    def granted(self, timeout_s: float = 0.0) -> dict[str, SeekAnswer]:
        with self._host.changed:
            self._host.changed.wait_for(lambda: self._has_answers() or self._woken or self._closed, timeout_s)
            self._woken = False
            answers, self._answers = self._answers, {}
            return answers

    def drop(self, uid: str) -> None:
        with self._host.changed:
            self._ask().line.drop(uid)
            self._answers.pop(uid, None)

    def release(self, lease_id: str) -> bool:
        with self._host.changed:
            return self._ask().line.release(lease_id)

    def cordon(self, *, by: str, why: str = "", lift: bool = False) -> str:
        with self._host.changed:
            text = "" if lift else f"cordoned by {by}{f': {why}' if why else ''}"
            self._ask().line.capacity["cordoned"] = text
            return text

    def room(self, *, gpus: bool = True) -> Room:
        with self._host.changed:
            return self._ask().line.room()
