"""Following: every byte once, whatever happens to the follower."""

from __future__ import annotations

import queue
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.pool import Worker
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import JobCancelled, JobFailed, JobTimedOut, WorkerUnreachable
from tests.service.conftest import Desk


def logged(desk: Desk) -> str:
    return "\n".join(desk.log)


def test_the_whole_log_and_the_end(desk: Desk) -> None:
    handle = desk.submit(desk.run_spec({"command": "printf 'é€😀 %s\\n' 1 2 3; printf 'no newline'; exit 7"})).handle
    followed = desk.follow(handle)
    assert logged(desk) == "é€😀 1\né€😀 2\né€😀 3\nno newline"
    assert followed.over
    assert followed.state.exit_code == 7
    assert followed.offset == followed.state.log_bytes
    with pytest.raises(JobFailed, match="Exit code 7") as caught:
        service.raise_for(followed.state)
    assert caught.value.exit_code == 7


def test_a_burst_at_the_end_arrives_whole(desk: Desk) -> None:
    handle = desk.submit(desk.run_spec({"command": "seq 1 200000"})).handle
    assert desk.follow(handle).state.status is JobStatus.SUCCEEDED
    assert logged(desk).split("\n") == [str(number) for number in range(1, 200001)]


def test_a_second_follower_goes_on_where_the_first_was_interrupted(desk: Desk, tmp_path: Path) -> None:
    command = 'echo one; while [ ! -e "$HOLD" ]; do sleep 0.05; done; echo two'
    hold = tmp_path / "hold"
    handle = desk.submit(desk.run_spec({"command": command, "env": {"HOLD": str(hold)}})).handle
    first = desk.follow(handle, interrupted=lambda: "one" in desk.log)
    assert first.interrupted
    assert not first.over
    hold.touch()
    second = desk.follow(handle, offset=first.offset)
    assert second.over
    assert desk.log == ["one", "two"]


def test_following_survives_a_connection_that_breaks(desk: Desk) -> None:
    connect, cuts = desk.connect, []

    class Fragile:
        """Breaks at every third read of the log."""

        def __init__(self, backend: Any) -> None:
            self._backend, self._reads = backend, 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._backend, name)

        def read_log(self, *args: Any) -> Any:
            self._reads += 1
            if self._reads % 3 == 0 and len(cuts) < 4:
                cuts.append(self._reads)
                raise WorkerUnreachable("connection reset")
            return self._backend.read_log(*args)

    handle = desk.submit(desk.run_spec({"command": "seq 1 300000"})).handle
    desk.connect = lambda worker: Fragile(connect(worker))
    assert desk.follow(handle).over
    assert cuts
    assert logged(desk).split("\n") == [str(number) for number in range(1, 300001)]


def test_a_timeout_of_the_follower_leaves_the_job_alone(desk: Desk) -> None:
    handle = desk.submit(desk.run_spec({"command": "sleep 60"})).handle
    begun = time.monotonic()
    followed = desk.follow(handle, timeout_s=1.0)
    assert time.monotonic() - begun < 30
    assert not followed.over
    assert not desk.status(handle).status.is_finished
    desk.stop(handle)


def test_a_stopped_job_and_one_that_ran_too_long_raise_their_own_errors(desk: Desk) -> None:
    handle = desk.submit(desk.run_spec({"command": "sleep 60", "timeout": 1, "grace": 1})).handle
    with pytest.raises(JobTimedOut, match=r"timeout of 1\.0 s"):
        service.raise_for(desk.follow(handle).state)
    desk.notebook.value = None
    handle = desk.submit(desk.run_spec({"command": "sleep 60"})).handle
    desk.stop(handle)
    with pytest.raises(JobCancelled, match="pytest"):
        service.raise_for(desk.follow(handle).state)


def test_a_record_that_is_gone_is_unknown_and_ends_the_following(desk: Desk) -> None:
    handle = desk.submit(desk.run_spec({"command": "true"})).handle
    desk.follow(handle)
    with desk.workers() as workers:
        workers.backend(handle.worker).forget(handle.job_id)
    followed = desk.follow(handle)
    assert followed.state.status is JobStatus.UNKNOWN
    assert followed.state.reason == "RecordMissing"


def test_another_machine_under_the_same_name_is_not_judged(desk: Desk, tmp_path: Path) -> None:
    handle = desk.submit(desk.run_spec({"command": "true"})).handle
    desk.follow(handle)
    desk.connect = lambda worker: local_backend(root=str(tmp_path / "another root"))
    followed = desk.follow(handle, interrupted=lambda: any("WorkerChanged" in line for line in desk.said))
    assert followed.state.status is JobStatus.UNKNOWN
    assert followed.state.reason == "WorkerChanged"
    assert not followed.over


