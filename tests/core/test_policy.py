"""Decisions as tables."""

from __future__ import annotations

import dataclasses

import pytest

from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.policy import Candidate, Verb, is_over, on_return, place
from airflow_jobdeploy.core.reaping import GONE, reaping
from airflow_jobdeploy.core.sequels import Recovery, after_end
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason

EPOCH = {"max_tries": 2, "clear_number": 0}
INTENT = Intent(uid="a" * 32, attempt=3, worker="gpu-a", worker_pool="lab", epoch=EPOCH)


def state(status: str, *, reason: str = "", phase: str = "") -> JobState:
    return JobState(job_id=INTENT.job_id, status=JobStatus(status), reason=reason, phase=phase)


@pytest.mark.parametrize(
    ("seen", "after_retry", "after_clear"),
    [
        (None, Verb.WAIT, Verb.WAIT),
        (state("UNKNOWN", reason=Reason.RECORD_MISSING), Verb.START, Verb.START),
        (state("UNKNOWN", reason=Reason.NEWER_LAYOUT), Verb.WAIT, Verb.WAIT),
        (state("PENDING", reason=Reason.STAGING, phase="claimed"), Verb.START, Verb.REPLACE),
        (state("PENDING", reason=Reason.QUEUED, phase="waiting"), Verb.REATTACH, Verb.REPLACE),
        (state("RUNNING", phase="running"), Verb.REATTACH, Verb.REPLACE),
        (state("SUCCEEDED", phase="ended"), Verb.TAKE, Verb.NEXT),
        (state("FAILED", phase="ended"), Verb.NEXT, Verb.NEXT),
        (state("CANCELLED", phase="ended"), Verb.NEXT, Verb.NEXT),
    ],
)
def test_what_a_task_does_that_finds_an_intent(seen: JobState | None, after_retry: Verb, after_clear: Verb) -> None:
    assert on_return(INTENT, EPOCH, seen).verb is after_retry
    for cleared in ({**EPOCH, "max_tries": 3}, {**EPOCH, "clear_number": 1}):
        assert on_return(INTENT, cleared, seen).verb is after_clear


def test_an_intent_survives_json_and_fields_of_newer_releases() -> None:
    assert Intent.from_dict({**INTENT.to_dict(), "from_the_future": 1}) == INTENT


@pytest.mark.parametrize(
    ("candidates", "chosen"),
    [
        ([("a", None, 99)], "a"),
        ([("a", 2, 2), ("b", 2, 1)], "b"),
        ([("a", 1, 1), ("b", 4, 4), ("c", 2, 1)], "c"),
        ([("a", 1, 3), ("b", 4, 8)], "b"),
    ],
)
def test_the_first_worker_with_a_free_slot_else_the_least_crowded(
    candidates: list[tuple[str, int | None, int]], chosen: str
) -> None:
    assert place([Candidate(worker=w, slots=s, live_jobs=n) for w, s, n in candidates]) == chosen


def test_no_worker_is_an_error() -> None:
    with pytest.raises(ValueError, match="no worker"):
        place([])


def test_unknown_is_no_end_but_a_record_that_is_gone_is_nothing_to_wait_for() -> None:
    assert not is_over(state("UNKNOWN", reason=Reason.UNREACHABLE))
    assert is_over(state("UNKNOWN", reason=Reason.RECORD_MISSING))
    assert is_over(state("FAILED"))


@pytest.mark.parametrize(
    ("owner", "first", "second"),
    [
        ("running", False, False),
        ("deferred", False, False),
        ("up_for_retry", False, False),
        ("queued", False, False),
        (None, False, False),
        ("success", True, True),
        ("failed", True, True),
        ("removed", True, True),
        (GONE, False, True),
    ],
)
def test_a_live_job_is_reaped_when_its_owner_is_over_or_twice_not_there(
    owner: str | None, first: bool, second: bool
) -> None:
    seen = reaping({"j1": owner}, frozenset())
    assert ("j1" in seen.stop) is first
    assert ("j1" in reaping({"j1": owner}, seen.suspects).stop) is second


def test_an_owner_that_came_back_is_no_suspect_any_more() -> None:
    seen = reaping({"j1": GONE}, frozenset())
    seen = reaping({"j1": "running"}, seen.suspects)
    assert reaping({"j1": GONE}, seen.suspects).stop == {}


RESUMES = Recovery()
SPOT = Recovery(preemptible=True, max_preemptions=2)
RETRIES = Recovery(retry_on=("worker_lost", "out_of_memory"), retry_codes=(75,), retry_max=2, retry_delay_s=30)


def ended(status: str, reason: str = "", exit_code: int | None = None) -> JobState:
    return JobState(job_id="j", status=JobStatus(status), reason=reason, exit_code=exit_code, phase="ended")


