"""The ops of the line and of leases: seek, drop, release, room; and what is told of them meanwhile."""

from __future__ import annotations

import os
import socket
from typing import Any, Dict, List, Optional, Set

from airflow_jobdeploy.hostside import (
    abstract,
    cage,
    capacity,
    census,
    ends,
    files,
    keeper,
    kernel,
    queueing,
    settle,
    tickets,
)
from airflow_jobdeploy.hostside.capacity import Capacity
from airflow_jobdeploy.hostside.gpus import FRESH_S, Gpus, user_name
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.line import Line
from airflow_jobdeploy.hostside.protocol import GPUS_UNKNOWN, OpError, Reply

#: How long a ticket, and a question for all there is, wait for a look at the GPUs.
_SEEK_WAIT_S, _ROOM_WAIT_S = 0.5, 2.0
_TOLD = ("cpu", "memory", "disk", "gpus", "cordoned")


class LineOps:
    """For one session; its tickets end with it."""

    def __init__(self, host: HostPaths, seen: Gpus) -> None:
        if not abstract.are_there():
            raise OpError("failed", "this system has no abstract sockets: it gives out no leases")
        self._host = host
        self._capacity = Capacity(host.root, seen, host.cordon)
        self.line = Line(self._capacity, self._give, lambda: settle.settled(host))
        #: Jobs whose waiter claims in this session what it is granted; and what ends such a lease with it, by its id.
        self._tied: Set[str] = set()
        self._ties: Dict[str, socket.socket] = {}
        #: Of jobs that were claimed with a lease here and have not started: what keeps that from becoming void.
        self._staying: Dict[str, socket.socket] = {}

    def stay(self, job: str, lease: str) -> None:
        """Code and data of the job are coming: its lease stays until it starts, or this session ends."""
        connection = None if job in self._staying else keeper.stay(lease)
        if connection is not None:
            self._staying[job] = connection
        self._untie(lease)

    def _untie(self, lease: str) -> None:
        tie = self._ties.pop(lease, None)
        if tie is not None:
            tie.close()

    def settled(self, job: str) -> None:
        """It has started, or will not."""
        connection = self._staying.pop(job, None)
        if connection is not None:
            connection.close()

    def seek(self, ask: dict) -> Reply:
        ticket = dict(ask["ticket"])
        (self._tied.add if ticket.get("tied") else self._tied.discard)(str(ticket["uid"]))
        return Reply(self.line.seek(ticket, _SEEK_WAIT_S))

    def drop(self, ask: dict) -> Reply:
        self._tied.discard(str(ask["uid"]))
        lease = self.line.drop(str(ask["uid"]))
        return self.release({"lease": lease}) if lease else Reply(released=False)

    def release(self, ask: dict) -> Reply:
        lease = str(ask["lease"])
        released = keeper.release(lease)
        self._untie(lease)
        return Reply(released=released)

    def room(self, ask: dict) -> Reply:
        wanted = ask.get("gpus", True)
        found = self._capacity.now(_ROOM_WAIT_S, FRESH_S) if wanted else self._capacity.now()
        trouble = self._capacity.trouble
        picture = self.line.look_around()
        outside = capacity.outsiders(found["users"], picture.leases)
        note_strayed(self._host, capacity.strayed(outside, picture.leases))
        for gpu in found["gpus"]:
            gpu["outsiders"] = [each for each in outside if each["gpu"] == gpu["uuid"]]
        verdicts = queueing.decide(found, picture.leases, picture.tickets, capacity.taken(outside))
        waiting = sorted(zip(picture.tickets, verdicts), key=lambda both: both[1]["position"] or 1 << 30)
        return Reply(
            capacity={**{key: found[key] for key in _TOLD}, **({"gpus_unknown": trouble} if trouble else {})},
            leases=[_lease(lease) for lease in picture.leases],
            tickets=[_ticket(ticket, verdict) for ticket, verdict in waiting],
            outsiders=outside,
            driver=found["driver"],
            enforced=cage.possible(),
            ends=ends.last(self._host),
            warnings=[GPUS_UNKNOWN + trouble] if trouble else [],
        )

    def _give(self, uid: str, claims: keeper.Claims) -> Dict[str, Any]:
        """To a keeper: the lease stands whatever becomes of this session, unless its waiter wants it tied."""
        lease = claims.lease["id"]
        door: Optional[Any] = abstract.hold(census.DOOR + lease.encode("ascii"))
        if door is None:
            claims.close()
            raise OSError(0, "somebody sits at the door of a lease that nobody could know")
        theirs = None
        if uid in self._tied:
            self._tied.discard(uid)
            self._ties[lease], theirs = socket.socketpair()
        keeper.keep(claims, door, theirs)
        return tickets.shown(claims.lease)

    def turn(self) -> List[dict]:
        """What is to be told of tickets by now."""
        return [{"event": "place", "uid": uid, **answer} for uid, answer in self.line.turn()]


def note_strayed(host: HostPaths, jobs: Dict[str, List[str]]) -> None:
    """Write down, for who asks for these jobs, that they use GPUs which they do not hold."""
    for name, gpus in jobs.items():
        try:
            job = Job(host, name)
        except ValueError:  # whatever its environment says
            continue
        try:
            if job.exists and not job.has_ended and (files.read_json(job.paths.strayed) or {}).get("gpus") != gpus:
                files.write_json(job.paths.strayed, {"gpus": gpus})
        except (OSError, files.Damaged):  # a full disk: `room` still shows them
            continue


def _lease(lease: dict) -> Dict[str, Any]:
    kept = ("id", "job", "who", "deployment", "gpus", "cpu", "memory", "disk", "priority", "waited_s")
    whose = {key: lease[key].partition("@")[0] for key in ("owner", "team")}
    user = {"user": user_name(lease["uid_number"]), "ours": lease["uid_number"] == os.geteuid()}
    since = max(0.0, kernel.boottime_s() - lease["since"])
    return {**{key: lease[key] for key in kept if key in lease}, **whose, **user, "since_s": since}


def _ticket(ticket: dict, verdict: dict) -> Dict[str, Any]:
    kept = ("who", "deployment", "priority", "waited_s", "demand", "reserves")
    whose = {key: ticket[key].partition("@")[0] for key in ("owner", "team")}
    told = {**whose, "user": user_name(ticket["uid_number"])}
    place = {"position": verdict["position"], "why": verdict["why"] or "its turn has come"}
    return {**{key: ticket[key] for key in kept}, **told, **place}
