"""Tickets of ours, and what is said to them."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import census, fitting, kernel, layout, notices, queueing
from airflow_jobdeploy.hostside.census import Picture
from airflow_jobdeploy.hostside.gpus import user_name
from airflow_jobdeploy.hostside.keeper import PROVISIONAL_S


class Entry:
    """One ticket of ours."""

    def __init__(self, ticket: Dict[str, Any], until: float, names: Dict[str, str]) -> None:
        self.ticket = ticket
        self.until = until
        #: The names of "owner" and "team", for people: the ticket has hashes of them.
        self.names = names
        self.tag = os.urandom(4).hex()
        self.notice: List[Any] = []
        self.told_until = 0.0
        self.answer = answer(0, "it has just come")

    def withdraw(self) -> None:
        notices.close(self.notice)
        self.told_until = 0.0


def provisional(picture: Picture, who: str) -> Optional[Dict[str, Any]]:
    """The lease that this account's job was granted, whoever asked for it, and has not claimed yet."""
    for lease in picture.leases:
        mine = lease["uid_number"] == os.geteuid() and lease["who"] == who and not lease["job"]
        if mine and lease["tag"] in picture.doors:
            return shown({**lease, "id": picture.doors[lease["tag"]]})
    return None


def read(uid: str, ask: Dict[str, Any], now: float) -> Dict[str, Any]:
    """A ticket of ours from the wire. ValueError says what is wrong with it."""
    fields = ("demand", "priority", "waited_s", "reserves", "within", "max_gpus", "team_max_gpus")
    given = {key: ask[key] for key in fields if ask.get(key) is not None}
    if queueing.read_ticket(fitting.Limits(), {"uid": uid[:100], **given}) is None or not uid:
        raise ValueError("the ticket of %r cannot be read: %r" % (uid[:40], given))
    named = ("deployment", "owner", "team")
    hashes = {key: layout.short(key, str(ask[key])) if ask.get(key) else "" for key in named}
    ticket = {
        "who": census.who_is(uid),
        **hashes,
        "demand": given["demand"],
        "priority": given.get("priority", "normal"),
        "since": now - given.get("waited_s", 0.0),
        "reserves": given.get("reserves", False),
        "within": given.get("within") or None,
        "max_gpus": given.get("max_gpus"),
        "team_max_gpus": given.get("team_max_gpus") if hashes["team"] else None,
    }
    # As others will read it, rounded: all must come to the same line.
    told = notices.ticket(json.loads(b"".join(notices.pieces_of(notices.ticket_values(ticket, now))).decode()))
    assert told is not None
    return told[0]


def asks(ticket: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in ticket.items() if key != "since"}


def rank(entry: Entry) -> Tuple[int, float, str]:
    ticket = entry.ticket
    return queueing.PRIORITIES.index(ticket["priority"]), ticket["since"], ticket["who"]


def answer(position: int, why: str) -> Dict[str, Any]:
    return {"lease": None, "position": position, "ahead": [], "why": why}


def ahead(ticket: dict) -> Dict[str, Any]:
    kept = {key: ticket[key] for key in ("who", "priority", "waited_s")}
    return {**kept, "user": user_name(ticket["uid_number"])}


def lease_for(ticket: Dict[str, Any], verdict: dict) -> Dict[str, Any]:
    """What is to be held, with a new id: random, of 128 bits."""
    amounts = {key: ticket["demand"].get(key) or 0 for key in ("cpu", "memory", "disk")}
    names = {key: ticket[key] for key in ("who", "deployment", "owner")}
    held = {"gpus": verdict["gpus"], "past": verdict["past"], "since": kernel.boottime_s(), "job": ""}
    lease = {"id": os.urandom(16).hex(), **names, **amounts, **held}
    if ticket["max_gpus"] is not None or ticket["team"]:  # who counts must know which of two goes first
        rank = {"priority": ticket["priority"], "waited_s": max(0, int(held["since"] - ticket["since"]))}
        lease.update(rank, team=ticket["team"])
    return lease


def shown(lease: Dict[str, Any]) -> Dict[str, Any]:
    """A provisional lease as core.leases.Lease has it."""
    left = lease["since"] + PROVISIONAL_S - kernel.boottime_s()
    amounts = {"cpu_count": lease["cpu"], "memory_bytes": lease["memory"]}
    return {"id": lease["id"], "gpus": lease["gpus"], **amounts, "void_after_s": max(0.0, left)}
