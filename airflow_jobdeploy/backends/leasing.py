"""The line and the leases of a hosted worker: requests over the control session, and what it tells meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from airflow_jobdeploy.backends.connection import Connection
from airflow_jobdeploy.backends.session import Session
from airflow_jobdeploy.backends.waker import Waker
from airflow_jobdeploy.core.leases import Room, SeekAnswer, Ticket


class Leasing:
    """The methods of clauses 14 and 15 of base.py. Tickets are the control session's: they end with it."""

    _connection: Connection
    _waker: Waker

    def __init__(self) -> None:
        #: What the worker has told of tickets, and of jobs, while something else was waited for.
        self._answers: dict[str, SeekAnswer] = {}
        self._told: list[dict[str, Any]] = []

    def seek(self, ticket: Ticket) -> SeekAnswer:
        answer = SeekAnswer.from_wire(self._connection.control().request("seek", ticket=ticket.to_wire()))
        self._answers.pop(ticket.uid, None)  # older than this answer
        return answer

    def granted(self, timeout_s: float = 0.0) -> dict[str, SeekAnswer]:
        if not self._answers:
            self._take(self._connection.control(), timeout_s)
            self._waker.drain()
        answers, self._answers = self._answers, {}
        return answers

    def drop(self, uid: str) -> None:
        self._connection.control().request("drop", uid=uid)
        self._answers.pop(uid, None)

    def release(self, lease_id: str) -> bool:
        return bool(self._connection.control().request("release", lease=lease_id)["released"])

    def cordon(self, *, by: str, why: str = "", lift: bool = False) -> str:
        return str(self._connection.control().request("cordon", by=by, why=why, lift=lift)["cordoned"])

    def room(self, *, gpus: bool = True) -> Room:
        return Room.from_wire(self._connection.control().request("room", gpus=gpus))

    def _take(self, session: Session, timeout_s: float) -> None:
        """Sort the events that come within `timeout_s`."""
        self._sort(session.events(timeout_s, self._waker.fileno()))

    def _sort(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            if event.get("event") == "place":
                self._answers[str(event["uid"])] = SeekAnswer.from_wire(event)
            else:
                self._told.append(event)
