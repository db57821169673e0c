"""Images without a shell: their command is process 1, and whoever looks carries orders and limits through."""

from __future__ import annotations

import time
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Limits, Plan, Step
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from tests.backends.engines import backend_of, job, left
from tests.backends.engines import engine as engine
from tests.contract.steps import Renewals, at_once, launch, log, outcome, wait_ready
from tests.servers.dockerd import BARE_IMAGE, Dockerd

pytestmark = pytest.mark.docker

#: Process 1 gets no signal that it does not handle.
DEAF = "echo ready; while :; do /busybox sleep 0.1; done"
HEEDS = "trap 'echo bye; exit 5' TERM; " + DEAF


@pytest.fixture
def bare(engine: Dockerd) -> Dockerd:
    engine.add_bare_image(command=("/busybox", "echo", "of the image"))
    return engine


def argv(*words: str, **options: Any) -> Plan:
    step = options.pop("step", {})
    steps = (Step(name="job", kind="argv", args=words, **step),)
    return job("", steps=steps, container={"image": BARE_IMAGE}, **options)


def sh(text: str, **options: Any) -> Plan:
    """By the busybox of the image, which is no /bin/sh."""
    return argv("/busybox", "sh", "-c", text, **options)


def run(backend: Backend, plan: Plan) -> JobState:
    return outcome(backend, launch(backend, plan))


def test_its_own_command_and_one_of_words(bare: Dockerd) -> None:
    backend = backend_of(bare)
    own, ours = argv(), sh("echo $A; echo x > $JOBDEPLOY_OUTPUT_DIR/f; exit 3", step={"env": {"A": "a b"}})
    assert run(backend, own).status is JobStatus.SUCCEEDED
    assert log(backend, own.job_id) == b"of the image\n"
    state = run(backend, ours)
    assert (state.status, state.exit_code, state.reason) == (JobStatus.FAILED, 3, Reason.EXIT_CODE)
    assert log(backend, ours.job_id) == b"a b\n"
    assert [file.path for file in backend.manifest(ours.job_id)] == ["f"]
    assert [entry["status"] for entry in state.history] == ["PENDING", "RUNNING", "FAILED"]
    assert backend_of(bare).poll([ours.job_id])[ours.job_id].exit_code == 3


def test_codes_and_signals_that_a_step_allows(bare: Dockerd) -> None:
    backend = backend_of(bare)
    assert run(backend, sh("exit 7", step={"ok_codes": (7,)})).status is JobStatus.SUCCEEDED
    state = run(backend, argv("/busybox", "no-such-applet"))
    assert (state.status, state.exit_code) == (JobStatus.FAILED, 127)
    assert "/nothing" in run(backend, argv("/nothing")).message


def test_what_needs_a_shell_is_named(bare: Dockerd) -> None:
    plan = job("echo hi", container={"image": BARE_IMAGE}, secret_env={"A": "b"}, limits=Limits(log_limit_bytes=99))
    state = run(backend_of(bare), plan)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    for word in ("has no /bin/sh", "one of words", "secret_env", "log_limit", "use an image with a shell"):
        assert word in state.message
    assert left(bare) == []


def test_a_deadline_is_held_by_whoever_looks(bare: Dockerd) -> None:
    plan = sh(DEAF, limits=Limits(timeout_s=2.0, grace_s=0.5))
    first = backend_of(bare)
    launch(first, plan)
    first.close()
    time.sleep(2.5)  # nobody looks
    assert bare.client().inspect_container(plan.job_id)["State"]["Running"]
    state = outcome(backend_of(bare), plan.job_id, 15)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.TIMED_OUT)


def test_a_life_is_as_long_as_the_last_addition_has_it_whoever_looks(bare: Dockerd) -> None:
    plan = sh(DEAF, limits=Limits(life_span_s=4.0, grace_s=0.5))
    first, second = backend_of(bare), backend_of(bare)
    second.facts()
    begun = time.monotonic()
    launch(first, plan)
    for _ in range(2):
        assert second.extend(plan.job_id, 3.0, "token").life_span_s == 7.0
    time.sleep(4.2)
    is_running = first.poll([plan.job_id])[plan.job_id].status is JobStatus.RUNNING
    assert is_running or time.monotonic() - begun > 7.0  # though it knew nothing of the addition
    state = outcome(first, plan.job_id)
    assert (state.status, state.reason, state.facts["limit"]) == (JobStatus.FAILED, Reason.TIMED_OUT, "life_span")
    assert (state.running_s or 0) >= 7.0


