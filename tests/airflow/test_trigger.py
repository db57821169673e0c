"""The trigger: its event, its log's checkpoints, and when it stops a job. Real jobs on pool local."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.module_loading import import_string

from airflow_jobdeploy.core.plan import JobKey, Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.hooks.deployment import deployment_id
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.service import Watcher
from airflow_jobdeploy.triggers.events import JobEvent
from airflow_jobdeploy.triggers.job import CHECKPOINT, DEFERRED_BY, JobTrigger
from tests.airflow.world import RUN, World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path).supervised() as world:
        world.change(state="deferred")
        yield world


@pytest.fixture
def start(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], dict[str, Any]]]:
    hook = JobDeployHook("local")
    handles = []

    def start(command: str) -> dict[str, Any]:
        handles.append(hook.start(job_spec={"command": command, "grace": 1}))
        _until(hook, handles[-1], lambda status: status != "PENDING")
        return handles[-1]

    yield start
    for handle in handles:
        hook.stop(handle)


def _made(world: World, handle: dict[str, Any], **more: Any) -> JobTrigger:
    """A trigger as the triggerer makes it: from what was serialized."""
    path, arguments = JobTrigger(jobs=[handle], poll_interval=0.05, **more).serialize()
    trigger = import_string(path)(**json.loads(json.dumps(arguments)))
    trigger.task_instance = SimpleNamespace(id=world["ti"], dag_id="d", task_id="t", run_id=RUN, map_index=-1)
    return trigger


def _collecting(trigger: JobTrigger) -> list[str]:
    """What the trigger logs, one entry a record."""
    records: list[str] = []
    trigger.log.info = lambda text, *values: records.append(text % values if values else text)  # type: ignore[method-assign]
    return records


async def _event(trigger: JobTrigger) -> JobEvent:
    events: AsyncIterator[Any] = trigger.run()
    async for event in events:
        return JobEvent.from_dict(json.loads(json.dumps(event.payload)))
    raise AssertionError("no event")


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 60))


def test_serialization() -> None:
    trigger = JobTrigger(jobs=[{"uid": "u"}], goal=["RUNNING"], offset=7, local=True, owned=False, poll_interval=2.5)
    path, arguments = trigger.serialize()
    assert json.loads(json.dumps(arguments)) == arguments
    assert import_string(path)(**arguments).serialize() == (path, arguments)


def test_the_event_carries_all_and_the_log_is_told(world: World, start: Any) -> None:
    handle = start("echo one; sleep 0.4; echo two; printf '{\"a\": 1}' > $JOBDEPLOY_RESULT_FILE; exit 3")
    trigger = _made(world, handle)
    records = _collecting(trigger)
    event = _run(_event(trigger))
    (job,) = event.jobs
    assert job.state is not None
    assert (job.state.status, job.state.exit_code, job.state.result) == (JobStatus.FAILED, 3, {"a": 1})
    assert job.handle.uid == handle["uid"]
    assert not job.log_left
    assert "\n".join(records).count("one") == 1
    assert "\n".join(records).count("two") == 1


def test_what_the_job_says_is_told_and_comes_with_the_event(
    world: World, start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = tmp_path / "door"
    monkeypatch.setattr("airflow_jobdeploy.core.messages.PROGRESS_EVERY_S", 0.5)
    monkeypatch.setattr("airflow_jobdeploy.triggers.job.PROGRESS_EVERY_S", 0.5)
    say = 'say() { echo "$1" >>"$JOBDEPLOY_MESSAGES_FILE"; }; '
    text = f"""for n in 1 2 3 4 5 6 7 8; do say '{{"progress": 0.'$n'}}'; sleep 0.2; done
