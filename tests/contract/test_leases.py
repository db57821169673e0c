"""Clauses 14 and 15 of backends/base.py: leases are exclusive and go with their holder; one line for all."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.leases import Lease, SeekAnswer, Ticket, hashed, lease_of
from airflow_jobdeploy.core.plan import Limits, Plan, new_uid
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerError
from tests.contract.labs import Lab
from tests.contract.steps import at_once, launch, log, outcome, wait_ready, wait_until


class Pool:
    """A worker with GPUs of a type of its own."""

    def __init__(self, lab: Lab, count: int) -> None:
        self.lab = lab
        self.type = lab.with_gpus(count)
        self._ours: set[str] = set()
        self.backend = self.another()

    def another(self) -> Backend:
        """Of the same worker. A host that has not looked at its GPUs yet gives none out, and knows nothing of them."""
        backend, until = self.lab.backend(), time.monotonic() + 60
        while self.type not in [gpu["model"] for gpu in backend.room().capacity["gpus"]]:
            assert time.monotonic() < until, backend.room()
        return backend

    def ticket(self, count: int = 1, **options: Any) -> Ticket:
        # No cores: other tests of this machine may hold them all meanwhile.
        demand = {"disk": 1 << 20, "gpus": [{"type": self.type, "count": count}]}
        made = Ticket(**{"uid": new_uid(), "demand": demand, **options})
        self._ours.add(hashed("who", made.uid))
        return made

    def position(self, answer: SeekAnswer) -> int:
        """In the line as if nobody stood in it but this test: others of this machine may wait for its cores."""
        return answer.position - sum(each["who"] not in self._ours for each in answer.ahead)

    def plan(self, ticket: Ticket, lease: Lease | None, *steps: Any, **options: Any) -> Plan:
        steps = steps or (self.lab.words.block(),)
        return self.lab.plan(*steps, uid=ticket.uid, lease=lease_of(ticket, lease), **options)

    def granted(self, backend: Backend, ticket: Ticket, timeout_s: float = 20.0) -> SeekAnswer:
        """Wait until it is told of a lease."""
        until = time.monotonic() + timeout_s
        while time.monotonic() < until:
            answer = backend.granted(until - time.monotonic()).get(ticket.uid)
            if answer is not None:
                assert answer.lease, answer
                self.lab.leases.append(answer.lease.id)
                return answer
        raise AssertionError(f"not granted within {timeout_s} s: {backend.room()}")

    def lease(self, ticket: Ticket | None = None, backend: Backend | None = None) -> Lease:
        """What is free at once."""
        answer = (backend or self.backend).seek(ticket or self.ticket())
        assert answer.lease, answer
        self.lab.leases.append(answer.lease.id)
        return answer.lease


# -- 14: leases ------------------------------------------------------------------------------------------------------


def test_14_of_many_who_ask_at_once_each_gpu_has_one(lab: Lab) -> None:
    pool = Pool(lab, 3)
    backends = [pool.another() for _ in range(5)]
    answers: list[SeekAnswer] = []
    at_once(*[lambda b=b: answers.append(b.seek(pool.ticket())) for b in backends])
    until = time.monotonic() + 20
    while sum(answer.lease is not None for answer in answers) < 3 and time.monotonic() < until:
        for backend in backends:
            answers += backend.granted(0.3).values()
    lab.leases += [answer.lease.id for answer in answers if answer.lease]
    gpus = [gpu for answer in answers if answer.lease for gpu in answer.lease.gpus]
    assert len(gpus) == len(set(gpus)) == 3
    room = lab.backend().room()
    assert sorted(gpu for lease in room.leases for gpu in lease["gpus"] if gpu in gpus) == sorted(gpus)


def test_14_a_job_sees_its_gpus_and_holds_them_until_its_end(lab: Lab) -> None:
    pool = Pool(lab, 2)
    ticket = pool.ticket()
    lease = pool.lease(ticket)
    step = lab.words.env("CUDA_VISIBLE_DEVICES", "JOBDEPLOY_GPUS")
    state = outcome(pool.backend, launch(pool.backend, pool.plan(ticket, lease, step)))
    assert state.status is JobStatus.SUCCEEDED, state.message
    [gpu] = lease.gpus
    assert log(pool.backend, state.job_id).decode().split() == [gpu, gpu]
    assert state.facts["gpus"] == [gpu]
    assert not _held(pool.backend, gpu)


def _held(backend: Backend, gpu: str) -> list[Any]:
    """The leases of a GPU; the process that holds it may need a moment to end after its job has."""
    until = time.monotonic() + 20
    while True:
        found = [lease for lease in backend.room().leases if gpu in lease["gpus"]]
        if not found or time.monotonic() > until:
            return found
        time.sleep(0.02)


def test_14_a_running_job_is_shown_as_the_holder(lab: Lab) -> None:
    pool = Pool(lab, 1)
    ticket = pool.ticket(deployment="prod", owner="vision")
    lease = pool.lease(ticket)
    job_id = launch(pool.backend, pool.plan(ticket, lease))
    wait_ready(pool.backend, job_id)
    [held] = [each for each in lab.backend().room().leases if each["gpus"] == list(lease.gpus)]
    assert (held["job"], held["user"] != "") == (job_id, True)
    assert held["who"] == hashed("who", ticket.uid)
    assert (held["deployment"], held["owner"]) == (hashed("deployment", "prod"), hashed("owner", "vision"))
    assert (held["cpu"], held["disk"]) == (0, 1 << 20)
    assert not pool.backend.release(lease.id)  # it is the job's


def test_14_what_is_given_back_is_another_s_at_once(lab: Lab) -> None:
    pool = Pool(lab, 1)
    lease = pool.lease()
    other, waiting = pool.another(), pool.ticket()
    answer = other.seek(waiting)
    assert (answer.lease, pool.position(answer)) == (None, 1)
    assert pool.type.split()[1] in answer.why
    assert pool.backend.release(lease.id)
    assert pool.granted(other, waiting).lease
    assert not pool.backend.release(lease.id)


def test_14_the_end_of_a_job_is_another_s_begin(lab: Lab) -> None:
    pool = Pool(lab, 1)
    ticket = pool.ticket()
    job_id = launch(pool.backend, pool.plan(ticket, pool.lease(ticket)))
    wait_ready(pool.backend, job_id)
    other, waiting = pool.another(), pool.ticket()
    assert other.seek(waiting).lease is None
    pool.backend.stop(job_id, reason="make room", grace_s=0.5)
    outcome(pool.backend, job_id)
    assert pool.granted(other, waiting).lease


def test_14_a_watch_ends_early_for_a_grant(lab: Lab) -> None:
    pool = Pool(lab, 1)
    lease, waiting = pool.lease(), pool.ticket()
    other = pool.another()
    assert other.seek(waiting).lease is None
    other.watch([], 0.1)
    pool.backend.release(lease.id)
    begun = time.monotonic()
    told: dict[str, SeekAnswer] = {}
    while waiting.uid not in told:
        assert other.watch([], 120) == {}
        assert time.monotonic() - begun < 60
        told = dict(other.granted())
    assert told[waiting.uid].lease


def test_14_the_same_ticket_again_is_answered_with_the_same_lease(lab: Lab) -> None:
    pool = Pool(lab, 2)
    ticket = pool.ticket()
    lease = pool.lease(ticket)
    pool.backend.close()
    again = pool.lease(ticket, pool.another())
    assert (again.id, again.gpus) == (lease.id, lease.gpus)
    assert 0 < again.void_after_s <= lease.void_after_s


def test_14_a_lease_is_of_one_job_only(lab: Lab) -> None:
    pool = Pool(lab, 1)
    lease = pool.lease()
    thief = pool.ticket()
    job_id = launch(pool.backend, pool.plan(thief, lease))
    wait_until(pool.backend, [job_id], lambda s: s[job_id].reason == "Queued")
    pool.backend.release(lease.id)
    wait_ready(pool.backend, job_id)


def test_14_a_job_without_a_lease_waits_in_line_by_itself(lab: Lab) -> None:
    pool = Pool(lab, 1)
    lease = pool.lease()
    job_id = launch(pool.backend, pool.plan(pool.ticket(), None))
    states = wait_until(pool.backend, [job_id], lambda s: "in the worker's line, place " in s[job_id].message)
    assert (states[job_id].status, states[job_id].reason) == (JobStatus.PENDING, "Queued")
    pool.backend.release(lease.id)
    wait_ready(pool.backend, job_id)
    assert pool.backend.poll([job_id])[job_id].facts["gpus"] == list(lease.gpus)


def test_14_a_waiting_job_can_be_stopped_and_runs_out_of_time(lab: Lab) -> None:
    pool = Pool(lab, 1)
    pool.lease()
    stopped = launch(pool.backend, pool.plan(pool.ticket(), None))
    late = launch(pool.backend, pool.plan(pool.ticket(), None, limits=Limits(schedule_timeout_s=0.5)))
    wait_until(pool.backend, [stopped], lambda s: s[stopped].reason == "Queued")
    pool.backend.stop(stopped, reason="enough")
    assert outcome(pool.backend, stopped).status is JobStatus.CANCELLED
    assert outcome(pool.backend, late).reason == "TimedOut"


def test_14_a_job_without_gpus_sees_none(lab: Lab) -> None:
    pool = Pool(lab, 1)
    ticket = replace(pool.ticket(), demand={"disk": 1 << 20})
    step = lab.words.env("CUDA_VISIBLE_DEVICES", "JOBDEPLOY_GPUS")
    plan = replace(pool.plan(ticket, pool.lease(ticket), step), env={"CUDA_VISIBLE_DEVICES": "0"})
    state = outcome(pool.backend, launch(pool.backend, plan))
    assert log(pool.backend, state.job_id) == b"\n\n"


# -- 15: the line ----------------------------------------------------------------------------------------------------


def test_15_a_ticket_ends_with_its_session(lab: Lab) -> None:
    pool = Pool(lab, 1)
    lease, first, second = pool.lease(), pool.another(), pool.another()
    gone = pool.ticket(waited_s=60.0, reserves=True)
    first.seek(gone)
    later = pool.ticket()
    assert pool.position(second.seek(later)) == 2
    first.close()
    _await_gone(second, gone)
    pool.backend.release(lease.id)
    assert pool.granted(second, later).lease


def _await_gone(backend: Backend, ticket: Ticket) -> None:
    """A cut connection is noticed by the other side in its own time."""
    until = time.monotonic() + 30
    while hashed("who", ticket.uid) in [each["who"] for each in backend.room().tickets]:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_15_a_ticket_ends_when_nobody_renews_it(lab: Lab) -> None:
    pool = Pool(lab, 1)
    pool.lease()
    ticket = pool.ticket(ttl_s=0.3)
    other = pool.another()
    other.seek(ticket)
    until = time.monotonic() + 30
    while not (told := other.granted(0.5)):
        assert time.monotonic() < until
    assert (told[ticket.uid].lease, told[ticket.uid].position) == (None, 0)
    assert hashed("who", ticket.uid) not in [each["who"] for each in other.room().tickets]


def test_15_a_dropped_ticket_is_out_of_the_line_and_its_lease_is_given_back(lab: Lab) -> None:
    pool = Pool(lab, 1)
    granted, waiting = pool.ticket(), pool.ticket()
    lease = pool.lease(granted)
    pool.backend.seek(waiting)
    pool.backend.drop(waiting.uid)
    assert hashed("who", waiting.uid) not in [each["who"] for each in pool.backend.room().tickets]
    lab.backend().drop(granted.uid)
    assert not _held(pool.backend, lease.gpus[0])
    pool.backend.drop("nobody-knows")


def test_15_the_line_is_by_priority_then_by_age(lab: Lab) -> None:
    pool = Pool(lab, 1)
    lease = pool.lease()
    tickets = [
        pool.ticket(priority="low", waited_s=500.0),
        pool.ticket(waited_s=10.0),
        pool.ticket(waited_s=200.0),
        pool.ticket(priority="high"),
    ]
    backends = {ticket.uid: pool.another() for ticket in tickets}
    for ticket in tickets:
        backends[ticket.uid].seek(ticket)
    order = []
    for ticket in reversed(tickets):
        pool.backend.release(lease.id)
        found = pool.granted(backends[ticket.uid], ticket).lease
        assert found
        lease = found
        order.append(ticket.uid)
    assert order == [ticket.uid for ticket in reversed(tickets)]


def test_15_who_is_ahead_is_told(lab: Lab) -> None:
    pool = Pool(lab, 1)
    pool.lease()
    first = pool.ticket(waited_s=3600.0, priority="high")
    pool.backend.seek(first)
    answer = pool.another().seek(pool.ticket())
    assert pool.position(answer) == 2
    [ahead] = [each for each in answer.ahead if each["who"] == hashed("who", first.uid)]
    assert ahead["priority"] == "high"
    assert 3590 < ahead["waited_s"] < 3700
    assert ahead["user"]


def test_15_a_small_one_passes_only_where_it_does_no_harm(lab: Lab) -> None:
    pool = Pool(lab, 4)
    pool.lease(pool.ticket(2))
    big = pool.ticket(3, priority="high", waited_s=1e6, reserves=True)  # the first of all on this machine
    assert pool.position(pool.backend.seek(big)) == 1
    assert pool.lease(backend=pool.another())  # three of four are still there for the first
    harmful = pool.another().seek(pool.ticket())
    assert harmful.lease is None
    assert "which is first in line" in harmful.why


def test_15_who_reserves_elsewhere_holds_nobody_up_here(lab: Lab) -> None:
    pool = Pool(lab, 2)
    pool.lease()
    assert pool.position(pool.backend.seek(pool.ticket(2, waited_s=60.0))) == 1
    assert pool.lease(backend=pool.another())


def test_15_what_can_never_be_had_is_said(lab: Lab) -> None:
    pool = Pool(lab, 1)
    answer = pool.backend.seek(pool.ticket(8))
    assert (answer.lease, answer.position) == (None, 0)
    assert "more than is here" in answer.why
    assert pool.type in answer.why


NONSENSE: list[dict[str, Any]] = [
    {"demand": {"cpu": -1}},
    {"demand": {"gpus": [{"count": 0}]}},
    {"demand": {"memory": "much"}},
    {"priority": "urgent"},
    {"waited_s": -5.0},
    {"uid": ""},
    {"within": {"gpus": 3}},
]


def test_15_nonsense_is_no_ticket(lab: Lab) -> None:
    pool = Pool(lab, 1)
    good = pool.ticket()
    for change in NONSENSE:
        with pytest.raises(WorkerError, match=r"cannot be read|bad-request"):
            pool.backend.seek(replace(good, **change))
    assert pool.lease(good)
