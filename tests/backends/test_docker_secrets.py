"""Secrets on their way into a container: in memory only, whoever dies meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Limits, Plan, new_uid
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError
from tests.backends.engines import backend_of, job, left
from tests.backends.engines import engine as engine
from tests.contract.steps import launch, log, outcome, wait_ready, wait_until
from tests.servers.dockerd import Dockerd

pytestmark = pytest.mark.docker

SHOW = 'echo "$TOKEN" | tr A-Z a-z; while :; do sleep 300; done'


def secret_job(secret: str, content: str = SHOW, **options: Any) -> Plan:
    return job(content, secret_env={"TOKEN": secret, "OTHER": "two\nlines\n"}, **options)


def new_secret() -> str:
    return "S3CRET" + new_uid().upper()


def holders(engine: Dockerd, secret: str) -> list[Path]:
    """Files of the engine, its containers and volumes that hold it."""
    paths = (Path(folder, name) for folder, _, names in os.walk(engine.dir / "data") for name in names)
    return [path for path in paths if secret.encode() in _content(path)]


def _content(path: Path) -> bytes:
    """The engine makes and removes files at any time."""
    try:
        return path.read_bytes() if path.is_file() and not path.is_symlink() else b""
    except FileNotFoundError:
        return b""


def started_and_left(engine: Dockerd, plan: Plan) -> Backend:
    """As by a submitter that was killed between the start and the secrets."""
    backend_of(engine).claim(plan)
    engine.client().start(plan.job_id)
    return backend_of(engine)


def state_of(backend: Backend, job_id: str) -> JobState:
    return backend.poll([job_id])[job_id]


def test_a_secret_lies_on_no_disk_at_any_time(engine: Dockerd) -> None:
    secret = new_secret()
    backend = backend_of(engine)
    plan = secret_job(secret)
    backend.claim(plan)
    assert holders(engine, secret) == []
    backend.start(plan.job_id)
    wait_ready(backend, plan.job_id)
    assert log(backend, plan.job_id).decode() == secret.lower() + "\n"
    assert holders(engine, secret) == []
    client = engine.client()
    assert secret not in json.dumps([client.inspect_container(plan.job_id), client.volumes()])
    backend.stop(plan.job_id, reason="seen", grace_s=0.1)
    outcome(backend, plan.job_id)
    assert holders(engine, secret) == []
    backend.forget(plan.job_id)
    assert left(engine) == []
    assert [volume for volume in client.volumes()["Volumes"] or () if (volume["Options"] or {}).get("type")] == []


def test_between_their_handing_over_and_process_1_they_lie_in_memory(engine: Dockerd) -> None:
    secret, client = new_secret(), engine.client()
    plan = secret_job(secret)
    backend = started_and_left(engine, plan)
    wait_until(backend, [plan.job_id], lambda s: s[plan.job_id].phase == "claimed")
    client.pause(plan.job_id)
    launch(backend, plan)
    disk = (engine.dir / "data").stat().st_dev
    lying = holders(engine, secret)
    assert lying, "the engine has them"
    assert [path for path in lying if path.stat().st_dev == disk] == []
    client.unpause(plan.job_id)
    wait_ready(backend, plan.job_id)
    assert holders(engine, secret) == []


def test_values_arrive_byte_for_byte(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = secret_job("a'b\"$HOME \\ é\n\n", 'printf "%s|%s|" "$TOKEN" "$OTHER"')
    assert outcome(backend, launch(backend, plan)).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id).decode() == "a'b\"$HOME \\ é\n\n|two\nlines\n|"


def test_another_submitter_hands_over_what_the_first_could_not(engine: Dockerd) -> None:
    secret = new_secret()
    plan = secret_job(secret)
    second = started_and_left(engine, plan)
    state = state_of(second, plan.job_id)
    assert (state.status, state.phase) == (JobStatus.PENDING, "claimed")
    launch(second, plan)
    wait_ready(second, plan.job_id)
    assert log(second, plan.job_id).decode() == secret.lower() + "\n"


def test_the_end_of_the_log_is_told_without_them(engine: Dockerd) -> None:
    """Who submitted it knows what to leave out; who does not tells none of it."""
    secret, backend = new_secret(), backend_of(engine)
    plan = secret_job(secret, 'echo "cannot log in with $TOKEN" >&2; exit 3')
    told = [outcome(backend, launch(backend, plan)), state_of(backend_of(engine), plan.job_id)]
    assert [state.exit_code for state in told] == [3, 3]
    assert "cannot log in with" in told[0].message
    assert secret not in json.dumps([state.to_dict() for state in told])


def test_a_start_needs_the_secrets(engine: Dockerd) -> None:
    plan = secret_job(new_secret())
    backend_of(engine).claim(plan)
    with pytest.raises(WorkerError, match="claim it again"):
        backend_of(engine).start(plan.job_id)


def test_nobody_comes_with_the_secrets(engine: Dockerd) -> None:
    bounded = secret_job(new_secret(), limits=Limits(setup_timeout_s=1.5))
    stopped = secret_job(new_secret(), limits=Limits(setup_timeout_s=600))
    backend = started_and_left(engine, bounded)
    started_and_left(engine, stopped)
    backend.stop(stopped.job_id, reason="enough")
    assert outcome(backend, stopped.job_id).status is JobStatus.CANCELLED
    state = outcome(backend, bounded.job_id)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.TIMED_OUT)
    assert "setup_timeout" in state.message


def test_who_waits_for_a_slot_keeps_its_secrets_in_memory(engine: Dockerd) -> None:
    secret = new_secret()
    backend = backend_of(engine)
    first, second = (secret_job(secret, slots=1, worker_pool="p") for _ in range(2))
    late = secret_job(secret, slots=1, worker_pool="p", limits=Limits(schedule_timeout_s=1.0))
    for plan in (first, second, late):
        launch(backend, plan)
    wait_ready(backend, first.job_id)
    wait_until(backend, [second.job_id], lambda states: states[second.job_id].reason == Reason.QUEUED)
    backend.close()
    assert holders(engine, secret) == []
    other = backend_of(engine)  # a triggerer, which has no secrets
    state = outcome(other, late.job_id)
    assert (state.reason, "schedule_timeout" in state.message) == (Reason.TIMED_OUT, True)
    assert state_of(other, second.job_id).log_bytes == 0
    other.stop(first.job_id, reason="make room", grace_s=0.1)
    wait_ready(other, second.job_id)
    assert log(other, second.job_id).decode() == secret.lower() + "\n"
    assert state_of(other, second.job_id).status is JobStatus.RUNNING