until [ -e '{door}' ]; do sleep 0.05; done; say '{{"asset": "s3://b/m"}}'"""
    trigger = _made(world, start(say + text))
    records = _collecting(trigger)

    async def opened() -> JobEvent:
        waits = asyncio.ensure_future(_event(trigger))
        while "Progress: 80 %" not in "\n".join(records):
            await asyncio.sleep(0.05)
        door.touch()
        return await waits

    event = _run(opened())
    told = "\n".join(records)
    assert told.count("Progress: ") < 8
    assert told.index("Progress: 80 %") < told.index("Asset s3://b/m")  # held back, but not until the end
    assert event.jobs[0].state.messages["assets"] == [{"uri": "s3://b/m", "extra": {}}]  # type: ignore[union-attr]
    silent = _made(world, start(say + text), offset=None, owned=False)
    records = _collecting(silent)
    _run(_event(silent))
    assert "Progress" not in "\n".join(records)


def test_a_job_that_was_given_up_ends_the_wait(world: World, start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine answers under its worker's name, for good."""
    handle = {**start("sleep 60"), "machine": "another"}
    monkeypatch.setenv("AIRFLOW_VAR_JOBDEPLOY_GIVEN_UP", json.dumps({handle["job_id"]: {"by": "ann"}}))
    (job,) = _run(_event(_made(world, handle))).jobs
    assert job.state is not None
    assert (job.state.status, job.state.reason) == (JobStatus.FAILED, "WorkerLost")
    assert "ann has given it up" in job.state.message


