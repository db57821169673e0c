"""The tickets of one process of ours in this host's line, and what they are granted.

A session of `serve` has those of its client, a supervisor its job's own. The first few are published (notices.py), so
that other accounts and sessions leave them their turn; each process decides for its own tickets only, by the same rules
(queueing.decide), and claims under the host's mutex. It looks again when something that it has seen is released, when
the GPUs have been looked at, and every few seconds.
"""

from __future__ import annotations

import os
import re
import select
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import abstract, capacity, census, kernel, notices, queueing, tickets
from airflow_jobdeploy.hostside.capacity import Capacity
from airflow_jobdeploy.hostside.census import Census, Picture
from airflow_jobdeploy.hostside.gpus import FRESH_S, user_name
from airflow_jobdeploy.hostside.keeper import Claims, claim

#: How many of our tickets others are told of, and how long each notice counts.
_TOLD, _NOTICE_S = 16, 60.0
#: Without any news a look is taken so often, and again so soon when the mutex or the GPUs could not be had.
_SELDOM_S, _SOON_S = 5.0, 0.25
#: Looks of a crowd of tickets are slow: they may take this share of our time, and come this late.
_CROWD, _SHARE, _LATEST_S = 32, 0.1, 0.3
_MUTEX_S = 0.5
#: A job by the name that it has in the line (census.claimed_by).
_NAME = re.compile(r"[a-z2-7]{1,20}@(\d+)\b")
#: Whoever does not take for so long what is granted is passed by.
_STALLED_S = 5.0
#: Whom quotas count.
_WHOSE = ("owner", "team")

#: Called under the mutex, with the claims of what a ticket was granted; what it returns is the answer's "lease".
Give = Callable[[str, Claims], Dict[str, Any]]


