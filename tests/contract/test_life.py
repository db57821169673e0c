"""Clauses 1, 2, 3, 5, 6 of backends/base.py: claim, start, states, stop, exit codes."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Environment, JobKey, Limits, Step
from airflow_jobdeploy.core.status import JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError
from tests.contract.labs import Lab
from tests.contract.steps import at_once, launch, log, outcome, wait_ready, wait_until

# -- 16: the span of a life ------------------------------------------------------------------------------------------


def test_16_a_life_ends_and_can_be_lengthened_while_it_lasts(lab: Lab) -> None:
    backend = lab.backend()
    other = lab.backend()
    other.facts()  # nothing is left to do first when time counts
    plan = lab.plan(lab.words.block(), limits=Limits(life_span_s=5.0, grace_s=1))
    job_id = launch(backend, plan)
    assert backend.extend(job_id, 0.5, "a").life_span_s == 5.5
    assert other.extend(job_id, 0.5, "a").life_span_s == 5.5  # asked again, after a lost answer, say
    state = outcome(backend, job_id)
    assert (state.status, state.reason, state.facts["limit"]) == (JobStatus.FAILED, "TimedOut", "life_span")
    assert state.running_s is not None
    assert 5.5 <= round(state.running_s, 1) < 40
    assert state.message.startswith("Stopped by its life_span of 5.5 s")
    with pytest.raises(WorkerError, match="over"):
        backend.extend(job_id, 1.0, "b")


def test_16_additions_at_once_all_count(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block(), limits=Limits(life_span_s=600)))
    wait_ready(backend, job_id)
    others = [lab.backend() for _ in range(4)]
    at_once(*[lambda b=b, n=n: b.extend(job_id, 10, f"t{n}") for n, b in enumerate(others)])
    assert lab.backend().poll([job_id])[job_id].life_span_s == 640
    backend.stop(job_id, reason="seen enough", grace_s=0)


def test_16_only_a_job_that_has_a_life_span_can_be_lengthened(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.block())
    job_id = launch(backend, plan)
    with pytest.raises(WorkerError, match="no life_span"):
        backend.extend(job_id, 60, "token")
    backend.stop(job_id, reason="seen enough", grace_s=0)


# -- 1: claim -------------------------------------------------------------------------------------------------------


def test_1_a_claimed_job_is_on_the_worker_and_waits(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi"), key=JobKey(deployment="d", dag_id="dag"), owner="task")
    state = lab.backend().claim(plan)
    assert (state.job_id, state.uid, state.attempt) == (plan.job_id, plan.uid, 1)
    assert (state.status, state.reason) == (JobStatus.PENDING, "Staging")
    other = lab.backend()
    assert other.poll([plan.job_id])[plan.job_id].status is JobStatus.PENDING
    [record] = other.jobs(deployment="d", live_only=True)
    assert record["plan"]["key"]["dag_id"] == "dag"
    assert record["state"]["job_id"] == plan.job_id
    assert other.jobs(deployment="another") == []


def test_1_claiming_again_changes_nothing(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi", 3))
    backend = lab.backend()
    job_id = launch(backend, plan)
    ended = outcome(backend, job_id)
    again = lab.backend().claim(plan)
    assert (again.status, again.exit_code) == (ended.status, 3)
    assert len(backend.jobs()) == 1


def test_1_of_claims_at_once_one_makes_the_record(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi"))
    backends = [lab.backend() for _ in range(4)]
    at_once(*[lambda b=b: b.claim(plan) for b in backends])
    assert [job["state"]["job_id"] for job in backends[0].jobs()] == [plan.job_id]


# -- 2: start -------------------------------------------------------------------------------------------------------


def test_2_a_command_is_started_once_whoever_asks(lab: Lab, tmp_path: Path) -> None:
    counter = tmp_path / "starts"
    plan = lab.plan(lab.words.count_start(counter))
    backends = [lab.backend() for _ in range(4)]

    def submit(backend: Backend) -> None:
        for _ in range(3):
            backend.claim(plan)
            backend.start(plan.job_id)

    at_once(*[lambda b=b: submit(b) for b in backends])
    wait_until(backends[0], [plan.job_id], lambda _: counter.exists())
    backends[1].stop(plan.job_id, reason="seen enough", grace_s=1)
    outcome(backends[0], plan.job_id)
    backends[2].start(plan.job_id)
    assert counter.read_text() == "x"
    assert backends[2].poll([plan.job_id])[plan.job_id].status is JobStatus.CANCELLED


def test_2_any_submitter_may_start_what_another_has_claimed(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi"))
    first = lab.backend()
    first.claim(plan)
    first.close()
    second = lab.backend()
    assert second.start(plan.job_id).job_id == plan.job_id
    assert outcome(second, plan.job_id).status is JobStatus.SUCCEEDED


def test_2_starting_what_was_never_claimed_is_an_error(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi"))
    with pytest.raises(WorkerError, match=plan.job_id):
        lab.backend().start(plan.job_id)


def test_2_attempts_are_jobs_of_their_own(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi"))
    backend = lab.backend()
    first, second = launch(backend, plan), launch(backend, plan.next_attempt(2))
    assert first != second
    assert outcome(backend, first).attempt == 1
    assert outcome(backend, second).attempt == 2


def test_2_slots_bound_the_jobs_at_once(lab: Lab) -> None:
    backend = lab.backend()
    one, two = (launch(backend, lab.plan(lab.words.block(), slots=1)) for _ in range(2))
    states = wait_until(backend, [one, two], lambda s: {x.status.value for x in s.values()} == {"RUNNING", "PENDING"})
    waiting = next(job for job, state in states.items() if state.status is JobStatus.PENDING)
    wait_until(backend, [waiting], lambda s: s[waiting].reason == "Queued")
    running = two if waiting == one else one
    backend.stop(running, reason="make room", grace_s=1)
    wait_until(backend, [waiting], lambda s: s[waiting].status is JobStatus.RUNNING)


# -- 3: the truth ---------------------------------------------------------------------------------------------------


def test_3_what_the_worker_does_not_know_is_unknown(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("hi"))
    state = lab.backend().poll([plan.job_id])[plan.job_id]
    assert (state.status, state.reason) == (JobStatus.UNKNOWN, "RecordMissing")
    assert plan.job_id in state.message


def test_3_states_follow_the_job(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block()))
    wait_ready(backend, job_id)
    state = lab.backend().poll([job_id])[job_id]
    assert (state.status, state.phase) == (JobStatus.RUNNING, "running")
    assert state.running_s is not None
    assert lab.backend().facts().live_jobs == 1
    backend.stop(job_id, reason="enough")
    ended = outcome(backend, job_id)
    words = [entry["status"] for entry in ended.history]
    assert words[0] == "PENDING"
    assert words[-2:] == ["RUNNING", "CANCELLED"]
    assert ended.machine == backend.facts().machine


def test_3_many_are_asked_at_once(lab: Lab) -> None:
    backend = lab.backend()
    plans = [lab.plan(lab.words.say(str(n), n)) for n in range(5)]
    ids = [launch(backend, plan) for plan in plans]
    states = wait_until(backend, ids, lambda s: all(x.status.is_finished for x in s.values()))
    assert [states[job_id].exit_code for job_id in ids] == [0, 1, 2, 3, 4]
    assert backend.poll([]) == {}


def test_3_watch_gives_what_changed_and_new_jobs_first(lab: Lab) -> None:
    backend = lab.backend()
    done = launch(backend, lab.plan(lab.words.say("x")))
    outcome(lab.backend(), done)
    first = backend.watch([done], 5)
    assert set(first) == {done}
    if not first[done].status.is_finished:  # what its start has found may come before its end
        assert backend.watch([done], 5)[done].status.is_finished
    assert backend.watch([done], 0.3) == {}
    blocked = launch(backend, lab.plan(lab.words.block()))
    seen = backend.watch([done, blocked], 5)
    assert set(seen) == {blocked}
    backend.stop(blocked, reason="over", grace_s=1)
    until = time.monotonic() + 60
    while not seen.get(blocked) or not seen[blocked].status.is_finished:
        assert time.monotonic() < until
        seen = backend.watch([done, blocked], 10)
        assert set(seen) <= {blocked}


def test_3_watch_sees_the_log_grow(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block()))
    states = wait_until(backend, [job_id], lambda s: s[job_id].log_bytes == len("ready\n"))
    assert states[job_id].status is JobStatus.RUNNING


def test_3_wake_ends_a_watch_from_another_thread(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block()))
    wait_ready(backend, job_id)
    while backend.watch([job_id], 0.5):
        continue
    timer = threading.Timer(0.3, backend.wake)
    timer.start()
    assert backend.watch([job_id], 60) == {}
    timer.join()
    backend.wake()
    assert backend.watch([job_id], 60) == {}


# -- 5: stop --------------------------------------------------------------------------------------------------------


def test_5_a_stopped_job_is_cancelled_with_who_and_why(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block()))
    wait_ready(backend, job_id)
    backend.stop(job_id, reason="changed my mind", by="ann")
    backend.close()
    state = outcome(lab.backend(), job_id)
    assert (state.status, state.reason) == (JobStatus.CANCELLED, "Cancelled")
    assert "Stopped by ann: changed my mind" in state.message


def test_5_what_ignores_its_signal_is_killed_after_the_grace(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block(deaf=True), limits=Limits(grace_s=300)))
    wait_ready(backend, job_id)
    backend.stop(job_id, reason="now", grace_s=0.3)
    assert outcome(backend, job_id).status is JobStatus.CANCELLED


def test_5_stopping_what_has_ended_changes_nothing(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.say("x", 3)))
    outcome(backend, job_id)
    assert backend.stop(job_id, reason="late").status is JobStatus.FAILED
    assert backend.poll([job_id])[job_id].exit_code == 3


def test_5_a_job_stopped_before_its_start_never_runs(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.say("never"))
    backend.claim(plan)
    backend.stop(plan.job_id, reason="not needed")
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).status is JobStatus.CANCELLED
    assert log(backend, plan.job_id) == b""


def test_5_deadlines_hold_without_us(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block(), limits=Limits(timeout_s=0.5, grace_s=1)))
    backend.close()
    state = outcome(lab.backend(), job_id)
    assert (state.status, state.reason) == (JobStatus.FAILED, "TimedOut")
    assert "timeout of 0.5 s" in state.message


def test_5_a_step_has_a_deadline_of_its_own(lab: Lab) -> None:
    """It counts from the step's start, and is over with the step."""
    backend = lab.backend()
    first, second = lab.words.say("one\n"), replace(lab.words.block(), name="second", timeout_s=0.5)
    plan = lab.plan(replace(first, name="first", timeout_s=60), second, limits=Limits(grace_s=1))
    state = outcome(backend, launch(backend, plan))
    assert (state.status, state.reason, state.step) == (JobStatus.FAILED, "TimedOut", "second")
    assert "timeout of 0.5 s" in state.message


