"""A pool in virtual time: hosts grant by `hostside.queueing.decide`, waiters choose by `core.assigning.Board`.

Everything is drawn from one seed. Answers are late, waiters are killed and come back, hosts are killed with all that
runs there. Checked at every event:

- no over-commit: no GPU twice, never more cores or memory than there are;
- no starvation: whoever is first in a line and reserves starts once those have ended that it may have to wait for;
- no lost lease: each one that was granted ends with its job, is given back, or becomes void; none is left at the end.
"""

from __future__ import annotations

import heapq
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from airflow_jobdeploy.core.assigning import Board
from airflow_jobdeploy.core.gpus import GB
from airflow_jobdeploy.core.leases import PROVISIONAL_S, TICKET_S
from airflow_jobdeploy.core.placement import Wanted
from airflow_jobdeploy.hostside.queueing import decide
from benchmarks.simulated import DEMANDS, MODELS, WEIGHTS, Host, Job, Lease, Scale

#: A job asks the best worker alone, and takes so many tickets when it was not served soon; it looks again so often.
_TICKETS, _SOON_S, _LOOK_S = 6, 2.0, 30.0
#: An answer is at most so late; a killed waiter, a killed host come back after so long, at most.
_LATE_S, _AWAY_S, _DOWN_S = 0.5, 300.0, 600.0


