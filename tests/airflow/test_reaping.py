"""The reaper on a real worker: only what is ours, unattended and without an owner is stopped."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.backends.hosted import HostedBackend, local_backend
from airflow_jobdeploy.core.plan import JobKey, Plan, Step, new_uid
from airflow_jobdeploy.hooks.reaping import LOOK_EVERY_S, Reaper, owner_states, reap_in_passing

SLEEP = (Step(name="job", kind="shell", content="sleep 60"),)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[HostedBackend]:
    backend = local_backend(root=str(tmp_path / "root"))
    yield backend
    for job in backend.jobs(live_only=True):
        backend.stop(job["plan"]["job_id"], reason="the test is over", grace_s=0)
    backend.close()


def started(worker: HostedBackend, *, owner: str = "task", deployment: str = "mine", map_index: int = -1) -> str:
    key = JobKey(deployment=deployment, dag_id="dag", run_id="run 1", task_id="train", map_index=map_index)
    plan = Plan(uid=new_uid(), key=key, owner=owner, steps=SLEEP)
    worker.claim(plan)
    worker.start(plan.job_id)
    return plan.job_id


def reaper(states: dict[str, Any]) -> Reaper:
    return Reaper(ask=lambda dag_id, run_ids: states, deployment=lambda: "mine")


def test_a_job_whose_task_is_over_is_stopped_and_the_others_live(worker: HostedBackend) -> None:
    lost, mapped = started(worker), started(worker, map_index=3)
    others = [started(worker, deployment="theirs"), started(worker, owner="none")]
    look = reaper({"run 1": {"train": "failed", "train_3": "running"}})
    assert look(worker, frozenset()) == [lost]
    assert not worker.poll([mapped])[mapped].status.is_finished
    assert not any(state.status.is_finished for state in worker.poll(others).values())
    state = worker.poll([lost])[lost]
    while not state.status.is_finished:
        state = worker.watch([lost], 5.0).get(lost, state)
    assert "the reaper" in state.message
    assert "its task instance is failed" in state.message


def test_following_a_job_does_not_save_it_when_its_task_is_over(worker: HostedBackend) -> None:
    """On SQLite a trigger may go on after its task: the next one has got its id."""
    job = started(worker)
    look = reaper({"run 1": {"train": "deferred"}})
    assert look(worker, frozenset([job])) == []
    assert reaper({"run 1": {"train": "success"}})(worker, frozenset([job])) == [job]


def test_who_follows_a_job_knows_better_than_an_empty_answer(worker: HostedBackend) -> None:
    job = started(worker)
    look = reaper({})
    assert look(worker, frozenset([job])) == look(worker, frozenset([job])) == []


def test_very_many_runs_are_asked_for_in_parts() -> None:
    keys = {f"j{n}": JobKey(deployment="d", dag_id="a", run_id=f"r{n}", task_id="t") for n in range(250)}
    asked: list[int] = []

    def ask(dag_id: str, run_ids: list[str]) -> Any:
        asked.append(len(run_ids))
        return {run_id: {"t": "running"} for run_id in run_ids}

    assert set(owner_states(keys, ask).values()) == {"running"}
    assert asked == [100, 100, 50]


def test_a_deleted_run_is_believed_at_the_second_look(worker: HostedBackend) -> None:
    job = started(worker)
    look = reaper({})
    assert look(worker, frozenset()) == []
    assert look(worker, frozenset()) == [job]


def test_when_airflow_cannot_be_asked_nothing_is_stopped(worker: HostedBackend) -> None:
    started(worker)

    def silent(dag_id: str, run_ids: list[str]) -> Any:
        raise EOFError("Request socket closed before length")

    assert Reaper(ask=silent, deployment=lambda: "mine")(worker, frozenset()) == []


def test_a_job_that_was_given_up_is_stopped_when_its_worker_is_back(worker: HostedBackend) -> None:
    """Its task runs: with another attempt, elsewhere."""
    lost, other = started(worker), started(worker, map_index=3)
    states = {"run 1": {"train": "running", "train_3": "running"}}
    look = Reaper(ask=lambda dag_id, run_ids: states, deployment=lambda: "mine", given_up=lambda: {lost: "ann"})
    assert look(worker, frozenset()) == [lost]
    assert not worker.poll([other])[other].status.is_finished
    state = worker.poll([lost])[lost]
    while not state.status.is_finished:
        state = worker.watch([lost], 5.0).get(lost, state)
    assert "it was given up by ann while its worker was silent" in state.message


@pytest.fixture
def passing(worker: HostedBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A look from a task; the looks of the machine's tasks are noted in a folder of the test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def look(states: dict[str, Any], *, later_s: float = 0.0) -> list[str]:
        for notes in tmp_path.glob("jobdeploy-connect-*/reaped-*"):
            last = json.loads(notes.read_text())
            notes.write_text(json.dumps({**last, "at": last["at"] - later_s}))
        return reap_in_passing(worker, frozenset(), ask=lambda dag_id, run_ids: states, deployment=lambda: "mine")

    return look


def test_a_task_that_comes_by_reaps_once_a_minute_for_its_machine(worker: HostedBackend, passing: Any) -> None:
    job, mapped = started(worker), started(worker, map_index=3)
    assert passing({"run 1": {"train": "failed", "train_3": "running"}}) == [job]
    assert passing({"run 1": {"train": "failed", "train_3": "success"}}) == []
    later = LOOK_EVERY_S + 1
    # The first one may still be on its way to its end, and be told again.
    assert mapped in passing({"run 1": {"train": "failed", "train_3": "success"}}, later_s=later)


def test_tasks_tell_each_other_whom_they_suspect(worker: HostedBackend, passing: Any) -> None:
    job = started(worker)
    assert passing({}) == []
    assert passing({}, later_s=LOOK_EVERY_S + 1) == [job]