def test_a_stop_asks_first_and_kills_then(bare: Dockerd) -> None:
    backend = backend_of(bare)
    deaf, heeds = sh(DEAF, limits=Limits(grace_s=0.5)), sh(HEEDS, limits=Limits(grace_s=30))
    for plan in (deaf, heeds):
        launch(backend, plan)
        wait_ready(backend, plan.job_id)
        backend.stop(plan.job_id, reason="enough", by="me")
    begun = time.monotonic()
    assert outcome(backend, deaf.job_id).status is JobStatus.CANCELLED
    assert outcome(backend, heeds.job_id).status is JobStatus.CANCELLED
    assert time.monotonic() - begun < 25, "nobody waits for the end of its grace"
    assert log(backend, heeds.job_id) == b"ready\nbye\n"
    ended = sh("exit 4")
    assert run(backend, ended).exit_code == 4
    assert backend.stop(ended.job_id, reason="late").reason == Reason.EXIT_CODE


def test_whoever_looks_gives_a_command_its_grace_to_come_to_an_end(bare: Dockerd) -> None:
    backend = backend_of(bare)
    tidies = "trap '/busybox sleep 1.5; echo tidy; exit 0' TERM; " + DEAF
    plan = sh(tidies, limits=Limits(grace_s=30))
    launch(backend, plan)
    wait_ready(backend, plan.job_id)
    backend.stop(plan.job_id, reason="enough")
    assert outcome(backend, plan.job_id).status is JobStatus.CANCELLED
    assert log(backend, plan.job_id) == b"ready\ntidy\n"


def test_a_job_that_nobody_wants_ends_with_the_next_look(bare: Dockerd) -> None:
    plan = sh(HEEDS, orphan_after_s=1.5)
    wanted = sh(DEAF, orphan_after_s=1.5)
    first = backend_of(bare)
    launch(first, plan)
    wait_ready(first, plan.job_id)
    begun, renewals = time.monotonic(), Renewals(first, wanted.job_id)
    launch(first, wanted)
    state = first.poll([plan.job_id])[plan.job_id]
    while not state.status.is_finished or time.monotonic() - begun < 2.5:
        assert time.monotonic() - begun < 60, state
        renewals.renew()
        state = first.watch([plan.job_id], 0.2).get(plan.job_id, state)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.WORKER_LOST)
    renewals.renew()
    is_running = first.poll([wanted.job_id])[wanted.job_id].status is JobStatus.RUNNING
    assert is_running or renewals.longest_s >= 1.5


def test_it_runs_once_whoever_starts_it(bare: Dockerd) -> None:
    plan = sh("echo once >> $JOBDEPLOY_CHECKPOINT_DIR/f; /busybox cat $JOBDEPLOY_CHECKPOINT_DIR/f")
    backends = [backend_of(bare) for _ in range(3)]
    for backend in backends:
        backend.facts()
    at_once(*[lambda b=backend: launch(b, plan) for backend in backends])
    assert outcome(backends[0], plan.job_id).status is JobStatus.SUCCEEDED
    backends[1].start(plan.job_id)
    assert log(backends[2], plan.job_id) == b"once\n"


def test_one_that_is_removed_by_hand_is_lost_and_not_started_again(bare: Dockerd) -> None:
    plan = sh(DEAF)
    backend = backend_of(bare)
    launch(backend, plan)
    wait_ready(backend, plan.job_id)
    bare.client().remove_container(plan.job_id, force=True)
    assert outcome(backend, plan.job_id).reason == Reason.PROCESS_LOST
    assert backend.start(plan.job_id).reason == Reason.PROCESS_LOST
    assert left(bare) == []


def test_it_waits_for_its_turn(bare: Dockerd) -> None:
    backend = backend_of(bare)
    first, second = (sh(HEEDS, slots=1, worker_pool="p", limits=Limits(grace_s=5)) for _ in range(2))
    delayed = argv(delay_s=2.0)
    for plan in (delayed, first, second):
        launch(backend, plan)
    wait_ready(backend, first.job_id)
    assert backend.poll([second.job_id])[second.job_id].reason == Reason.QUEUED
    backend.stop(first.job_id, reason="make room")
    wait_ready(backend, second.job_id)
    state = outcome(backend, delayed.job_id)
    assert state.status is JobStatus.SUCCEEDED
    ago = {entry["status"]: entry["ago_s"] for entry in reversed(state.history)}
    assert ago["PENDING"] - ago["RUNNING"] >= 2.0
