"""Going on after an attempt: preempted and resumed, lost and restarted elsewhere, retried for a cause."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.sequels import after_end
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerUnreachable
from tests.packing.repositories import commit, repository, write
from tests.service.conftest import Desk

CHARACTERS = Path(__file__).parents[2] / "airflow_jobdeploy" / "example_dags" / "examples" / "characters"

#: Saves "7" when it is told to, and is done when it finds that.
SAVES = """
save() { echo 7 > "$JOBDEPLOY_CHECKPOINT_DIR/step"; echo '{"type": "checkpoint"}' >> "$JOBDEPLOY_MESSAGES_FILE"; }
trap save TERM
if [ -e "$JOBDEPLOY_CHECKPOINT_DIR/step" ]; then echo "from step $(cat "$JOBDEPLOY_CHECKPOINT_DIR/step")"; exit 0; fi
echo begun
while :; do sleep 0.1; done
"""


@pytest.fixture
def lab(desk: Desk, tmp_path: Path) -> Desk:
    """Two workers, each with a root of its own; those named in `cut` cannot be asked."""
    cut: set[str] = set()

    def connect(worker: Worker) -> Any:
        if worker.name in cut:
            raise WorkerUnreachable(f"{worker.name}: no route to host")
        return local_backend(root=str(tmp_path / "root" / worker.name))

    desk.pool = WorkerPool(name="lab", kind="ssh", workers=(Worker(conn_id="a", slots=1), Worker(conn_id="b")))
    desk.connect = connect
    desk.cut = cut  # type: ignore[attr-defined]
    return desk


def until_logged(desk: Desk, handle: Any, word: str) -> None:
    desk.follow(handle, interrupted=lambda: any(word in text for text in desk.log))


def preempted(desk: Desk, handle: Any) -> Any:
    with desk.workers() as workers:
        return service.preempt(workers, handle, reason="room for ann", by="pytest", wait_s=60)


def again(desk: Desk, work: Any, state: Any) -> Any:
    assert desk.notebook.value is not None
    intent = Intent.from_dict(desk.notebook.value)
    sequel = after_end(state, work.recovery, preemptions=intent.preemptions, retries=intent.retries)
    assert sequel.again
    with desk.workers() as workers:
        return service.submit(
            work, workers, sequel=sequel, intents=desk.notebook, epoch=desk.epoch, say=desk.said.append
        )


def test_a_preempted_job_goes_on_from_its_checkpoint_on_the_same_worker(lab: Desk) -> None:
    work = lab.run_spec({"command": SAVES, "preemptible": True})
    first = lab.submit(work).handle
    until_logged(lab, first, "begun")
    state = preempted(lab, first)
    assert (state.status, state.reason) == (JobStatus.SUSPENDED, "Preempted")
    second = again(lab, work, state).handle
    assert (second.worker, second.attempt) == (first.worker, 2)
    assert lab.follow(second).state.status is JobStatus.SUCCEEDED
    assert lab.log[-1] == "from step 7"
    with lab.workers() as workers:
        assert service.current(workers, first).job_id == second.job_id


def test_where_there_is_no_room_it_goes_elsewhere_and_takes_its_checkpoint_along(lab: Desk) -> None:
    work = lab.run_spec({"command": SAVES, "preemptible": True})
    first = lab.submit(work).handle
    assert first.worker == "a"
    until_logged(lab, first, "begun")
    state = preempted(lab, first)
    kept = lab.notebook.value
    lab.notebook.value = None
    other = lab.submit(lab.run_spec({"command": "sleep 60"})).handle
    assert other.worker == "a"
    until_running = lab.follow(other, until=lambda state: state.status is JobStatus.RUNNING)
    assert until_running.state.status is JobStatus.RUNNING
    lab.notebook.value = kept
    second = again(lab, work, state).handle
    assert second.worker == "b"
    assert lab.follow(second).state.status is JobStatus.SUCCEEDED
    assert lab.log[-1] == "from step 7"
    assert any("Brought the checkpoint from worker a to b" in line for line in lab.said)
    with lab.workers() as workers:
        assert service.current(workers, first).worker == "b"
    lab.cut.add("a")  # type: ignore[attr-defined]
    with lab.workers() as workers:
        assert service.current(workers, first).job_id == second.job_id
    lab.cut.clear()  # type: ignore[attr-defined]
    lab.stop(other)


def test_a_lost_workers_job_is_started_elsewhere_and_stops_itself_there(lab: Desk, tmp_path: Path) -> None:
    spec = {
        "command": f"echo $JOBDEPLOY_ATTEMPT >> '{tmp_path}/runs'; [ $JOBDEPLOY_ATTEMPT = 2 ] || sleep 60",
        "retry": {"on": ["worker_lost"], "max": 1},
        "worker_lost_after": 2,
        "grace": 0,
    }
    work = lab.run_spec(spec)
    first = lab.submit(work).handle
    lab.follow(first, until=lambda state: state.status is JobStatus.RUNNING)
    lab.cut.add("a")  # type: ignore[attr-defined]
    followed = lab.follow(dataclasses.replace(first, lost_after_s=3.0))
    assert (followed.state.status, followed.state.reason) == (JobStatus.FAILED, "WorkerLost")
    second = again(lab, work, followed.state).handle
    assert second.worker == "b"
    assert lab.follow(second).state.status is JobStatus.SUCCEEDED
    lab.cut.clear()  # type: ignore[attr-defined]
    until = time.monotonic() + 60
    while not (old := lab.status(first)).status.is_finished:  # to follow it would keep it alive
        assert time.monotonic() < until, old
        time.sleep(0.1)
    assert (old.status, old.reason) == (JobStatus.FAILED, "WorkerLost")
    assert "stopped itself" in old.message
    # Its worker could not be told where the job has gone: the other one knows, and what is fetched is the newer output.
    with lab.workers() as workers:
        assert service.current(workers, first).job_id == second.job_id
    assert (tmp_path / "runs").read_text().split() == ["1", "2"]


def test_a_cause_worth_a_retry_is_tried_so_often_and_no_more(lab: Desk) -> None:
    work = lab.run_spec({"command": "exit 75", "retry": {"on": [{"exit_code": 75}], "max": 2, "delay": 1}})
    handle = lab.submit(work).handle
    for attempt in (1, 2):
        state = lab.follow(handle).state
        assert (state.exit_code, handle.attempt) == (75, attempt)
        handle = again(lab, work, state).handle
    state = lab.follow(handle).state
    ago_s = {entry["reason"] or entry["status"]: entry["ago_s"] for entry in state.history}
    assert ago_s["Backoff"] - ago_s["RUNNING"] >= 1.0
    assert lab.notebook.value is not None
    assert not after_end(state, work.recovery, preemptions=0, retries=lab.notebook.value["retries"]).again


def test_a_job_is_started_again_until_its_life_is_over_all_attempts_together(lab: Desk) -> None:
    command = "[ $JOBDEPLOY_ATTEMPT = 1 ] || sleep 60; exit 3"
    spec = {"command": command, "restart_policy": "on-failure", "life_span": 3, "grace": 0}
    work = lab.run_spec(spec)
    first = lab.submit(work).handle
    state = lab.follow(first).state
    assert (state.exit_code, state.life_span_s) == (3, 3)
    assert state.running_s
    left_s = 3 - state.running_s
    second = again(lab, work, state).handle
    assert (second.attempt, second.worker) == (2, first.worker)
    state = lab.follow(second).state
    assert (state.status, state.reason, state.facts["limit"]) == (JobStatus.FAILED, "TimedOut", "life_span")
    assert state.life_span_s == pytest.approx(left_s)  # what the first had left
    assert [entry["reason"] for entry in state.history][1] == "Backoff"
    assert not after_end(state, work.recovery, preemptions=0, retries=1).again


def test_what_always_goes_on_is_started_again_after_a_success_and_not_after_a_stop(lab: Desk) -> None:
    work = lab.run_spec({"command": "[ $JOBDEPLOY_ATTEMPT = 1 ] || sleep 60", "restart_policy": "always", "grace": 0})
    first = lab.submit(work).handle
    state = lab.follow(first).state
    assert state.status is JobStatus.SUCCEEDED
    second = again(lab, work, state).handle
    lab.follow(second, until=lambda state: state.status is JobStatus.RUNNING)
    state = lab.stop(second)
    assert state.status is JobStatus.CANCELLED
    assert not after_end(state, work.recovery, preemptions=0, retries=1).again


def patient(project: Path) -> Path:
    """The training, but after its third epoch it waits until it is told to end: all of it takes a second."""
    shutil.copytree(CHARACTERS, project)
    text = (project / "main.py").read_text(encoding="utf-8")
    after = "        checkpoint.keep(model, options.seed, history)\n"
    waits = "        while epoch == 3 and not checkpoint.wanted:\n            time.sleep(0.05)\n"
    assert text.count(after) == 1
    (project / "main.py").write_text(text.replace(after, waits + after), encoding="utf-8")
    return project


def test_a_training_that_was_preempted_gives_the_same_model(lab: Desk, tmp_path: Path) -> None:
    spec = {"entry_script": "main.py", "args": "--epochs 12", "preemptible": True, "grace": 60}
    work = lab.run_spec(spec, project_dir=patient(tmp_path / "project"))
    first = lab.submit(work).handle
    until_logged(lab, first, "epoch  3/12")
    state = preempted(lab, first)
    assert state.facts["checkpointed"]
    second = again(lab, work, state).handle
    assert lab.follow(second).state.status is JobStatus.SUCCEEDED
    assert any("going on after epoch" in text for text in lab.log)
    lab.notebook.value = None
    whole = lab.submit(lab.run_spec(spec, project_dir=CHARACTERS)).handle
    assert lab.follow(whole).state.status is JobStatus.SUCCEEDED

    def model(handle: Any) -> Any:
        with lab.workers() as workers:
            [(_, content)] = [
                (file, stream.read())
                for file, stream in workers.backend(handle.worker).fetch(handle.job_id, ["model.json"])
            ]
        return json.loads(content)

    assert model(second) == model(whole)


def test_a_job_that_goes_on_elsewhere_runs_the_same_code_there(lab: Desk, tmp_path: Path) -> None:
    project = repository(tmp_path / "project", {"version": "first\n"})
    spec = {"command": f"cat version\n{SAVES}", "preemptible": True}
    first = lab.submit(lab.run_spec(spec, project_dir=project)).handle
    until_logged(lab, first, "begun")
    state = preempted(lab, first)
    write(project, {"version": "second\n"})
    commit(project, "second")
    kept, lab.notebook.value = lab.notebook.value, None
    other = lab.submit(lab.run_spec({"command": "sleep 60"})).handle
    lab.follow(other, until=lambda state: state.status is JobStatus.RUNNING)
    lab.notebook.value = kept
    lab.log.clear()
    second = again(lab, lab.run_spec(spec, project_dir=project, returning=True), state).handle
    assert (first.worker, second.worker) == ("a", "b")
    assert lab.follow(second).state.status is JobStatus.SUCCEEDED
    assert "\n".join(lab.log).split("\n") == ["first", "from step 7"], "made again of its commit, and sent to b"
    lab.stop(other)
