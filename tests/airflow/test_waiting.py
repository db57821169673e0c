"""The operators' own state machine, step by step, without a database: Airflow's side is `world.World`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.exceptions import TaskDeferralTimeout, TaskDeferred

from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.errors import JobDeployError, JobFailed
from airflow_jobdeploy.hooks.deployment import VARIABLE, deployment_id
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.operators.template import TemplateUpOperator
from airflow_jobdeploy.triggers.events import Followed, JobEvent
from tests.airflow.world import World, call


def run_operator(**more: Any) -> JobRunOperator:
    return JobRunOperator(task_id="t", **{"job_spec": {"command": "true"}, **more})


@pytest.fixture
def door(tmp_path: Path) -> Path:
    """A file that a job `waits` for."""
    return tmp_path / "door"


def waits(door: Path) -> str:
    return f"until [ -e '{door}' ]; do sleep 0.05; done"


def event(state: JobState, *, worker_pool: str = "local", **more: Any) -> dict[str, Any]:
    handle = JobHandle(uid="ab" * 16, job_id=state.job_id, attempt=1, key="", worker_pool=worker_pool, worker="local")
    offset = more.pop("offset", state.log_bytes)
    return json.loads(
        json.dumps(JobEvent(jobs=(Followed(handle=handle, state=state, offset=offset),), **more).to_dict())
    )


def deferred(world: World, command: str, **more: Any) -> tuple[JobRunOperator, dict[str, Any]]:
    """A task that has just deferred, and the arguments of its trigger."""
    operator = run_operator(job_spec={"command": command, "grace": 1}, deferrable=True, **more)
    with pytest.raises(TaskDeferred) as caught:
        call(operator, "execute", world.context())
    return operator, caught.value.trigger.serialize()[1]


def test_the_event_of_an_ended_job_needs_no_connection(world: World) -> None:
    state = JobState(job_id="jx", uid="ab" * 16, status=JobStatus.SUCCEEDED, exit_code=0, result=[1], log_bytes=9)
    done = run_operator().execute_complete(world.context(), event(state, worker_pool="a pool that is gone"))
    assert (done["status"], done["result"]) == ("SUCCEEDED", [1])


def test_a_failed_job_fails_the_task_and_leaves_its_handle(world: World) -> None:
    state = JobState(job_id="jx", status=JobStatus.FAILED, reason="ExitCode", exit_code=3, message="Exit code 3")
    with pytest.raises(JobFailed, match="Job jx: Exit code 3") as caught:
        run_operator().execute_complete(world.context(), event(state))
    assert (caught.value.status, caught.value.reason, caught.value.exit_code) == ("FAILED", "ExitCode", 3)
    assert world["xcom"]["return_value"]["status"] == "FAILED"


def test_log_that_the_trigger_left_is_told_by_the_task(
    world: World, door: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    operator, trigger = deferred(world, f"echo 12345; {waits(door)}; echo the rest")
    door.touch()
    (handle,) = trigger["jobs"]
    ended = JobState.from_wire(wait_ended(handle))
    news = JobEvent(jobs=(Followed(handle=JobHandle.from_dict(handle), state=ended, offset=6),)).to_dict()
    capfd.readouterr()
    done = operator.execute_complete(world.context(), news)
    out = capfd.readouterr().out
    assert done["status"] == "SUCCEEDED"
    assert "the rest" in out
    assert "12345" not in out


def test_elsewhere_means_that_the_task_waits_itself(world: World, door: Path) -> None:
    operator, trigger = deferred(world, f"{waits(door)}; echo here")
    door.touch()
    (handle,) = trigger["jobs"]
    news = JobEvent(jobs=(Followed(handle=JobHandle.from_dict(handle), state=None),), elsewhere=True).to_dict()
    assert operator.execute_complete(world.context(), news)["status"] == "SUCCEEDED"


def test_the_answer_of_an_earlier_tries_trigger_is_not_ours(
    world: World, door: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    operator, _ = deferred(world, f"{waits(door)}; echo the one in hand")
    door.touch()
    stale = JobState(job_id="jold", status=JobStatus.CANCELLED, reason="Cancelled", message="cleared")
    answer = JobEvent(jobs=(Followed(handle=old_handle("jold"), state=stale),)).to_dict()
    operator.deferrable = False
    done = operator.execute_complete(world.context(), answer)
    assert (done["status"], done["attempt"]) == ("SUCCEEDED", 1)
    assert done["job_id"] != "jold"
    assert "an earlier try of this task had" in capfd.readouterr().out


def old_handle(job_id: str) -> JobHandle:
    return JobHandle(uid="ab" * 16, job_id=job_id, attempt=1, key="", worker_pool="local", worker="local")


def test_what_the_trigger_gets(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "echo begun; exec sleep 60"
    _, before = deferred(world, command)
    followed(before["jobs"][0], until=lambda state: state.log_bytes > 0)
    world.retry()  # this try finds a job that has a log to tell
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEFER_AFTER", "1")
    _, trigger = deferred(world, command, poll_interval=7)
    assert len(json.dumps(trigger["jobs"])) < 4096
    assert (trigger["offset"], trigger["local"], trigger["poll_interval"]) == (6, True, 7.0)
    assert world["xcom"]["jobdeploy_try"] == world["ti"]


def test_a_timeout_while_deferred_stops_the_job(world: World) -> None:
    operator, trigger = deferred(world, "exec sleep 60", execution_timeout=timedelta(seconds=90))
    with pytest.raises(TaskDeferralTimeout):
        operator.resume_execution("__fail__", {"error": "Trigger timeout"}, world.context())
    state = wait_ended(trigger["jobs"][0])
    assert state["status"] == "CANCELLED"
    assert "execution_timeout has passed" in state["message"]


@pytest.mark.parametrize(("since_s", "left_s"), [(30, 60), (500, 1)])
def test_a_deferral_has_what_is_left_of_the_execution_timeout(world: World, since_s: int, left_s: int) -> None:
    context = world.context()
    context["ti"].start_date = datetime.now(timezone.utc) - timedelta(seconds=since_s)
    operator = run_operator(
        job_spec={"command": "exec sleep 60", "grace": 1}, deferrable=True, execution_timeout=timedelta(seconds=90)
    )
    with pytest.raises(TaskDeferred) as caught:
        call(operator, "execute", context)
    assert left_s - 20 < caught.value.timeout.total_seconds() <= left_s


def test_not_deferred_where_the_triggerer_may_be_elsewhere(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "CeleryExecutor")
    operator = run_operator(job_spec={"command": "sleep 1"}, deferrable=True)
    assert call(operator, "execute", world.context())["status"] == "SUCCEEDED"


@pytest.mark.parametrize(
    ("configured", "own", "local"),
    [
        ("LocalExecutor", None, True),
        ("CeleryExecutor,LocalExecutor", None, False),
        ("CeleryExecutor,LocalExecutor", "LocalExecutor", True),
        ("here:airflow.executors.local_executor.LocalExecutor,CeleryExecutor", "here", True),
        ("here:airflow.executors.local_executor.LocalExecutor,CeleryExecutor", "CeleryExecutor", False),
        ("airflow.executors.local_executor.LocalExecutor", None, True),
    ],
)
def test_which_executor_runs_a_task(configured: str, own: str | None, local: bool, monkeypatch: Any) -> None:
    from airflow_jobdeploy.hooks.runtime import is_local_executor

    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", configured)
    assert is_local_executor(run_operator(executor=own)) is local


def test_up_without_waiting_returns_when_its_builds_have_ended(world: World) -> None:
    template = {
        "builds": {
            "up": {"type": "script", "content": "#!/bin/sh\nsleep 60 > /dev/null 2>&1 &\necho built\n"},
            "down": {"type": "script", "content": "true"},
        }
    }
    up = TemplateUpOperator(task_id="t", template=template, template_params={}, wait_for_completion=False)
    handle = call(up, "execute", world.context())
    assert (handle["status"], handle["reason"]) == ("RUNNING", "Leftovers")
    assert handle["resource"]
    # The reaper must leave alone what was left alive on purpose.
    assert owner(handle) == "none"


def test_a_job_that_is_waited_for_belongs_to_its_task(world: World) -> None:
    _, trigger = deferred(world, "exec sleep 60")
    assert owner(trigger["jobs"][0]) == "task"


def owner(handle: dict[str, Any]) -> str:
    rows = JobDeployHook("local").list()
    return next(row["plan"]["owner"] for row in rows if row["plan"]["job_id"] == handle["job_id"])


def wait_ended(handle: dict[str, Any]) -> dict[str, Any]:
    return followed(handle, until=is_over)


def followed(handle: dict[str, Any], *, until: Callable[[JobState], bool]) -> dict[str, Any]:
    """The job's state once `until` holds."""
    from airflow_jobdeploy.service import follow

    hook = JobDeployHook("local")
    with hook.get_conn() as workers:
        told: Callable[[str], None] = lambda text: None  # noqa: E731
        job = JobHandle.from_dict(handle)
        return follow(workers, job, say_log=told, say=told, until=until, timeout_s=60).state.to_dict()


def test_the_deployment_is_named_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEPLOYMENT", "")
    made = deployment_id()
    assert len(made) == 32
    assert deployment_id() == made == world["variables"][VARIABLE]
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEPLOYMENT", "production")
    assert deployment_id() == "production"


def test_a_task_of_a_team_does_not_name_the_deployment_of_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEPLOYMENT", "")
    context = world.context()
    context["dag_run"].team_name = "vision"
    operator = run_operator()
    with pytest.raises(JobDeployError, match=r"team 'vision'.*airflow variables set jobdeploy_deployment NAME"):
        call(operator, "execute", context)
    assert VARIABLE not in world["variables"]
    assert JobDeployHook("local").list() == []
    world.put("variables", VARIABLE, "ours")
    call(operator, "execute", context)
    assert [row["plan"]["key"]["deployment"] for row in JobDeployHook("local").list()] == ["ours"]