@pytest.mark.parametrize(
    ("state", "recovery", "preemptions", "retries", "again"),
    [
        (ended("SUCCEEDED"), RETRIES, 0, 0, False),
        (ended("CANCELLED", "Cancelled"), RETRIES, 0, 0, False),
        (ended("UNKNOWN", "RecordMissing"), RETRIES, 0, 0, False),
        (ended("SUSPENDED", "Preempted"), RESUMES, 99, 0, True),
        (ended("SUSPENDED", "Preempted"), SPOT, 1, 0, True),
        (ended("SUSPENDED", "Preempted"), SPOT, 2, 0, False),
        (ended("SUSPENDED", "Preempted"), Recovery(on_preemption="retry"), 0, 0, False),
        (ended("SUSPENDED", "Preempted"), Recovery(on_preemption="fail"), 0, 0, False),
        (ended("FAILED", "WorkerLost"), SPOT, 0, 0, True),  # a spot machine's reboot is a preemption
        (ended("FAILED", "WorkerLost"), RESUMES, 0, 0, False),
        (ended("FAILED", "WorkerLost"), RETRIES, 0, 1, True),
        (ended("FAILED", "WorkerLost"), RETRIES, 0, 2, False),
        (ended("FAILED", "OutOfMemory"), RETRIES, 0, 0, True),
        (ended("FAILED", "TimedOut"), RETRIES, 0, 0, False),
        (ended("FAILED", "ExitCode", 75), RETRIES, 0, 0, True),
        (ended("FAILED", "ExitCode", 1), RETRIES, 0, 0, False),
        (ended("FAILED", "ExitCode", 1), Recovery(retry_on=("exit_code",)), 0, 0, True),
        (ended("FAILED", "ExitCode", 1), SPOT, 0, 0, False),  # an error of the user's own is nobody's preemption
    ],
)
def test_what_follows_an_end(state: JobState, recovery: Recovery, preemptions: int, retries: int, again: bool) -> None:
    sequel = after_end(state, recovery, preemptions=preemptions, retries=retries)
    assert sequel.again is again
    assert sequel.preemptions + sequel.retries == preemptions + retries + again
    assert sequel.delay_s == (30 if again and recovery is RETRIES else 0)


ALWAYS, ON_FAILURE = Recovery(restart="always"), Recovery(restart="on-failure")


@pytest.mark.parametrize(
    ("state", "recovery", "again"),
    [
        (ended("SUCCEEDED"), ALWAYS, True),
        (ended("SUCCEEDED"), ON_FAILURE, False),
        (ended("FAILED", "ExitCode", 1), ON_FAILURE, True),
        (ended("FAILED", "ExitCode", 1), ALWAYS, True),
        (ended("FAILED", "WorkerLost"), ON_FAILURE, True),
        (ended("FAILED", "Setup"), ALWAYS, False),  # it would come to the same end
        (ended("CANCELLED", "Cancelled"), ALWAYS, False),
        (ended("UNKNOWN", "RecordMissing"), ALWAYS, False),
        (ended("FAILED", "ExitCode", 1), Recovery(), False),
        (ended("SUSPENDED", "Preempted"), ON_FAILURE, True),
    ],
)
def test_what_is_started_again(state: JobState, recovery: Recovery, again: bool) -> None:
    assert after_end(state, recovery, preemptions=0, retries=7).again is again


def test_the_pauses_before_restarts_double_until_a_run_was_long() -> None:
    quick, retries, pauses = ended("FAILED", "ExitCode", 1), 0, []
    for _ in range(8):
        sequel = after_end(quick, ON_FAILURE, preemptions=0, retries=retries)
        retries, pauses = sequel.retries, [*pauses, sequel.delay_s]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    long = dataclasses.replace(quick, running_s=3600.0)
    assert after_end(long, ON_FAILURE, preemptions=0, retries=retries).delay_s == 1


def test_all_attempts_together_stay_within_the_life_span() -> None:
    ran = dataclasses.replace(ended("FAILED", "ExitCode", 1), running_s=40.0, life_span_s=100.0)
    sequel = after_end(ran, ON_FAILURE, preemptions=0, retries=0)
    assert (sequel.again, sequel.life_left_s) == (True, 60.0)
    over = after_end(dataclasses.replace(ran, running_s=101.0), ON_FAILURE, preemptions=0, retries=0)
    assert (over.again, over.why) == (False, "its life_span of 100 s is over")
    timed_out = dataclasses.replace(ended("FAILED", "TimedOut"), facts={"limit": "life_span"}, running_s=99.9)
    assert not after_end(timed_out, ALWAYS, preemptions=0, retries=0).again
    suspended = dataclasses.replace(ended("SUSPENDED", "Preempted"), running_s=40.0, life_span_s=100.0)
    assert after_end(suspended, RESUMES, preemptions=0, retries=0).life_left_s == 60.0


def test_only_a_lease_lets_a_successor_start_while_the_worker_is_silent() -> None:
    leased = INTENT.following(lost_after_s=115.0)
    assert on_return(leased, EPOCH, None).verb is Verb.NEXT
    assert on_return(leased, EPOCH, state("RUNNING", phase="running")).verb is Verb.REATTACH
