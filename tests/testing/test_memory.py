"""The worker in memory as its users see it: programs, a clock that stands still, misfortunes."""

from __future__ import annotations

import time

import pytest

from airflow_jobdeploy.core.plan import Limits, Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.errors import WorkerUnreachable
from airflow_jobdeploy.testing import ManualClock, MemoryBackend, MemoryHost, Run, Stopped


def launch(backend: MemoryBackend, *steps: Step, **options: object) -> str:
    plan = Plan(**{"uid": new_uid(), "steps": steps, **options})  # type: ignore[arg-type]
    backend.claim(plan)
    backend.start(plan.job_id)
    return plan.job_id


def until(backend: MemoryBackend, job_id: str, *phases: str) -> JobState:
    deadline = time.monotonic() + 10
    state = backend.poll([job_id])[job_id]
    while state.phase not in phases:
        assert time.monotonic() < deadline, state
        backend.watch([job_id], 0.2)
        state = backend.poll([job_id])[job_id]
    return state


def script(text: str) -> Step:
    return Step(name="train", kind="shell", content=text)


def wait(run: Run) -> None:
    run.say("ready")
    run.wait()


@pytest.mark.parametrize(
    "step",
    [
        script("  python train.py --epochs 3\n"),
        Step(name="x", kind="entry", path="train.py", args=("--epochs", "3")),
        Step(name="x", kind="argv", args=("python", "train.py")),
        Step(name="train", kind="shell", content="anything"),
    ],
)
def test_programs_are_found_by_text_command_line_or_name(
    memory_host: MemoryHost, memory_backend: MemoryBackend, step: Step
) -> None:
    names = ("python train.py --epochs 3", "train.py --epochs 3", "python train.py", "train")
    memory_host.programs.update(dict.fromkeys(names, lambda run: run.say("trained")))
    job_id = launch(memory_backend, step)
    assert until(memory_backend, job_id, "ended").status.value == "SUCCEEDED"
    assert memory_backend.read_log(job_id, 0, 100).data == b"trained\n"


def test_a_step_without_a_program_fails_with_the_nearest(
    memory_host: MemoryHost, memory_backend: MemoryBackend
) -> None:
    memory_host.programs["python train.py"] = wait
    state = until(memory_backend, launch(memory_backend, script("python trian.py")), "ended")
    assert (state.status.value, state.reason) == ("FAILED", "Setup")
    assert "no program for 'python trian.py' (step 'train'). Did you mean 'python train.py'?" in state.message


def test_an_error_of_a_program_is_in_the_log(memory_host: MemoryHost, memory_backend: MemoryBackend) -> None:
    def broken(run: Run) -> None:
        raise ZeroDivisionError("on purpose")

    memory_host.programs["train"] = broken
    job_id = launch(memory_backend, script("x"))
    assert until(memory_backend, job_id, "ended").exit_code == 1
    assert b"ZeroDivisionError: on purpose" in memory_backend.read_log(job_id, 0, 10_000).data


def test_hours_pass_in_no_time(memory_host: MemoryHost, memory_backend: MemoryBackend, clock: ManualClock) -> None:
    memory_host.programs["train"] = lambda run: run.wait(3600)
    job_id = launch(memory_backend, script("x"))
    clock.await_waiters(2)
    clock.advance(3599)
    assert memory_backend.poll([job_id])[job_id].phase == "running"
    clock.advance(2)
    state = until(memory_backend, job_id, "ended")
    assert state.running_s == 3601
    assert state.usage["wall_s"] == 3601


def test_deadlines_and_graces_are_on_that_clock(
    memory_host: MemoryHost, memory_backend: MemoryBackend, clock: ManualClock
) -> None:
    def deaf(run: Run) -> None:
        run.say("ready")
        run.wait_deaf()

    memory_host.programs["train"] = deaf
    limits = Limits(timeout_s=86400, grace_s=600)
    job_id = launch(memory_backend, script("x"), limits=limits)
    clock.await_waiters(2)
    clock.advance(86401)
    assert memory_backend.poll([job_id])[job_id].status.value == "RUNNING"
    while (state := memory_backend.poll([job_id])[job_id]).phase != "ended":
        clock.advance(100)
        memory_backend.watch([job_id], 0.05)
    assert state.reason == "TimedOut"
    assert "timeout of 24 h" in state.message


def test_a_program_may_tidy_up_when_it_is_stopped(memory_host: MemoryHost, memory_backend: MemoryBackend) -> None:
    def tidy(run: Run) -> int:
        try:
            wait(run)
        except Stopped:
            run.say("saved")
        return 0

    memory_host.programs["train"] = tidy
    job_id = launch(memory_backend, script("x"))
    while not memory_backend.read_log(job_id, 0, 10).data:
        memory_backend.watch([job_id], 1)
    memory_backend.stop(job_id, reason="enough", by="ann")
    assert until(memory_backend, job_id, "ended").status.value == "CANCELLED"
    assert memory_backend.read_log(job_id, 0, 100).data == b"ready\nsaved\n"


@pytest.mark.parametrize(
    ("misfortune", "reason"),
    [
        (lambda host, job: host.reboot(), "WorkerLost"),
        (lambda host, job: host.kill_supervisor(job), "ProcessLost"),
        (lambda host, job: host.kill(job), "Signal"),
    ],
)
def test_misfortunes(memory_host: MemoryHost, memory_backend: MemoryBackend, misfortune: object, reason: str) -> None:
    memory_host.programs["train"] = wait
    job_id = launch(memory_backend, script("x"))
    until(memory_backend, job_id, "running")
    misfortune(memory_host, job_id)  # type: ignore[operator]
    state = memory_backend.poll([job_id])[job_id]
    assert (state.status.value, state.reason) == ("FAILED", reason)
    memory_host.settle()


def test_an_unplugged_host_goes_on(memory_host: MemoryHost, memory_backend: MemoryBackend, clock: ManualClock) -> None:
    memory_host.programs["train"] = wait
    job_id = launch(memory_backend, script("x"))
    until(memory_backend, job_id, "running")
    memory_host.unplug()
    with pytest.raises(WorkerUnreachable, match="What runs there goes on"):
        memory_backend.watch([job_id], 5)
    memory_host.plug_in()
    assert memory_backend.poll([job_id])[job_id].status.value == "RUNNING"


def test_what_a_build_leaves_is_waited_for(memory_host: MemoryHost, memory_backend: MemoryBackend) -> None:
    memory_host.programs["train"] = lambda run: run.leave(lambda left: left.wait())
    job_id = launch(memory_backend, script("x"), leftovers="wait")
    state = until(memory_backend, job_id, "leftovers")
    assert (state.status.value, state.reason) == ("RUNNING", "Leftovers")
    memory_backend.stop(job_id, reason="enough")
    assert until(memory_backend, job_id, "ended").status.value == "CANCELLED"


def test_settle_names_what_still_runs(memory_host: MemoryHost, memory_backend: MemoryBackend) -> None:
    memory_host.programs["train"] = wait
    job_id = launch(memory_backend, script("x"))
    with pytest.raises(TimeoutError, match=job_id):
        memory_host.settle(0.1)
    memory_backend.stop(job_id, reason="over")
    memory_host.settle()
