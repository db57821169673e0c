"""A cordoned worker takes no new jobs, whoever asks; what runs there goes on."""

from __future__ import annotations

from airflow_jobdeploy.core.leases import Ticket
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.core.status import JobStatus
from tests.contract.labs import Lab
from tests.contract.steps import launch, wait_until

#: Cores may all be held by other tests.
SMALL = {"memory": 1}


def test_a_cordoned_worker_takes_no_new_jobs_and_says_why(lab: Lab) -> None:
    backend = lab.backend()
    running = launch(backend, lab.plan(lab.words.block()))
    wait_until(backend, [running], lambda states: states[running].status is JobStatus.RUNNING)
    told = backend.cordon(by="ada", why="new\x1b[31m disk")
    try:
        assert told.startswith("cordoned by ada: new")
        other = lab.backend()
        assert other.facts().cordoned.startswith("cordoned by ada: new")
        if not backend.capabilities.leases:
            return
        assert other.room().capacity["cordoned"] == other.facts().cordoned
        ticket = Ticket(uid=new_uid(), demand=SMALL)
        answer = other.seek(ticket)
        assert (answer.lease, answer.position) == (None, 0)
        assert answer.why.startswith("takes no new jobs: cordoned by ada")
        assert backend.poll([running])[running].status is JobStatus.RUNNING
    finally:
        assert backend.cordon(by="bob", lift=True) == ""
    assert backend.cordon(by="bob", lift=True) == ""  # twice is once
    assert lab.backend().facts().cordoned == ""
    answer = other.seek(ticket)
    if answer.lease is None:  # a worker looks again now and then
        answer = other.granted(30.0)[ticket.uid]
    assert answer.lease is not None
    lab.leases.append(answer.lease.id)
