"""Clause 9 of backends/base.py: making room, going on elsewhere, leases, attempts whose place was taken."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Limits, Plan
from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.errors import WorkerError
from tests.contract.labs import Lab
from tests.contract.steps import Renewals, launch, log, outcome, wait_ready, wait_until


def ended(backend: Backend, job_id: str) -> JobState:
    """Wait for the end of an attempt, whatever its status."""
    return wait_until(backend, [job_id], lambda states: states[job_id].phase == "ended")[job_id]


def test_9_a_preempted_job_has_time_to_save_and_no_more(lab: Lab) -> None:
    plan = lab.plan(lab.words.save_when_told("step 7"), limits=Limits(grace_s=60))
    backend = lab.backend()
    job_id = launch(backend, plan)
    wait_ready(backend, job_id)
    begun = time.monotonic()
    backend.preempt(job_id, reason="a job of higher priority", by="ann")
    state = ended(backend, job_id)
    assert (state.status, state.reason) == (JobStatus.SUSPENDED, "Preempted")
    assert not state.status.is_finished
    assert "ann: a job of higher priority" in state.message
    assert "a checkpoint was written" in state.message
    assert time.monotonic() - begun < 50, "the checkpoint message ends the grace"


def test_9_a_deaf_job_is_killed_after_its_grace(lab: Lab) -> None:
    plan = lab.plan(lab.words.block(deaf=True), limits=Limits(grace_s=60))
    backend = lab.backend()
    job_id = launch(backend, plan)
    wait_ready(backend, job_id)
    backend.preempt(job_id, reason="room", grace_s=0.3)
    state = ended(backend, job_id)
    assert state.status is JobStatus.SUSPENDED
    assert "no new checkpoint" in state.message


def test_9_the_next_attempt_finds_the_checkpoint_and_the_old_one_says_where_it_went(lab: Lab) -> None:
    backend = lab.backend()
    first = lab.plan(lab.words.save_when_told("step 7"), limits=Limits(grace_s=10))
    launch(backend, first)
    wait_ready(backend, first.job_id)
    backend.preempt(first.job_id, reason="room")
    ended(backend, first.job_id)
    second = lab.plan(lab.words.restore(), uid=first.uid, attempt=2, worker="w")
    launch(backend, second)
    assert outcome(backend, second.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, second.job_id) == b"step 7"
    moved = backend.poll([first.job_id])[first.job_id]
    assert moved.status is JobStatus.SUSPENDED
    assert moved.moved_to == {"job_id": second.job_id, "attempt": 2, "worker": "w"}


def test_9_an_attempt_whose_place_was_taken_never_starts(lab: Lab) -> None:
    backend = lab.backend()
    stale = lab.plan(lab.words.say("too late"))
    backend.claim(stale)
    newer = lab.plan(lab.words.say("here"), uid=stale.uid, attempt=2, worker="w")
    launch(backend, newer)
    with pytest.raises(WorkerError, match="taken the place"):
        backend.start(stale.job_id)
    assert outcome(backend, newer.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, stale.job_id) == b""


def queued(backend: Backend, lab: Lab, **options: Any) -> tuple[str, Plan]:
    """A job that runs, and one that waits for its slot."""
    blocker = launch(backend, lab.plan(lab.words.block(), slots=1, limits=Limits(grace_s=1)))
    wait_ready(backend, blocker)
    waiting = lab.plan(lab.words.say("too late"), slots=1, **options)
    launch(backend, waiting)
    wait_until(backend, [waiting.job_id], lambda s: s[waiting.job_id].reason == "Queued")
    return blocker, waiting


def test_9_an_attempt_that_waits_never_starts_once_its_place_was_taken(lab: Lab) -> None:
    backend = lab.backend()
    blocker, stale = queued(backend, lab)
    backend.set_moved(stale.job_id, replace(stale.next_attempt(2), worker="elsewhere"))
    backend.stop(blocker, reason="room")
    ended(backend, blocker)
    later = lab.plan(lab.words.say("here"), slots=1)
    assert outcome(backend, launch(backend, later)).status is JobStatus.SUCCEEDED
    assert backend.poll([stale.job_id])[stale.job_id].status is JobStatus.PENDING
    backend.stop(stale.job_id, reason="attempt 2 has taken its place")
    assert outcome(backend, stale.job_id).status is JobStatus.CANCELLED
    assert log(backend, stale.job_id) == b""


def test_9_a_move_to_another_worker_is_told_too(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.say("hi"))
    outcome(backend, launch(backend, plan))
    backend.set_moved(plan.job_id, plan.next_attempt(2))
    backend.set_moved(plan.job_id, plan.next_attempt(3))
    found = backend.poll([plan.job_id])[plan.job_id].moved_to
    assert found is not None
    assert found["attempt"] == 3


def test_9_a_checkpoint_travels(lab: Lab) -> None:
    backend = lab.backend()
    first = lab.plan(lab.words.save_when_told("step 7"))
    launch(backend, first)
    wait_ready(backend, first.job_id)
    backend.preempt(first.job_id, reason="room")
    ended(backend, first.job_id)
    archive = b"".join(backend.checkpoint(first.job_id))
    elsewhere = lab.plan(lab.words.restore())  # another uid: its own, empty checkpoint directory
    backend.claim(elsewhere)
    backend.send_checkpoint(elsewhere.job_id, [archive])
    backend.start(elsewhere.job_id)
    assert outcome(backend, elsewhere.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, elsewhere.job_id) == b"step 7"


def test_9_preempting_what_has_ended_changes_nothing_and_what_never_started_suspends_it(lab: Lab) -> None:
    backend = lab.backend()
    done = launch(backend, lab.plan(lab.words.say("hi", 3)))
    outcome(backend, done)
    assert backend.preempt(done, reason="room").exit_code == 3
    waiting = lab.plan(lab.words.say("hi"))
    backend.claim(waiting)
    assert backend.preempt(waiting.job_id, reason="room").status is JobStatus.SUSPENDED


def test_9_a_job_with_a_lease_stops_itself_when_nobody_asks(lab: Lab) -> None:
    backend = lab.backend()
    leased = lab.plan(lab.words.block(), orphan_after_s=2.0, limits=Limits(grace_s=1))
    free = lab.plan(lab.words.block())
    launch(backend, free)
    wait_ready(backend, free.job_id)
    begun, renewals = time.monotonic(), Renewals(backend, leased.job_id, free.job_id)
    launch(backend, leased)
    while time.monotonic() - begun < 3.5:
        renewals.renew()
        backend.watch([leased.job_id], 0.3)
    is_running = backend.poll([leased.job_id])[leased.job_id].status is JobStatus.RUNNING
    assert is_running or renewals.longest_s >= 2.0
    state = ended(backend, leased.job_id)
    assert (state.status, state.reason) == (JobStatus.FAILED, "WorkerLost")
    assert "on_orphan: stop" in state.message
    assert backend.poll([free.job_id])[free.job_id].status is JobStatus.RUNNING


def test_9_a_job_that_waits_ends_when_nobody_asks_and_is_started_by_no_one_else(lab: Lab) -> None:
    """Who asked for it goes on without it, somewhere else."""
    backend = lab.backend()
    blocker, waiting = queued(backend, lab, orphan_after_s=2.0)
    until = time.monotonic() + 3
    while time.monotonic() < until:
        backend.renew([waiting.job_id])
        told = backend.watch([waiting.job_id], 0.3)
        assert all(state.status is JobStatus.PENDING for state in told.values()), told
    time.sleep(2.5)  # nobody asks
    backend.stop(blocker, reason="room")
    ended(backend, blocker)
    state = outcome(lab.backend(), waiting.job_id)
    assert (state.status, state.reason) == (JobStatus.FAILED, "WorkerLost")
    assert log(backend, waiting.job_id) == b""
