"""Tickets of one process of ours: what they ask for, what is told of them to others, what is answered to them."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.picture import LONGEST_S, Held, asked, in_line
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.core.leases import PROVISIONAL_S, Lease, SeekAnswer, Ticket
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside import fitting, queueing

#: How many of our tickets others are told of, and how long each notice counts, in seconds.
TOLD, NOTICE_S = 16, 60.0


@dataclass
class Entry:
    """One ticket."""

    uid: str
    #: As picture.asked tells it, "since" by the engine's clock.
    told: dict[str, Any]
    #: Names of its owner and its team, for people, by what others are told of them: hashes.
    names: dict[str, str]
    #: By a monotonic clock: it ends unless it is renewed.
    until: float
    answer: SeekAnswer = field(default_factory=lambda: SeekAnswer(why="it has just come"))
    #: The volume that tells others of it, and until when it counts, by the engine's clock.
    notice: str = ""
    noticed_until: float = 0.0

    @property
    def who(self) -> str:
        return str(self.told["who"])

    @property
    def wants_gpus(self) -> bool:
        return bool(self.told["demand"].get("gpus"))

    @property
    def rank(self) -> tuple[int, float, str]:
        return queueing.PRIORITIES.index(self.told.get("priority", "normal")), self.told["since"], self.who


class Entries:
    """Those of one connection, by uid. Used by one thread at a time."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._entries: dict[str, Entry] = {}

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, uid: str) -> Entry | None:
        return self._entries.get(uid)

    def all(self) -> list[Entry]:
        return list(self._entries.values())

    def put(self, ticket: Ticket) -> tuple[Entry, bool]:
        """A ticket, and whether it is new. WorkerError when it is none."""
        wire = ticket.to_wire()
        if not ticket.uid or queueing.read_ticket(fitting.Limits(), {**wire, "uid": ticket.uid[:100]}) is None:
            raise WorkerError(f"{self._places.worker}: bad-request: the ticket of {ticket.uid!r} cannot be read")
        told = asked(wire, self._places.now(), user())
        until = time.monotonic() + min(ticket.ttl_s, LONGEST_S)
        entry = self._entries.get(ticket.uid)
        if entry is not None and {**entry.told, "since": 0} == {**told, "since": 0}:
            entry.until = until
            if told["since"] < entry.told["since"] - 1:
                self._retract(entry)
                entry.told = told
            return entry, False
        if entry is not None:
            self._retract(entry)
        people = {told["owner"]: ticket.owner, told["team"]: ticket.team}
        made = self._entries[ticket.uid] = Entry(uid=ticket.uid, told=told, names=people, until=until)
        return made, True

    def remove(self, uid: str) -> None:
        entry = self._entries.pop(uid, None)
        if entry is not None:
            self._retract(entry)

    def expired(self) -> list[str]:
        """Take out those that nobody has renewed."""
        late = [uid for uid, entry in self._entries.items() if entry.until <= time.monotonic()]
        for uid in late:
            self.remove(uid)
        return late

    def publish(self) -> None:
        """Tell others of the first few, in the order of the line; each notice is renewed in time."""
        ranked = sorted(self._entries.values(), key=lambda entry: entry.rank)
        for entry in ranked[TOLD:]:
            self._retract(entry)
        now = self._places.now()
        for entry in ranked[:TOLD]:
            if entry.noticed_until - now > NOTICE_S / 2:
                continue
            before, until = entry.notice, now + min(NOTICE_S, entry.until - time.monotonic())
            tag = names.ask_volume(os.urandom(8).hex())
            ask = json.dumps({**entry.told, "until": round(until, 2)})
            self._places.make_volume(tag, {names.KIND: names.TICKET_KIND, names.WHO: entry.who, names.ASK: ask})
            entry.notice, entry.noticed_until = tag, until
            if before:
                self._places.remove_volume(before)

    def in_line(self, now: float) -> list[dict[str, Any]]:
        return [in_line(entry.told, now) for entry in self._entries.values()]

    def withdraw(self) -> None:
        """Take all out."""
        while self._entries:
            self.remove(next(iter(self._entries)))

    def _retract(self, entry: Entry) -> None:
        notice, entry.notice, entry.noticed_until = entry.notice, "", 0.0
        if notice:
            self._places.remove_volume(notice)


def user() -> str:
    """Who we are, for people at other clients of the engine."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError, ImportError):  # an account without a name
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"[:100]


def answered(held: Held, now: float) -> SeekAnswer:
    """A lease as an answer. `now`: the engine's clock."""
    left = max(0.0, held.since + PROVISIONAL_S - now)
    record = held.record
    lease = Lease(
        id=held.id,
        gpus=tuple(record.get("gpus") or ()),
        cpu_count=record.get("cpu") or 0,
        memory_bytes=record.get("memory") or 0,
        void_after_s=min(PROVISIONAL_S, left),
    )
    return SeekAnswer(lease=lease, why="granted")


def record_of(ticket: Mapping[str, Any], gpus: Sequence[str], past: str) -> dict[str, Any]:
    """What a lease is to hold for a ticket (picture.Held)."""
    kept = {key: ticket.get(key) or "" for key in ("who", "deployment", "owner", "team", "user")}
    amounts = {key: ticket["demand"].get(key) or 0 for key in ("cpu", "memory", "disk")}
    rank = {}
    if ticket.get("max_gpus") is not None or ticket.get("team"):  # who counts must know which of two goes first
        rank = {"priority": ticket.get("priority", "normal"), "waited_s": int(ticket["waited_s"])}
    return {**kept, **amounts, **rank, "gpus": list(gpus), "past": past}
