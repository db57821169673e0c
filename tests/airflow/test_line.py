"""A task whose job has to wait for a GPU: in line itself, then by a trigger, then with what that was granted."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.exceptions import AirflowTaskTimeout, TaskDeferred

from airflow_jobdeploy.core.leases import Ticket
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.errors import JobTimedOut, PlacementError, SpecError
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.service import Work
from airflow_jobdeploy.service.line import Wait
from airflow_jobdeploy.triggers.events import LineEvent
from airflow_jobdeploy.triggers.line import LineTrigger
from tests.airflow.conftest import Door
from tests.airflow.world import World, call
from tests.servers.gpus import FakeGpus

pytestmark = pytest.mark.airflow


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpus:
    """This machine has one GPU, of a type that no other test asks for."""
    # All tests of this machine share its line.
    fake = FakeGpus(tmp_path / "tools", count=1, model=f"Fake {os.urandom(4).hex()}")
    monkeypatch.setenv("PATH", f"{fake.folder}:{os.environ['PATH']}")
    return fake


def wants(gpu: FakeGpus, command: str, **fields: Any) -> dict[str, Any]:
    return {"command": command, "gpu_types": [{"type": gpu.model, "count": 1}], "grace": 1, **fields}


def run_operator(spec: dict[str, Any], **more: Any) -> JobRunOperator:
    return JobRunOperator(task_id="t", job_spec=spec, **more)


def test_a_deferred_task_gets_the_gpu_when_it_is_free(
    run_dag: Callable[..., Any], gpu: FakeGpus, door: Door, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEFER_AFTER", "0.2")
    free = tmp_path / "free"
    holder = JobDeployHook("local").start(job_spec=wants(gpu, f"while [ ! -e {free} ]; do sleep 0.05; done"))
    with DAG("line", schedule=None) as dag:
        job = wants(gpu, 'echo "mine is $CUDA_VISIBLE_DEVICES"')
        JobRunOperator(task_id="waits", job_spec=job, deferrable=True)
    opener = threading.Thread(target=free_it_for_the_trigger, args=(free, gpu, door), daemon=True)
    opener.start()
    run = run_dag(dag)
    opener.join(60)
    assert run.state == "success", run.text
    assert f"Waiting for 1 {gpu.model}" in run.text
    assert "number 1 in the line of worker local" in run.text
    assert f"mine is {gpu.uuids[0]}" in run.text
    assert JobDeployHook("local").status(holder)["status"] == "SUCCEEDED", "it was waited for"


def free_it_for_the_trigger(free: Path, gpu: FakeGpus, door: Door) -> None:
    """Once there is a ticket for the GPU after the task has deferred, and so taken back its own."""
    with JobDeployHook("local").get_conn() as workers:
        backend = workers.backend("local")
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if door.path.exists() and any(gpu.model in str(ticket["demand"]) for ticket in backend.room().tickets):
                break
            time.sleep(0.05)  # no event tells of the tickets of others
    free.touch()


@pytest.fixture
def deferred(world: World, gpu: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> tuple[JobRunOperator, LineTrigger]:
    """A task that has deferred while it stood in line."""
    monkeypatch.setenv("AIRFLOW__JOBDEPLOY__DEFER_AFTER", "0.2")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor")
    JobDeployHook("local").start(job_spec=wants(gpu, "sleep 600"))
    operator = run_operator(wants(gpu, "true", schedule_timeout=600), deferrable=True)
    with pytest.raises(TaskDeferred) as caught:
        call(operator, "execute", world.context())
    assert isinstance(caught.value.trigger, LineTrigger)
    return operator, caught.value.trigger


def test_the_trigger_is_plain_data_and_its_wait_keeps_its_age(deferred: tuple[JobRunOperator, LineTrigger]) -> None:
    path, arguments = deferred[1].serialize()
    assert path == "airflow_jobdeploy.triggers.line.LineTrigger"
    wait = Wait.from_dict(json.loads(json.dumps(arguments["wait"])))
    assert (list(wait.tickets), wait.schedule_timeout_s) == (["local"], 600)
    assert 0 < time.time() - wait.since < 60


def test_schedule_timeout_in_the_trigger_fails_the_task(world: World, deferred: tuple[JobRunOperator, Any]) -> None:
    operator, trigger = deferred
    late = LineEvent(wait=Wait.from_dict(trigger.wait), timed_out="no worker had 1 GPU within schedule_timeout")
    with pytest.raises(JobTimedOut, match="within schedule_timeout") as caught:
        call(operator, "execute_complete", world.context(), late.to_dict())
    assert (caught.value.status, caught.value.reason) == ("FAILED", "TimedOut")
    assert "return_value" not in world["xcom"], "there was never a job"


def test_the_team_of_the_dag_is_in_the_ticket(world: World, gpu: FakeGpus) -> None:
    context = world.context()
    context["dag_run"].team_name = "vision"
    handle = call(run_operator({"command": "true", "cpu_count": 0.01}), "execute", context)
    rows = JobDeployHook("local").list()
    (plan,) = [row["plan"] for row in rows if row["plan"]["job_id"] == handle["job_id"]]
    ticket = plan["lease"]["ticket"]
    assert (ticket["team"], ticket["owner"]) == ("vision", "airflow")


class LateRun(JobRunOperator):
    """Its execution_timeout passes while it prepares its job, just before the claim."""

    def work(self, context: Mapping[str, Any], *, returning: bool = False) -> Work:
        super().work(context, returning=returning)
        raise AirflowTaskTimeout("too late")


def granted_by_a_trigger(gpu: FakeGpus) -> LineEvent:
    """What a trigger tells a task whose turn has come."""
    ticket = Ticket(uid=new_uid(), demand={"gpus": [{"type": gpu.model, "count": 1}]})
    with JobDeployHook("local").get_conn() as workers:
        answer = workers.backend("local").seek(ticket)
    assert answer.lease
    wait = Wait(uid=ticket.uid, worker_pool="local", since=time.time(), tickets={"local": ticket}, wanted="1 GPU")
    return LineEvent(wait=wait, granted=wait.granted("local", answer.lease))


def held_here() -> list[str]:
    """The GPUs of all leases."""
    with JobDeployHook("local").get_conn() as workers:
        return [uuid for each in workers.backend("local").room().leases for uuid in each["gpus"]]


def test_what_was_granted_to_a_task_that_cannot_go_on_is_given_back(world: World, gpu: FakeGpus) -> None:
    event = granted_by_a_trigger(gpu)
    assert gpu.uuids[0] in held_here()
    operator = run_operator(wants(gpu, "true", preset="gone"))
    with pytest.raises(SpecError, match="no preset 'gone'"):
        call(operator, "execute_complete", world.context(), event.to_dict())
    assert gpu.uuids[0] not in held_here()


def test_what_was_granted_to_a_task_whose_time_is_over_is_given_back(world: World, gpu: FakeGpus) -> None:
    event = granted_by_a_trigger(gpu)
    with pytest.raises(AirflowTaskTimeout):
        call(LateRun(task_id="t", job_spec=wants(gpu, "true")), "execute_complete", world.context(), event.to_dict())
    assert gpu.uuids[0] not in held_here(), "it is not held for two minutes more"


def test_what_this_machine_does_not_have_fails_before_anything_starts(world: World, gpu: FakeGpus) -> None:
    operator = run_operator({"command": "true", "gpu_types": [{"type": gpu.model, "count": 2}]})
    with pytest.raises(PlacementError, match="no worker of pool 'local' can take"):
        call(operator, "execute", world.context())
    assert "jobdeploy_intent" not in world["store"]