def test_a_trigger_that_comes_to_a_worker_ends_what_has_lost_its_task_there(
    world: World, start: Any, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = JobKey(deployment=deployment_id(), dag_id="d", run_id=RUN, task_id="t")
    plan = Plan(uid=new_uid(), key=key, owner="task", steps=(Step(name="job", kind="shell", content="sleep 60"),))
    monkeypatch.setattr(Watcher, "_all", {})  # else that of a test before may have looked a moment ago
    with JobDeployHook("local").get_conn() as workers:
        worker = workers.backend("local")
        worker.claim(plan)
        worker.start(plan.job_id)
        world.change(state="failed")
        _run(_event(_made(world, start("sleep 1"))))
        state = worker.poll([plan.job_id])[plan.job_id]
        while not state.status.is_finished:
            state = worker.watch([plan.job_id], 5.0).get(plan.job_id, state)
    assert (state.status, state.facts["stopped_by"]) == (JobStatus.CANCELLED, "the reaper")


def test_many_lines_are_few_records(world: World, start: Any) -> None:
    handle = start("for n in $(seq 5000); do echo line $n; done")
    trigger = _made(world, handle)
    records = _collecting(trigger)
    _run(_event(trigger))
    text = "\n".join(records)
    assert all(f"line {n}" in text for n in (1, 2500, 5000))
    assert len(records) < 50


def test_much_log_at_the_end_is_left_to_the_task(world: World, start: Any) -> None:
    handle = start("head -c 8000000 /dev/zero | tr '\\0' x; echo")
    _until(JobDeployHook("local"), handle, lambda status: status == "SUCCEEDED")
    event = _run(_event(_made(world, handle)))
    (job,) = event.jobs
    assert job.log_left
    assert job.offset < 8_000_001


def test_no_log_for_a_sensor(world: World, start: Any) -> None:
    trigger = _made(world, start("echo secret; sleep 0.3"), offset=None, goal=["SUCCEEDED"], owned=False)
    records = _collecting(trigger)
    event = _run(_event(trigger))
    assert event.jobs[0].state.status is JobStatus.SUCCEEDED  # type: ignore[union-attr]
    assert "secret" not in "\n".join(records)


def test_a_goal_that_cannot_be_reached_fires_at_once(world: World, start: Any) -> None:
    long, short = start("exec sleep 300"), start("exit 1")
    trigger = JobTrigger(jobs=[long, short], goal=["SUCCEEDED"], offset=None, owned=False, poll_interval=0.05)
    event = _run(_event(trigger))
    states = {job.handle.job_id: job.state for job in event.jobs}
    assert states[short["job_id"]].status is JobStatus.FAILED  # type: ignore[union-attr]
    assert states[long["job_id"]].status is JobStatus.RUNNING  # type: ignore[union-attr]


def test_on_another_machine_it_answers_elsewhere(world: World, start: Any) -> None:
    handle = {**start("exec sleep 300"), "machine": "another"}
    event = _run(_event(_made(world, handle, local=True)))
    assert event.elsewhere


def test_resumed_at_the_checkpoint_nothing_is_lost(world: World, start: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    handle = start(f"echo before; while [ ! -e '{gate}' ]; do sleep 0.05; done; echo after")

    async def interrupted() -> list[str]:
        trigger = _made(world, handle)
        records = _collecting(trigger)
        task = asyncio.ensure_future(_event(trigger))
        while "before" not in "\n".join(records):
            await asyncio.sleep(0.05)
        task.cancel()  # the triggerer is shut down
        with pytest.raises(asyncio.CancelledError):
            await task
        await trigger.cleanup()
        return records

    first = _run(interrupted())
    assert world["xcom"][CHECKPOINT] == {"job_id": handle["job_id"], "from": 0, "offset": len("before\n")}
    gate.touch()
    successor = _made(world, handle)
    second = _collecting(successor)
    _run(_event(successor))
    assert "before" not in "\n".join(second)
    assert any("after" in record for record in second)
    assert "lines after byte 7 of the log may stand here twice" in second[0]
    assert len([record for record in first if "before" in record]) == 1


def test_a_later_wait_of_the_same_try_begins_at_its_own_offset(world: World, start: Any) -> None:
    handle = start("echo 123456789; echo end")
    world.put("xcom", CHECKPOINT, {"job_id": handle["job_id"], "from": 0, "offset": 2})
    trigger = _made(world, handle, offset=10)
    records = _collecting(trigger)
    _run(_event(trigger))
    assert "12345" not in "\n".join(records)
    assert "end" in "\n".join(records)


KILLS = [
    # state now, does the marker hold this trigger's own try?, owned -> is the job stopped?
    ("deferred", True, True, False),  # moved to another triggerer
    ("deferred", False, True, True),  # cleared, and the next try has deferred already
    ("failed", True, True, True),
    ("success", True, True, True),
    ("running", False, True, True),  # cleared, the next try is at work
    (None, True, True, True),  # the run was deleted
    ("failed", True, False, False),  # a sensor's
    ("unreachable", True, True, False),  # Airflow cannot be asked: the reaper decides
]


@pytest.mark.parametrize(("state", "own", "owned", "stopped"), KILLS)
def test_on_kill(world: World, start: Any, state: str | None, own: bool, owned: bool, stopped: bool) -> None:
    handle = start("exec sleep 300")
    hook = JobDeployHook("local")

    async def kill() -> None:
        trigger = _made(world, handle, owned=owned)
        world.put("xcom", DEFERRED_BY, world["ti"] if own else "another try")
        records = _collecting(trigger)
        task = asyncio.ensure_future(_event(trigger))
        while not records:  # it has heard of the job
            await asyncio.sleep(0.02)
        world.change(state=state)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        begun = time.process_time()
        await asyncio.wait_for(trigger.on_kill(), 10.0)
        assert time.process_time() - begun < 1.0, "all that Airflow gives it"
        await trigger.cleanup()

    _run(kill())
    if not stopped:
        assert hook.status(handle)["status"] == "RUNNING"
        return
    ended = _until(hook, handle, lambda status: status != "RUNNING")
    assert ended["status"] == "CANCELLED"
    assert "the task was set to" in ended["message"]


def _until(hook: JobDeployHook, handle: dict[str, Any], done: Callable[[str], bool]) -> dict[str, Any]:
    """The job's state once its status is as wanted."""
    until = time.monotonic() + 60
    while not done((state := hook.status(handle))["status"]):
        assert time.monotonic() < until, state
        time.sleep(0.05)
    return state