def test_a_watcher_thread_follows_many_jobs_over_one_connection(desk: Desk) -> None:
    handles = []
    for number in range(5):
        desk.notebook.value = None
        handles.append(desk.submit(desk.run_spec({"command": f"echo job {number}; exit {number}"})).handle)
    connects: list[Worker] = []

    def connect() -> Any:
        connects.append(desk.pool.workers[0])
        return desk.connect(desk.pool.workers[0])

    watcher = service.Watcher.get(object(), connect)
    updates: queue.Queue[service.Update] = queue.Queue()
    subscriptions = [watcher.follow(service.Follower(h.job_id, deliver=updates.put)) for h in handles]
    texts: dict[str, str] = {}
    ends: dict[str, int | None] = {}
    while len(ends) < 5:
        update = updates.get(timeout=60)
        texts[update.state.job_id] = texts.get(update.state.job_id, "") + update.text
        if update.over:
            ends[update.state.job_id] = update.state.exit_code
    for subscription in subscriptions:
        subscription.close()
    assert [texts[h.job_id] for h in handles] == [f"job {n}\n" for n in range(5)]
    assert [ends[h.job_id] for h in handles] == list(range(5))
    assert len(connects) == 1


def test_a_task_holds_one_connection_from_submit_to_stop(desk: Desk) -> None:
    connect, opened = desk.connect, []
    desk.connect = lambda worker: opened.append(worker) or connect(worker)
    work = desk.run_spec({"command": "sleep 60", "grace": 1})
    with desk.workers() as workers:
        store = {"intents": desk.notebook, "epoch": desk.epoch, "say": desk.said.append}
        handle = service.submit(work, workers, **store).handle
        for _ in range(2):
            said = {"say_log": desk.log.append, "say": desk.said.append}
            until = lambda state: state.status is JobStatus.RUNNING  # noqa: E731
            followed = service.follow(workers, handle, until=until, **said)
            assert followed.state.status is JobStatus.RUNNING
        service.stop(workers, handle, reason="enough", by="pytest", wait_s=60)
    assert len(opened) == 1


def test_a_job_of_another_machine_does_not_trouble_the_others(desk: Desk) -> None:
    handle = desk.submit(desk.run_spec({"command": "sleep 1; echo end"})).handle
    watch = service.Watch(lambda: desk.connect(desk.pool.workers[0]))
    news: dict[str, list[service.Update]] = {"here": [], "elsewhere": []}
    watch.add(service.Follower(handle.job_id, deliver=news["here"].append, machine=handle.machine))
    watch.add(service.Follower("j" + "a" * 20, deliver=news["elsewhere"].append, machine="another"))
    until = time.monotonic() + 30
    while not (news["here"] and news["here"][-1].over) and time.monotonic() < until:
        watch.run_pass(1.0)
    watch.close()
    assert news["here"][-1].state.status is JobStatus.SUCCEEDED
    assert [update.state.reason for update in news["elsewhere"]] == ["WorkerChanged"]


def test_progress_is_told_now_and_then_and_what_was_held_back_later(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airflow_jobdeploy.core.messages.PROGRESS_EVERY_S", 0.5)
    say = 'say() { echo "$1" >>"$JOBDEPLOY_MESSAGES_FILE"; }; '
    command = (
        say
        + """say '{"progress": 0.1}'; until [ -e "$SEEN" ]; do sleep 0.05; done
say '{"progress": 0.2}'; until [ -e "$HOLD" ]; do sleep 0.05; done
say '{"progress": 1}'; say '{"metric": {"name": "loss", "value": 0.25}}'; say '{"artifact": "model.pt"}'"""
    )
    seen, hold = tmp_path / "seen", tmp_path / "hold"
    env = {"SEEN": str(seen), "HOLD": str(hold)}
    handle = desk.submit(desk.run_spec({"command": command, "env": env})).handle

    def told() -> bool:
        if "Progress: 10 %" in desk.said:
            seen.touch()
        return "Progress: 20 %" in desk.said

    first = desk.follow(handle, interrupted=told)
    assert first.interrupted
    hold.touch()
    assert desk.follow(handle, offset=first.offset).over
    assert {"Output model.pt", "Progress: 100 %", "Metrics: loss=0.25"} <= set(desk.said)