# -- 6: exit codes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "status"), [(0, "SUCCEEDED"), (3, "FAILED"), (255, "FAILED")])
def test_6_the_exit_code_is_the_commands_own(lab: Lab, code: int, status: str) -> None:
    backend = lab.backend()
    state = outcome(backend, launch(backend, lab.plan(lab.words.say("before\n", code))))
    assert (state.status.value, state.exit_code) == (status, code)
    if code:
        assert state.reason == "ExitCode"
        assert f"Exit code {code} after" in state.message
        assert "before" in state.message


def test_6_codes_that_a_step_allows_are_a_success(lab: Lab) -> None:
    step = lab.words.say("", 7)
    allowed = replace(step, ok_codes=(7,))
    backend = lab.backend()
    assert outcome(backend, launch(backend, lab.plan(allowed))).status is JobStatus.SUCCEEDED


def test_6_the_state_of_an_ended_job_stays(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.say("x", 5)))
    outcome(backend, job_id)

    def lasting() -> dict[str, object]:
        state = lab.backend().poll([job_id])[job_id].to_dict()
        return {key: value for key, value in state.items() if key != "history"}

    before = lasting()
    backend.start(job_id)
    backend.stop(job_id, reason="late")
    assert lasting() == before


def test_6_steps_run_in_order_until_one_fails(lab: Lab) -> None:
    named = [("one", lab.words.say("1")), ("two", lab.words.say("2", 4)), ("three", lab.words.say("3"))]
    steps = [Step(name=name, kind=step.kind, content=step.content) for name, step in named]
    backend = lab.backend()
    job_id = launch(backend, lab.plan(*steps))
    state = outcome(backend, job_id)
    assert (state.exit_code, state.step) == (4, "two")
    assert "in build 'two'" in state.message
    assert log(backend, job_id) == b"12"


def test_6_results_come_with_the_state(lab: Lab) -> None:
    backend = lab.backend()
    state = outcome(backend, launch(backend, lab.plan(lab.words.result('{"accuracy": 0.97, "name": "\\u00fc"}'))))
    assert state.result == {"accuracy": 0.97, "name": "ü"}


def test_6_what_cannot_be_installed_is_named(lab: Lab) -> None:
    backend = lab.backend()
    environment = Environment(requirements=("--no-index", "no-such-package==1"))
    state = outcome(backend, launch(backend, lab.plan(lab.words.say("x"), environment=environment)))
    assert (state.status, state.reason, state.exit_code) == (JobStatus.FAILED, Reason.SETUP, None)
    assert "no-such-package" in state.message
    assert ("PENDING", "Setup") in [(entry["status"], entry["reason"]) for entry in state.history]
