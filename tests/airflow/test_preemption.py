"""Preempted jobs in Airflow: resumed inside one try, in the task and through the trigger; or left to its retries."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import RetryAction
from airflow.sdk.exceptions import TaskDeferred

from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.errors import JobFailed, JobTimedOut, WorkerUnreachable
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.retries import PreemptionRetryPolicy
from airflow_jobdeploy.triggers.events import Followed, JobEvent
from tests.airflow.world import World, call

#: Saves when it is told to; done when it finds what it saved.
SAVES = """
save() { touch "$JOBDEPLOY_CHECKPOINT_DIR/saved"; echo '{"type": "checkpoint"}' >> "$JOBDEPLOY_MESSAGES_FILE"; }
trap save TERM
if [ -e "$JOBDEPLOY_CHECKPOINT_DIR/saved" ]; then echo "went on as attempt $JOBDEPLOY_ATTEMPT"; exit 0; fi
echo begun > "$BEGUN"
while :; do sleep 0.1; done
"""


def execute(operator: Any, world: World) -> Any:
    return call(operator, "execute", world.context())


def train(begun: Path, **more: Any) -> JobRunOperator:
    spec = {"command": SAVES, "env": {"BEGUN": str(begun)}, "preemptible": True, **more.pop("spec", {})}
    return JobRunOperator(task_id="t", job_spec=spec, **more)


def preempt_when(begun: Path) -> threading.Thread:
    """Once the job has begun: somebody makes it give up its place."""

    def body() -> None:
        until = time.monotonic() + 120
        while not begun.exists() and time.monotonic() < until:
            time.sleep(0.05)
        hook = JobDeployHook("local")
        [row] = hook.list(live_only=True)
        hook.preempt(row["plan"]["job_id"], reason="room for ann", by="pytest")

    thread = threading.Thread(target=body)
    thread.start()
    return thread


def test_a_preempted_job_goes_on_in_the_same_try(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    somebody = preempt_when(tmp_path / "begun")
    done = execute(train(tmp_path / "begun"), world)
    somebody.join()
    assert (done["status"], done["attempt"]) == ("SUCCEEDED", 2)
    out = capfd.readouterr().out
    assert "Preempted by pytest: room for ann" in out
    assert "goes on from its checkpoint, preemption 1" in out
    assert "went on as attempt 2" in out
    assert world["xcom"]["return_value"]["attempt"] == 2


def test_the_task_takes_over_when_the_trigger_saw_the_preemption(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = tmp_path / "begun"
    operator = train(begun, deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        execute(operator, world)
    handle = JobHandle.from_dict(caught.value.trigger.serialize()[1]["jobs"][0])
    assert handle.lost_after_s is not None, "the trigger knows when a lost worker's job has surely stopped itself"
    preempt_when(begun).join()
    hook = JobDeployHook("local")
    state = JobState.from_wire(hook.status(handle.to_dict()))
    event = JobEvent(jobs=(Followed(handle=handle, state=state, offset=state.log_bytes),)).to_dict()
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEFER_AFTER", "30")
    done = operator.execute_complete(world.context(), event)
    assert (done["status"], done["attempt"]) == ("SUCCEEDED", 2)


def test_who_prefers_airflows_retries_gets_them(world: World, tmp_path: Path) -> None:
    operator = train(tmp_path / "begun", spec={"on_preemption": "retry"})
    somebody = preempt_when(tmp_path / "begun")
    with pytest.raises(JobFailed) as caught:
        execute(operator, world)
    somebody.join()
    assert (caught.value.status, caught.value.reason) == ("SUSPENDED", "Preempted")
    world.retry()
    done = execute(train(tmp_path / "begun", spec={"on_preemption": "retry"}), world)
    assert (done["status"], done["attempt"]) == ("SUCCEEDED", 2)


def test_a_cause_worth_a_retry_is_no_try_of_airflows(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    command = '[ "$JOBDEPLOY_ATTEMPT" = 3 ] || exit 75'
    spec = {"command": command, "retry": {"on": [{"exit_code": 75}], "max": 5}}
    done = execute(JobRunOperator(task_id="t", job_spec=spec), world)
    assert (done["status"], done["attempt"]) == ("SUCCEEDED", 3)
    assert "2 of 5" in capfd.readouterr().out


def test_restarted_after_a_failure_in_the_same_try(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    spec = {"command": "echo attempt $JOBDEPLOY_ATTEMPT; [ $JOBDEPLOY_ATTEMPT = 2 ]", "restart_policy": "on-failure"}
    done = execute(JobRunOperator(task_id="t", job_spec=spec), world)
    assert (done["status"], done["attempt"]) == ("SUCCEEDED", 2)
    out = capfd.readouterr().out
    assert "is started again (restart_policy; it ended FAILED, ExitCode)" in out
    assert "attempt 1" in out
    assert "attempt 2" in out


def test_what_always_goes_on_ends_with_its_life_also_where_a_trigger_saw_the_success(
    world: World, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    door = tmp_path / "door"
    command = f"[ $JOBDEPLOY_ATTEMPT = 1 ] || exec sleep 60; until [ -e '{door}' ]; do sleep 0.05; done"
    spec = {"command": command, "restart_policy": "always", "life_span": 60, "grace": 0}
    operator = JobRunOperator(task_id="t", job_spec=spec, deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        execute(operator, world)
    handle = JobHandle.from_dict(caught.value.trigger.serialize()[1]["jobs"][0])
    door.touch()
    state = JobState(job_id=handle.job_id, status=JobStatus.SUCCEEDED, phase="ended", running_s=59.0, life_span_s=60.0)
    operator.deferrable = False
    event = JobEvent(jobs=(Followed(handle=handle, state=state),))
    with pytest.raises(JobTimedOut, match=r"Stopped by its life_span of 1\.0 s"):
        call(operator, "execute_complete", world.context(), event.to_dict())
    assert "is started again (restart_policy; it ended SUCCEEDED)" in capfd.readouterr().out


def test_tried_often_enough_it_fails_with_its_own_end(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    spec = {"command": "exit 75", "retry": {"on": [{"exit_code": 75}], "max": 1}}
    with pytest.raises(JobFailed, match="Exit code 75"):
        execute(JobRunOperator(task_id="t", job_spec=spec), world)
    assert "tried again once" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (JobFailed("x", status="SUSPENDED", reason="Preempted"), RetryAction.RETRY),
        (JobFailed("x", reason="WorkerLost"), RetryAction.RETRY),
        (JobFailed("x", reason="ExitCode", exit_code=1), RetryAction.FAIL),
        (JobFailed("x", reason="OutOfMemory"), RetryAction.FAIL),
        (WorkerUnreachable("x"), RetryAction.DEFAULT),
        (ValueError("x"), RetryAction.DEFAULT),
    ],
)
def test_the_policy(error: Exception, action: RetryAction) -> None:
    decision = PreemptionRetryPolicy(delay=2).evaluate(error, 1, 5)
    assert decision.action is action
    if action is RetryAction.RETRY:
        assert decision.retry_delay == timedelta(seconds=2)