class Line:
    """`room`: what the host has; `give`: takes over what is claimed; `settled`: is nothing left of dead holders?

    Used by one thread; `close` withdraws all.
    """

    def __init__(self, room: Capacity, give: Give, settled: Callable[[], bool] = lambda: True) -> None:
        self.room = room
        self._settled = settled
        #: Which job had which GPU at the last look; and when one was seen to be gone.
        self._holders: Dict[str, str] = {}
        self._freed = 0.0
        self.census = Census()
        self._give = give
        self._entries: Dict[str, tickets.Entry] = {}
        self._granted_since: Dict[str, float] = {}
        self._due, self._looked, self._cost_s = 0.0, 0.0, 0.0
        self._has_news = False

    def close(self) -> None:
        for entry in self._entries.values():
            entry.withdraw()
        self._entries.clear()
        self.census.close()

    # -- tickets ------------------------------------------------------------------------------------------------------

    def seek(self, ask: Dict[str, Any], wait_s: float) -> Dict[str, Any]:
        """Put or renew a ticket (core.leases.Ticket on the wire): its answer. ValueError when it is none.

        `wait_s`: how long the GPUs may be looked for.
        """
        uid = str(ask["uid"])
        entry = self._put(uid, ask)
        if entry is not None:
            held = tickets.provisional(self.census.look(self._tags()), entry.ticket["who"])
            if held is not None:
                self._remove(uid)
                return {**tickets.answer(0, "granted"), "lease": held}
            if self._may_look():
                if _wants_gpus(entry):
                    self.room.now(wait_s, FRESH_S)
                answers = dict(self.look())
                if uid in answers:
                    return answers[uid]
            else:
                self._has_news = True
                self._due = min(self._due, self._next_look())
        return self._entries[uid].answer

    def _put(self, uid: str, ask: Dict[str, Any]) -> Optional[tickets.Entry]:
        """The entry when it is new, None when it was renewed."""
        now = kernel.boottime_s()
        ttl_s = min(float(ask.get("ttl_s") or _NOTICE_S), census.LONGEST_S)
        ticket = tickets.read(uid, ask, now)
        entry = self._entries.get(uid)
        if entry is not None and tickets.asks(entry.ticket) == tickets.asks(ticket):
            entry.until = now + ttl_s
            entry.ticket["since"] = min(entry.ticket["since"], ticket["since"])
            return None
        if entry is not None:
            entry.withdraw()
        self._entries[uid] = tickets.Entry(ticket, now + ttl_s, {key: str(ask.get(key) or "") for key in _WHOSE})
        return self._entries[uid]

    def drop(self, uid: str) -> str:
        """Take a ticket back; the id of the provisional lease that it was granted meanwhile, or ""."""
        self._remove(uid)
        held = tickets.provisional(self.census.look(self._tags()), census.who_is(uid))
        return str(held["id"]) if held else ""

    def _remove(self, uid: str) -> None:
        entry = self._entries.pop(uid, None)
        if entry is not None:
            entry.withdraw()

    def look_around(self) -> Picture:
        """All that is held and waited for, our own tickets included."""
        picture, now = self.census.look(self._tags()), kernel.boottime_s()
        mine = [census.ranked(entry.ticket, os.geteuid(), now) for entry in self._entries.values()]
        return picture._replace(tickets=[*mine, *picture.tickets])

    # -- when ---------------------------------------------------------------------------------------------------------

    def fds(self) -> List[int]:
        """To wait for beside others, for `turn`."""
        if not self._entries:
            return []
        return [*([] if self._has_news else [self.census.fd()]), *self.room.fds()]

    def patience_s(self) -> Optional[float]:
        """How long until `turn` has something to do without any news; None: it never has."""
        return max(0.0, self._due - time.monotonic()) if self._entries else None

    def turn(self) -> List[Tuple[str, Dict[str, Any]]]:
        """After waiting: what has become of tickets meanwhile."""
        if not self._entries:
            return []
        is_looking = bool(self.room.fds())
        if is_looking and self.room.is_fresh(self._freed):  # takes what has come
            self._due = 0.0
        if not self._has_news and select.select([self.census.fd()], [], [], 0)[0]:
            self._has_news = True
            self._due = min(self._due, self._next_look())
        return self.look() if time.monotonic() >= self._due else []

    def _next_look(self) -> float:
        is_crowd = len(self._entries) > _CROWD
        return self._looked + (min(_LATEST_S, self._cost_s / _SHARE) if is_crowd else 0.0)

    def _may_look(self) -> bool:
        return time.monotonic() >= self._next_look()

    # -- looks --------------------------------------------------------------------------------------------------------

    def look(self) -> List[Tuple[str, Dict[str, Any]]]:
        """Look who waits and what is free, and take what is ours to take: the tickets that are done, with answers."""
        begun = time.monotonic()
        self._has_news = False
        done = self._expired()
        if self._entries:
            first_void = min(entry.until for entry in self._entries.values())
            self._due = begun + min(_SELDOM_S, max(0.0, first_void - kernel.boottime_s()))
            self._publish()
            granted = self._judge(self.census.look(self._tags()), self.room.now())
            if granted:
                done += self._claim(granted)
                self.census.look(self._tags())  # whose end we must see: also what was just given out
        self._looked = time.monotonic()
        self._cost_s = self._looked - begun
        self._due = max(self._due, self._next_look())
        return done

    def _expired(self) -> List[Tuple[str, Dict[str, Any]]]:
        now = kernel.boottime_s()
        late = [uid for uid, entry in self._entries.items() if entry.until <= now]
        for uid in late:
            self._remove(uid)
        return [(uid, tickets.answer(0, "nobody has asked for it for too long")) for uid in late]

    def _tags(self) -> List[str]:
        return [entry.tag for entry in self._entries.values() if entry.notice]

    def _publish(self) -> None:
        """Tell the others of our first few; each notice counts for a minute, and is renewed in time."""
        now = kernel.boottime_s()
        ranked = sorted(self._entries.values(), key=tickets.rank)
        for entry in ranked[_TOLD:]:
            entry.withdraw()
        for entry in ranked[:_TOLD]:
            if entry.told_until - now > _NOTICE_S / 2:
                continue
            entry.withdraw()
            entry.tag, entry.told_until = os.urandom(4).hex(), now + _NOTICE_S
            values = notices.ticket_values(entry.ticket, min(entry.until, entry.told_until))
            try:
                entry.notice = notices.hold(notices.TICKET, entry.tag, values)
            except OSError:  # no descriptors left: at the next look
                entry.told_until = 0.0

    def _judge(self, picture: Picture, room: Dict[str, Any]) -> List[Tuple[tickets.Entry, dict]]:
        """Note for each of our tickets where it stands; those that get something now."""
        holders = {uuid: lease["job"] for lease in picture.leases if lease["job"] for uuid in lease["gpus"]}
        if self._holders.items() - holders.items():
            self._freed = time.monotonic()
        self._holders = holders
        now = kernel.boottime_s()
        mine = [census.ranked(entry.ticket, os.geteuid(), now) for entry in self._entries.values()]
        others = picture.tickets
        for other in others:
            since = self._granted_since.get(other["uid"])
            other["stalled"] = since is not None and time.monotonic() - since > _STALLED_S
        outside = capacity.outsiders(room["users"], picture.leases)
        line = [*mine, *others]
        verdicts = queueing.decide(room, picture.leases, line, capacity.taken(outside))
        self._note_stalled(list(zip(others, verdicts[len(mine) :])))
        names = {ticket["uid"]: ticket for ticket in line}
        granted = []
        for entry, verdict in zip(self._entries.values(), verdicts):
            entry.answer = self._told(entry, verdict, names)
            if verdict["granted"]:
                granted.append((entry, verdict))
        return granted

    def _note_stalled(self, others: List[Tuple[dict, dict]]) -> None:
        """Since when has each of the others not taken what is theirs?"""
        now, before = time.monotonic(), self._granted_since
        kept = {other["uid"]: before.get(other["uid"], now) for other, verdict in others if verdict["granted"]}
        kept.update({other["uid"]: before[other["uid"]] for other, _ in others if other["stalled"]})
        self._granted_since = kept

    def _told(self, entry: tickets.Entry, verdict: dict, names: Dict[str, dict]) -> Dict[str, Any]:
        why = verdict["why"] or "its turn has come"
        if self.room.trouble and _wants_gpus(entry):
            why = self.room.trouble
        for key in _WHOSE:
            name = census.owned_by(entry.ticket[key], os.geteuid())
            why = why.replace("its %s %s" % (key, name), "its %s %s" % (key, entry.names[key] or "(none)"))
        why = _NAME.sub(lambda found: "a job of %s" % user_name(int(found[1])), why)
        ahead = [tickets.ahead(names[uid]) for uid in verdict["ahead"] if uid in names]
        soon = verdict["granted"]
        return {"lease": None, "position": verdict["position"], "soon": soon, "ahead": ahead, "why": why}

    # -- claims -------------------------------------------------------------------------------------------------------

    def _claim(self, granted: List[Tuple[tickets.Entry, dict]]) -> List[Tuple[str, Dict[str, Any]]]:
        """What is granted, asked once more under the mutex and claimed there."""
        is_fresh = True
        if any(_wants_gpus(entry) for entry, _ in granted):
            is_fresh = self._settled() and self.room.is_fresh(self._freed)
        if not is_fresh:  # no GPU is given out by an old look; the new one has begun
            self._due = time.monotonic() + _SOON_S
            if all(_wants_gpus(entry) for entry, _ in granted):
                return []
        mutex = abstract.Mutex()
        if not mutex.take(_MUTEX_S):
            self._due = time.monotonic() + _SOON_S
            self._blame(mutex)
            return []
        done = []
        try:
            picture = self.census.look(self._tags())
            freed, granted = self._freed, self._judge(picture, self.room.now())
            if self._freed != freed:
                is_fresh, self._due = False, time.monotonic() + _SOON_S
            for entry, verdict in granted:
                if _wants_gpus(entry) and not is_fresh:
                    continue
                uid = next(uid for uid, each in self._entries.items() if each is entry)
                lease = tickets.provisional(picture, entry.ticket["who"]) or self._claim_one(uid, entry, verdict)
                if lease is not None:
                    self._remove(uid)
                    done.append((uid, {**tickets.answer(0, "granted"), "lease": lease}))
        finally:
            mutex.release()
        return done

    def _claim_one(self, uid: str, entry: tickets.Entry, verdict: dict) -> Optional[Dict[str, Any]]:
        why = "a GPU is held meanwhile by who does not wait in this line"
        try:
            claims = claim(tickets.lease_for(entry.ticket, verdict))
            if claims is not None:
                return self._give(uid, claims)
        except OSError as error:
            why = "it cannot be claimed: %s" % error
        entry.answer = tickets.answer(1, why)
        self._due = time.monotonic() + _SOON_S
        return None

    def _blame(self, mutex: abstract.Mutex) -> None:
        holder = mutex.holder
        who = "process %d of %s" % (holder.pid, user_name(holder.uid)) if holder and holder.pid else "somebody"
        for entry in self._entries.values():
            entry.answer = {**entry.answer, "why": "%s does not let go of this host's line" % who}


def _wants_gpus(entry: tickets.Entry) -> bool:
    return bool(entry.ticket["demand"].get("gpus"))
