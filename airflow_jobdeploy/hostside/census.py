"""Who holds what of this host and who waits for it, over all accounts: what claims say, checked by connecting to them.

A connection to each claim stays open: as long as it does, the claim stands, and its end is an event (`fd`). So a look
costs little when little has changed, and what is released is known at once.
"""

from __future__ import annotations

import select
from typing import Any, Collection, Dict, List, NamedTuple, Tuple

from airflow_jobdeploy.hostside import abstract, kernel, layout, notices
from airflow_jobdeploy.hostside.abstract import PREFIX, Peer

GPU, DOOR = PREFIX + b"gpu/", PREFIX + b"lease/"
#: No ticket counts for longer than this without being renewed, whatever it says.
LONGEST_S = 90.0
#: Connections that we keep at most: who has a thousand claims watched would run out of descriptors.
_MOST = 700


class Picture(NamedTuple):
    """One look. Leases and tickets are those of queueing.decide; beside its keys they have:

    leases    "job" ("": provisional), "who", "uid_number", "pid", "since", "tag"
    tickets   "who", "uid_number", "pid", "since"
    doors     tag of a provisional lease -> its id
    """

    leases: List[dict]
    tickets: List[dict]
    doors: Dict[str, str]


class Census:
    """The looks of one process of ours."""

    def __init__(self) -> None:
        self._known: Dict[bytes, Peer] = {}
        self._events = select.epoll()
        #: GPUs by the hash that notices use.
        self._gpu_names: Dict[str, str] = {}

    def fd(self) -> int:
        """Readable when a claim that was seen has ended; `look` clears it."""
        return self._events.fileno()

    def close(self) -> None:
        for peer in self._known.values():
            peer.close()
        self._known.clear()
        self._events.close()

    def look(self, mine: Collection[str] = ()) -> Picture:
        """What is held and waited for now. `mine`: tags of our own tickets, which are left out."""
        listed = abstract.names()
        # Nobody knocks at a keeper's door without a word to say. Which account sits there is asked by who takes.
        self._refresh([name for name in listed if not (name.startswith(DOOR) or _is_mine(name, mine))])
        leases = [name[len(DOOR) :].decode("ascii", "replace") for name in listed if name.startswith(DOOR)]
        held: Dict[str, Tuple[int, int]] = {}
        notes: Dict[Tuple[bytes, str, int], Dict[int, bytes]] = {}
        counts: Dict[Tuple[bytes, str, int], int] = {}
        pids: Dict[Tuple[bytes, str, int], int] = {}
        for name, peer in self._known.items():
            if name.startswith(GPU):
                held[name[len(GPU) :].decode("ascii", "replace")] = (peer.uid, peer.pid)
            else:
                part = notices.split(name)
                if part is not None:
                    kind, tag, number, count, text = part
                    key = (kind, tag, peer.uid)
                    notes.setdefault(key, {})[number] = text
                    counts[key], pids[key] = count, peer.pid
        read = {key: notices.joined(pieces, counts[key]) for key, pieces in notes.items()}
        found = {key: values for key, values in read.items() if values is not None}
        doors = {tag_of(lease): lease for lease in leases}
        return Picture(self._leases(found, pids, held), _tickets(found, pids), doors)

    def _refresh(self, names: List[bytes]) -> None:
        listed = set(names)
        for name, peer in list(self._known.items()):
            # A connection that stands is proof; the list may lack a name while others come and go.
            if peer.connection is None or peer.is_gone:
                self._known.pop(name).close()
        # What is held comes before who waits: it must be known whole.
        for name in sorted(listed - self._known.keys(), key=lambda name: (name.startswith(PREFIX + b"ask/"), name)):
            if name == abstract.MUTEX or len(self._known) >= _MOST:
                continue
            found = abstract.reach(name)
            if found is not None:
                self._known[name] = found
                if found.connection is not None:
                    self._events.register(found.connection, 0)

    def _leases(
        self,
        found: Dict[Tuple[bytes, str, int], list],
        pids: Dict[Tuple[bytes, str, int], int],
        held: Dict[str, Tuple[int, int]],
    ) -> List[dict]:
        leases: Dict[Tuple[str, int], dict] = {}
        hashes = {notices.gpu_hash(uuid): uuid for uuid in held}
        for (kind, tag, uid), values in found.items():
            lease = notices.lease(values) if kind == notices.LEASE else None
            if lease is None:
                continue
            # Only what the same account really holds; its keeper and its job both tell of it for a moment.
            uuids = [hashes[each] for each in lease["gpus"] if each in hashes and held[hashes[each]][0] in (uid, -1)]
            told = {**lease, "id": tag, "tag": tag, "gpus": uuids, "uid_number": uid, "pid": pids[kind, tag, uid]}
            told["owner"], told["team"] = owned_by(lease["owner"], uid), owned_by(lease.get("team", ""), uid)
            before = leases.get((tag, uid))
            if before is None or not before["job"]:
                leases[tag, uid] = told
        told_of = {uuid for lease in leases.values() for uuid in lease["gpus"]}
        alone = [_untold(uuid, *held[uuid]) for uuid in held if uuid not in told_of]
        return [*leases.values(), *alone]


def _is_mine(name: bytes, mine: Collection[str]) -> bool:
    part = notices.split(name) if mine and name.startswith(PREFIX + notices.TICKET) else None
    return part is not None and part[1] in mine


def _untold(uuid: str, uid: int, pid: int) -> dict:
    """A GPU that is held without a word: by who just begins or ends, or by who does not play by our rules."""
    names = dict.fromkeys(("job", "who", "deployment", "past", "tag"), "")
    amounts: Dict[str, Any] = {"cpu": 0, "memory": 0, "disk": 0, "since": kernel.boottime_s()}
    whose = {key: owned_by("", uid) for key in ("owner", "team")}
    return {**names, **amounts, **whose, "id": "", "gpus": [uuid], "uid_number": uid, "pid": pid}


def _tickets(found: Dict[Tuple[bytes, str, int], list], pids: Dict[Tuple[bytes, str, int], int]) -> List[dict]:
    now = kernel.boottime_s()
    tickets = []
    for (kind, tag, uid), values in found.items():
        read = notices.ticket(values) if kind == notices.TICKET else None
        if read is None or not now < read[1] <= now + LONGEST_S:
            continue
        tickets.append(ranked({**read[0], "tag": tag, "pid": pids[kind, tag, uid]}, uid, now))
    return tickets


def ranked(ticket: dict, uid: int, now: float) -> dict:
    """A ticket as queueing.decide wants it: names are the account's own, so that nobody can speak for another."""
    whose = {key: owned_by(ticket[key], uid) for key in ("owner", "team")}
    names = {"uid": claimed_by(ticket["who"], uid), **whose}
    return {**ticket, **names, "uid_number": uid, "waited_s": max(0.0, now - ticket["since"])}


def claimed_by(who: str, uid: int) -> str:
    return "%s@%d" % (who[:20], uid)


owned_by = claimed_by


def who_is(uid: str) -> str:
    """The hash of a job's uid."""
    return layout.short("who", uid)


def tag_of(lease: str) -> str:
    """The tag of a lease's notices."""
    return layout.short("lease", lease)