class World:
    """All of it, at one moment of virtual time."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.chance = random.Random(scale.seed)
        self.now_s = 0.0
        self.counts: Counter[str] = Counter()
        self.waits_s: list[float] = []
        self.decide_s = self.place_s = 0.0
        self._marks: list[tuple[float, int, float, int]] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        kinds = [MODELS[0], MODELS[1], MODELS[2], MODELS[1], MODELS[2], MODELS[2], MODELS[3]]
        self.hosts = {f"w{n:04d}": Host(f"w{n:04d}", kinds[n % len(kinds)]) for n in range(scale.workers)}
        self.jobs: list[Job] = []
        self._fill()
        self.board = Board([host.view() for host in self.hosts.values()])
        self._schedule_all()

    # -- time ----------------------------------------------------------------------------------------------------------

    def at(self, when_s: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (when_s, self._number, action))

    def late(self, action: Callable[[], None]) -> None:
        """After what a message takes."""
        self.at(self.now_s + self.chance.uniform(0.01, _LATE_S), action)

    def run(self) -> None:
        """Until nothing is left to happen."""
        while self._events:
            self.now_s, _, action = heapq.heappop(self._events)
            action()

    # -- what there is at first ----------------------------------------------------------------------------------------

    def _fill(self) -> None:
        """Others' jobs hold most of the hosts, so that the first of ours meets what the last one does."""
        for host in self.hosts.values():
            gpus = [gpu["uuid"] for gpu in host.capacity["gpus"]]
            for uuid in gpus[: round(len(gpus) * self.scale.load + self.chance.uniform(-0.5, 0.5))]:
                ends_s = self.chance.expovariate(1 / self.scale.mean_s)
                self._hold(host, None, [uuid], {"cpu": 2.0, "memory": 8 * GB}, ends_s)
            host.check()

    def _schedule_all(self) -> None:
        chance, scale = self.chance, self.scale
        gpus = sum(len(host.capacity["gpus"]) for host in self.hosts.values())
        mean = sum(weight * demand.gpu_count for weight, demand in zip(WEIGHTS, DEMANDS, strict=True)) / sum(WEIGHTS)
        gap_s = mean * scale.mean_s / (gpus * scale.load)
        when_s = 0.0
        for number in range(scale.jobs):
            when_s += chance.expovariate(1 / gap_s)
            demand = chance.choices(DEMANDS, WEIGHTS)[0]
            priority = chance.choices(("high", "normal", "low"), (1, 8, 1))[0]
            wanted = Wanted(uid=f"{number:06d}", demand=demand, priority=priority)
            runs_s = min(chance.expovariate(1 / scale.mean_s), 6 * scale.mean_s)
            job = Job(wanted=wanted, born_s=when_s, runs_s=runs_s, wire=demand.to_wire())
            self.jobs.append(job)
            self.at(when_s, partial(self._look, job, 0))
            if (number + 1) * 10 % scale.jobs == 0:
                self.at(when_s, self._mark)
            if chance.random() < scale.kills:
                self.at(when_s + chance.uniform(0.0, 2.0), partial(self._kill, job))
        for _ in range(round(scale.jobs * scale.deaths / 100)):
            self.at(chance.uniform(0.0, when_s), self._kill_host)

    def _mark(self) -> None:
        """Another tenth of the jobs has come."""
        self._marks.append((self.decide_s, self.counts["decisions"], self.place_s, self.counts["places"]))

    def cost_us(self, tenth: int) -> tuple[float, float]:
        """Microseconds of a host's decision and of a waiter's look, while that tenth of the jobs came (0 to 9)."""
        before = self._marks[tenth - 1] if tenth else (0.0, 0, 0.0, 0)
        decided, decisions, placed, places = (b - a for a, b in zip(before, self._marks[tenth], strict=True))
        return decided / max(decisions, 1) * 1e6, placed / max(places, 1) * 1e6

    # -- waiters -------------------------------------------------------------------------------------------------------

    def _look(self, job: Job, life: int) -> None:
        """Put tickets on the best workers; the first of them is where the job reserves."""
        if job.life != life or job.killed_s is not None or job.at or job.is_done:
            return
        begun = time.process_time()
        best = self.board.best(job.wanted, _TICKETS if job.tickets else 1)
        self.place_s += time.process_time() - begun
        self.counts["places"] += 1
        before, job.tickets = job.tickets, {name: place == 0 for place, name in enumerate(best)}
        for name in sorted(before.keys() - job.tickets.keys()):
            self.late(partial(self._drop, self.hosts[name], job))
        for name, reserves in job.tickets.items():
            if before.get(name) is not reserves:
                self.late(partial(self._seek, self.hosts[name], job))
        self.at(self.now_s + (_LOOK_S if before else _SOON_S), partial(self._look, job, life))

    def _kill(self, job: Job) -> None:
        """Whoever waits for it is killed; another comes back for it."""
        if job.is_done or job.started_s is not None:
            return
        self.counts["waiters killed"] += 1
        job.life, job.killed_s, job.at = job.life + 1, self.now_s, ""
        self.at(self.now_s + self.chance.uniform(1.0, _AWAY_S), partial(self._come_back, job))
        for name in sorted(job.tickets):
            self.at(self.now_s + TICKET_S + 1, partial(self._settle, self.hosts[name]))

    def _come_back(self, job: Job) -> None:
        job.killed_s, job.tickets = None, {}  # it does not know where it had any
        self._look(job, job.life)

    def _answered(self, host: Host, key: str, job: Job, life: int) -> None:
        """A host has granted a lease. One is enough; who is not there cannot take it."""
        lease = host.leases.get(key)
        if lease is None:
            return
        if job.life != life or job.killed_s is not None:
            return  # nobody takes it: it becomes void
        if job.at or job.is_done:
            self.counts["given back"] += 1
            self._end(host, key)
            return
        job.at = host.name
        for name in sorted(job.tickets.keys() - {host.name}):
            self.late(partial(self._drop, self.hosts[name], job))
        job.tickets = {}
        self.late(partial(self._claim, host, key, job, life))

    # -- hosts ---------------------------------------------------------------------------------------------------------

    def _seek(self, host: Host, job: Job) -> None:
        if not host.is_up or host.name not in job.tickets or job.at or job.is_done:
            return
        host.line[job.wanted.uid] = (job, job.tickets[host.name])
        self._settle(host)

    def _drop(self, host: Host, job: Job) -> None:
        if host.name not in job.tickets and job.wanted.uid in host.line:
            del host.line[job.wanted.uid]
            self._settle(host)

    def _claim(self, host: Host, key: str, job: Job, life: int) -> None:
        """The job's process takes its lease over, and runs."""
        lease = host.leases.get(key)
        if lease is None or job.life != life:
            return
        lease.is_claimed, lease.ends_s = True, self.now_s + job.runs_s
        job.started_s = self.now_s
        self.waits_s.append(self.now_s - job.born_s)
        self.at(lease.ends_s, partial(self._finish, host, key, job))

    def _finish(self, host: Host, key: str, job: Job) -> None:
        if key in host.leases:
            job.is_done = True
            self.counts["ended"] += 1
            self._end(host, key)

    def _end(self, host: Host, key: str) -> None:
        del host.leases[key]
        self._settle(host)

    def _void(self, host: Host, key: str) -> None:
        lease = host.leases.get(key)
        if lease is not None and not lease.is_claimed:
            self.counts["void"] += 1
            self._end(host, key)

    def _kill_host(self) -> None:
        host = self.chance.choice(list(self.hosts.values()))
        if not host.is_up:
            return
        self.counts["hosts killed"] += 1
        self.counts["lost with a host"] += sum(1 for lease in host.leases.values() if lease.job)
        lost = [lease.job for lease in host.leases.values() if lease.job and lease.job.at == host.name]
        host.is_up = False
        host.leases, host.line, host.head = {}, {}, ("", 0.0)
        self.board.update(host.view())
        self.at(self.now_s + self.chance.uniform(10.0, _DOWN_S), partial(self._raise_host, host))
        for job in lost:  # the next attempt
            job.life, job.at, job.started_s = job.life + 1, "", None
            if job.killed_s is None:
                self.late(partial(self._look, job, job.life))

    def _raise_host(self, host: Host) -> None:
        host.is_up = True
        self._settle(host)

    def _hold(self, host: Host, job: Job | None, gpus: list[str], amounts: dict[str, Any], ends_s: float) -> str:
        key = f"{self.counts['granted']}"
        self.counts["granted"] += 1
        data = {"gpus": gpus, "cpu": amounts["cpu"], "memory": amounts["memory"], "past": amounts.get("past", "")}
        host.leases[key] = Lease(job=job, data=data, ends_s=ends_s, is_claimed=job is None)
        if job is None:
            self.at(ends_s, partial(self._others_end, host, key))
        return key

    def _others_end(self, host: Host, key: str) -> None:
        if key in host.leases:
            self._end(host, key)
        self.counts["others"] += 1

    def _settle(self, host: Host) -> None:
        """What a host does under its mutex whenever something has changed."""
        if not host.is_up:
            return
        gone = [uid for uid, (job, _) in host.line.items() if _is_stale(job, self.now_s)]
        for uid in gone:
            del host.line[uid]
        tickets = [self._ticket(job, reserves) for job, reserves in host.line.values()]
        begun = time.process_time()
        verdicts = decide(host.capacity, [lease.data for lease in host.leases.values()], tickets)
        self.decide_s += time.process_time() - begun
        self.counts["decisions"] += 1
        self.counts["longest line"] = max(self.counts["longest line"], len(tickets))
        for verdict in verdicts:
            if verdict["granted"]:
                self._grant(host, verdict)
        host.check()
        self._check_head(host, tickets, verdicts)
        self.board.update(host.view())

    def _ticket(self, job: Job, reserves: bool) -> dict[str, Any]:
        wanted = job.wanted
        age = {"waited_s": self.now_s - job.born_s, "reserves": reserves}
        return {"uid": wanted.uid, "priority": wanted.priority, "demand": job.wire, **age}

    def _grant(self, host: Host, verdict: dict[str, Any]) -> None:
        job, _ = host.line.pop(verdict["uid"])
        amounts = {**job.wire, "past": verdict["past"]}
        latest_s = self.now_s + PROVISIONAL_S + job.runs_s
        key = self._hold(host, job, verdict["gpus"], amounts, latest_s)
        self.counts["fillers"] += bool(verdict["past"])
        self.late(partial(self._answered, host, key, job, job.life))
        self.at(self.now_s + PROVISIONAL_S, partial(self._void, host, key))
        if host.head[0] and host.head[0] != verdict["past"]:  # one before it in the line: it waits for that, too
            host.head = (host.head[0], max(host.head[1], latest_s))

    def _check_head(self, host: Host, tickets: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> None:
        """No starvation."""
        both = zip(verdicts, tickets, strict=True)
        line = [(found["position"], found["uid"]) for found, of in both if found["position"] and of["reserves"]]
        first = min(line, default=(0, ""))[1]
        if first != host.head[0]:
            host.head = (first, max((lease.ends_s for lease in host.leases.values()), default=self.now_s))
        elif first:
            assert self.now_s <= host.head[1] + 1e-6, f"{first} starves on {host.name}"


def _is_stale(job: Job, now_s: float) -> bool:
    return job.killed_s is not None and now_s - job.killed_s > TICKET_S
