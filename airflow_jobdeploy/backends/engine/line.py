"""The line of an engine: who of those that wait gets something of it now.

Nothing of ours runs there. Whoever looks decides by the rules of all workers (hostside/queueing.py): for the tickets of
its own process, and for jobs that stand in line by themselves, whose containers wait on the engine. What is decided is
asked once more and done while a name is held (ledger.py). The engine tells when something is released; without news a
look is taken every few seconds, so that who waits costs next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from airflow_jobdeploy.backends.engine import asks, ends, names, slots
from airflow_jobdeploy.backends.engine.api import EngineError
from airflow_jobdeploy.backends.engine.asks import Entries, Entry
from airflow_jobdeploy.backends.engine.holders import Holders
from airflow_jobdeploy.backends.engine.jobs import Jobs
from airflow_jobdeploy.backends.engine.ledger import Ledger
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.picture import Held, Picture, needs_pool, picture_of
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.showing import leases_of, placed, shown, worded
from airflow_jobdeploy.backends.engine.stock import Stock
from airflow_jobdeploy.core.leases import Room, SeekAnswer, Ticket, hashed
from airflow_jobdeploy.hostside import queueing

#: Without any news a look is taken so often, and again so soon when another decides just now, in seconds.
SELDOM_S, _SOON_S = 5.0, 0.25
#: However much news there is: the pause between two looks for it, in seconds, and the share of our time that they take.
_PAUSE_S, _NEWS_SHARE = 0.05, 0.3
#: Looks of a crowd of tickets are slow: they may take this share of our time, and come this late.
_CROWD, _SHARE, _LATEST_S = 32, 0.1, 0.3
#: Whoever does not take for so long what is granted is passed by; a job of others is helped after so long.
_STALLED_S, _HELP_S = 5.0, 2.0
#: How long a ticket waits for a look at the GPUs, where nobody has looked yet.
_GPUS_WAIT_S = 5.0


@dataclass(frozen=True)
class _Winner:
    """Who gets something now: a ticket of ours, or a job that stands in line by itself."""

    ticket: Mapping[str, Any]
    verdict: Mapping[str, Any]
    entry: Entry | None = None


class Line:
    """Of one connection to one engine. `go_on`: starts a job that has its lease now. Used by one thread at a time."""

    def __init__(self, places: Places, jobs: Jobs, stock: Stock, ledger: Ledger) -> None:
        self._places = places
        self._jobs = jobs
        self._stock = stock
        self._ledger = ledger
        self._entries = Entries(places)
        self._holders = Holders(jobs)
        self.go_on: Callable[[str, Held], None] = lambda job_id, held: None
        self._news: dict[str, SeekAnswer] = {}
        #: Since when has each of the others not taken what is theirs? By a monotonic clock.
        self._granted_since: dict[str, float] = {}
        self._due, self._looked, self._cost_s = 0.0, 0.0, 0.0
        self._has_news = False

    def doubt(self, said: str) -> None:
        """A job could not be started, for this reason."""
        self._stock.doubt(said)

    # -- tickets -----------------------------------------------------------------------------------------------------

    def seek(self, ticket: Ticket) -> SeekAnswer:
        """Put or renew a ticket. WorkerError when it is none."""
        entry, is_new = self._entries.put(ticket)
        if is_new and self._may_look():
            if entry.wants_gpus:
                self._stock.look(_GPUS_WAIT_S)
            listing = self._jobs.listing()
            held = self._seen(listing).provisional(entry.who)
            if held is not None:
                self._entries.remove(ticket.uid)
                return asks.answered(held, self._places.now())
            self.look(listing)
        elif is_new:
            self._has_news = True
        return self._news.pop(ticket.uid, None) or entry.answer

    def drop(self, uid: str) -> None:
        """Take a ticket back, and a lease that it was granted meanwhile."""
        entry = self._entries.get(uid)
        self._entries.remove(uid)
        news = self._news.pop(uid, None)
        if news is not None and news.lease is not None:
            self._ledger.release(news.lease.id)
        elif entry is None:
            for lease in self._ledger.of(hashed("who", uid)):
                self._ledger.release(lease)

    def release(self, lease: str) -> bool:
        return self._ledger.release(lease)

    def close(self) -> None:
        """All tickets end."""
        self._entries.withdraw()

    def take_news(self) -> dict[str, SeekAnswer]:
        """What has become of tickets since they were answered."""
        news, self._news = self._news, {}
        return news

    # -- when --------------------------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Does anybody wait here?"""
        return bool(self._entries or self._news)

    def patience_s(self) -> float | None:
        """How long until `turn` has something to do without news; None: it never has."""
        if self._news:
            return 0.0
        pause_s = max(_PAUSE_S, min(_LATEST_S, self._cost_s / _NEWS_SHARE))
        due = max(self._looked + pause_s, self._next_look()) if self._has_news else self._due
        return max(0.0, due - time.monotonic()) if self._entries else None

    def turn(self, has_news: bool) -> bool:
        """After waiting: `has_news`: the engine has told that something was released. Is there something to tell?"""
        if self._entries:
            self._has_news = self._has_news or has_news
            if (self.patience_s() or 0.0) <= 0.0:
                self.look(self._jobs.listing())
        return bool(self._news)

    def _next_look(self) -> float:
        is_crowd = len(self._entries) > _CROWD
        return self._looked + (min(_LATEST_S, self._cost_s / _SHARE) if is_crowd else 0.0)

    def _may_look(self) -> bool:
        return time.monotonic() >= self._next_look()

    # -- looks -------------------------------------------------------------------------------------------------------

    def look(self, listing: Listing, jobs: Collection[str] = ()) -> None:
        """Look who waits and what is free, and give out what is ours to give: to our tickets, and to `jobs`."""
        begun = time.monotonic()
        self._has_news = False
        for uid in self._entries.expired():
            self._news[uid] = SeekAnswer(why="nobody has asked for it for too long")
        if self._entries or jobs:
            self._entries.publish()
            self._due = begun + SELDOM_S
            first_void = min((entry.until for entry in self._entries.all()), default=self._due)
            self._due = min(self._due, first_void)
            picture = self._seen(listing)
            winners = self._judged(picture, jobs)
            if any(self._is_ours(winner, jobs) for winner in winners):
                self._give_out(jobs)
            elif any(winner.ticket["job"] for winner in winners):
                self._due = min(self._due, begun + _HELP_S)
            self._help(picture, listing, jobs)
        self._looked = time.monotonic()
        self._cost_s = self._looked - begun
        self._due = max(self._due, self._next_look())

    def _is_ours(self, winner: _Winner, jobs: Collection[str]) -> bool:
        job = winner.ticket["job"]
        if winner.entry is not None or job in jobs:
            return True
        # Nobody seems to look at that job: we can start it as well.
        since = self._granted_since.get(winner.ticket["uid"])
        is_late = since is not None and time.monotonic() - since > _HELP_S
        return bool(job) and is_late and not winner.ticket["needs_pool"]

    def _seen(self, listing: Listing) -> Picture:
        """What there is; what is over is removed first."""
        picture = picture_of(listing, self._places.now(), lambda job_id: self._holders.has_ended(job_id, listing))
        for volume in picture.expired:
            self._places.remove_volume(volume)
        over = {held.id for held in picture.leases if held.is_over and self._ledger.clear(held)}
        leases = tuple(held for held in picture.leases if held.id not in over)
        return replace(picture, leases=leases, expired=())

    def _judged(self, picture: Picture, jobs: Collection[str]) -> list[_Winner]:
        """Note where each of ours stands; those who get something now."""
        entries = self._entries.all()
        capacity = self._stock.capacity(picture.notes, looks=any(entry.wants_gpus for entry in entries))
        ours = {entry.who for entry in entries}
        others = [ticket for ticket in picture.tickets if ticket["who"] not in ours]
        for other in others:
            since = self._granted_since.get(other["uid"])
            is_late = since is not None and time.monotonic() - since > _STALLED_S
            other["stalled"] = is_late and other["job"] not in jobs
        line = [*self._entries.in_line(self._places.now()), *others]
        verdicts = queueing.decide(capacity, leases_of(picture, capacity), line)
        self._note_stalled(list(zip(others, verdicts[len(entries) :], strict=True)))
        users = {ticket["uid"]: ticket for ticket in line}
        for entry, verdict in zip(entries, verdicts, strict=False):
            why = worded(verdict["why"], users, entry.names)
            if entry.wants_gpus and capacity.get("gpus_unknown"):
                why = str(capacity["gpus_unknown"])
            entry.answer = placed(verdict, why, users)
        for ticket, verdict in zip(line, verdicts, strict=True):
            if ticket.get("job"):
                place = placed(verdict, worded(verdict["why"], users), users).to_wire()
                self._jobs.places[ticket["job"]] = {key: place[key] for key in ("position", "ahead", "why")}
        padded: Sequence[Entry | None] = [*entries, *(None for _ in others)]
        found = zip(line, verdicts, padded, strict=True)
        return [_Winner(ticket, verdict, entry) for ticket, verdict, entry in found if verdict["granted"]]

    def _note_stalled(self, others: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
        now, before = time.monotonic(), self._granted_since
        kept = {other["uid"]: before.get(other["uid"], now) for other, verdict in others if verdict["granted"]}
        kept.update({other["uid"]: before[other["uid"]] for other, _ in others if other["stalled"]})
        self._granted_since = kept

    # -- giving out --------------------------------------------------------------------------------------------------

    def _give_out(self, jobs: Collection[str]) -> None:
        """What is granted, asked once more while nobody else decides, and held from then on."""
        started = []
        with self._ledger.deciding() as is_ours:
            if is_ours is None:
                self._due = time.monotonic() + _SOON_S
                return
            listing = self._jobs.listing()
            picture = self._seen(listing)
            for winner in self._judged(picture, jobs):
                if not self._is_ours(winner, jobs):
                    continue
                held = self._given(winner, picture, is_ours)
                if held is not None and held.job:
                    started.append(held)
        for held in started:
            self.go_on(held.job, held)

    def _given(self, winner: _Winner, picture: Picture, is_ours: Callable[[], bool]) -> Held | None:
        ticket, verdict, why = winner.ticket, winner.verdict, "another decided meanwhile"
        try:
            held = picture.provisional(ticket["who"])
            if held is None:
                held = self._ledger.grant(asks.record_of(ticket, verdict["gpus"], verdict["past"]), is_ours)
        except EngineError as error:
            held, why = None, f"it cannot be held: {error.said}"
        if held is None:
            self._due = time.monotonic() + _SOON_S
            if winner.entry is not None:
                winner.entry.answer = SeekAnswer(position=1, why=why)
        elif winner.entry is not None:
            self._entries.remove(winner.entry.uid)
            self._news[winner.entry.uid] = asks.answered(held, self._places.now())
        else:
            return self._ledger.take(held.id, ticket["who"], ticket["job"])
        return None

    def _help(self, picture: Picture, listing: Listing, jobs: Collection[str]) -> None:
        """Start the jobs that have long had their lease: whoever took it for them was killed."""
        for held in picture.leases:
            is_late = held.decided is not None and self._places.now() - held.decided > _STALLED_S
            if not (held.job and is_late and held.job not in jobs and slots.waits(listing, held.job)):
                continue
            known = {str(gpu.get("uuid")) for gpu in self._stock.capacity(listing.notes)["gpus"]}
            if known.issuperset(held.gpus) and not needs_pool(names.plan_of(listing.labels(held.job))):
                self.go_on(held.job, held)

    # -- jobs that stand in line by themselves -----------------------------------------------------------------------

    def serve(self, job_ids: Sequence[str], listing: Listing) -> dict[str, Held]:
        """What those of these jobs hold that wait to be started; the others stand in line."""
        picture, found = self._seen(listing), {}
        waiting = []
        for job_id in job_ids:
            held = picture.of_job(job_id) or self.take(job_id, listing)
            if held is not None:
                found[job_id] = held
            else:
                waiting.append(job_id)
        if waiting:
            self.look(listing, waiting)
        return found

    def settle(self, job_ids: Collection[str], listing: Listing) -> None:
        """Remove what those of the jobs held that have ended: who waits for it need not look first."""
        fates = {str((volume.get("Labels") or {}).get(names.FATE)) for volume in listing.line}
        if any(job_id in fates and self._holders.has_ended(job_id, listing) for job_id in job_ids):
            self._seen(self._jobs.listing())

    def take(self, job_id: str, listing: Listing) -> Held | None:
        """Take over, for a job, the lease that its plan names."""
        lease = names.plan_of(listing.labels(job_id)).get("lease") or {}
        if not lease.get("id"):
            return None
        return self._ledger.take(str(lease["id"]), hashed("who", str(lease["ticket"].get("uid"))), job_id)

    # -- what is shown -----------------------------------------------------------------------------------------------

    def room(self, *, gpus: bool) -> Room:
        """What there is, who holds it, who waits. `gpus`: False: nobody waits for a look at them."""
        if gpus:
            self._stock.look(_GPUS_WAIT_S)
        listing, now = self._jobs.listing(), self._places.now()
        picture, capacity = self._seen(listing), self._stock.capacity(listing.notes)
        known = {ticket["who"] for ticket in picture.tickets}
        mine = [ticket for ticket in self._entries.in_line(now) if ticket["who"] not in known]
        tickets = [*mine, *picture.tickets]
        leases = [{**held.wire(), "since_s": max(0.0, now - held.since)} for held in picture.leases]
        verdicts = queueing.decide(capacity, leases_of(picture, capacity), tickets)
        users = {ticket["uid"]: ticket for ticket in tickets}
        waiting = [shown(ticket, verdict, users) for ticket, verdict in zip(tickets, verdicts, strict=True)]
        waiting.sort(key=lambda ticket: ticket["position"] or len(waiting) + 1)
        return Room(
            capacity=capacity,
            leases=leases,
            tickets=waiting,
            driver=str(capacity.get("driver") or ""),
            enforced=("cpu", "memory"),
            ends=ends.last(self._jobs, listing),
            warnings=tuple(self._stock.warnings(listing.notes)),
        )
