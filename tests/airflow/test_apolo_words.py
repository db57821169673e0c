"""What Apolo's values mean here, and which words their history has: without a worker."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from yarl import URL

from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.pool import load_pool
from airflow_jobdeploy.core.records import JobFilter
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.standing import WorkerView
from airflow_jobdeploy.core.status import JobState, JobStatus
from airflow_jobdeploy.hooks.apolo import Container, JobPriority, Parser, Resources, Volume
from airflow_jobdeploy.hooks.apolo.asking import Asked
from airflow_jobdeploy.hooks.apolo.counting import MOST, capacity
from airflow_jobdeploy.hooks.apolo.telling import described, past, word

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("status", "reason", "facts", "attempt", "told"),
    [
        ("PENDING", "Staging", {}, 1, "Creating"),
        ("PENDING", "Staging", {}, 2, "Restarting"),
        ("PENDING", "Queued", {}, 1, "Scheduling"),
        ("PENDING", "Setup", {}, 1, "ContainerCreating"),
        ("PENDING", "Backoff", {}, 2, "Restarting"),
        ("RUNNING", "", {}, 1, "ContainerRunning"),
        ("SUCCEEDED", "", {}, 1, ""),
        ("FAILED", "ExitCode", {}, 1, "Error"),
        ("FAILED", "OutOfMemory", {}, 1, "OOMKilled"),
        ("FAILED", "Setup", {}, 1, "ContainerCannotRun"),
        ("FAILED", "TimedOut", {"limit": "life_span"}, 1, "LifeSpanEnded"),
        ("FAILED", "TimedOut", {"limit": "schedule_timeout"}, 1, "ClusterScaleUpFailed"),
        ("FAILED", "TimedOut", {"limit": "timeout"}, 1, "TimedOut"),
        ("CANCELLED", "Cancelled", {}, 1, "UserRequested"),
        ("SUSPENDED", "Preempted", {}, 1, "Preempted"),
        ("UNKNOWN", "Unreachable", {}, 1, "Unreachable"),
    ],
)
def test_reasons_are_apolos_where_it_has_a_word(
    status: str, reason: str, facts: dict[str, Any], attempt: int, told: str
) -> None:
    assert word(JobStatus(status), reason, facts, attempt=attempt) == told


def test_statuses_are_apolos_in_any_case() -> None:
    assert JobStatus("running") is JobStatus.RUNNING
    assert JobStatus.PENDING.is_pending
    assert JobStatus.SUSPENDED.is_pending
    assert not JobStatus.UNKNOWN.is_finished
    with pytest.raises(ValueError, match="exploded"):
        JobStatus("exploded")


@pytest.mark.parametrize("text", ["python:3.12", "reg.example:5000/team/x:1", "library/python:3"])
def test_images_are_written_as_engines_know_them(text: str) -> None:
    assert str(Parser().remote_image(text)) == text


def test_images_have_parts_and_a_default_tag() -> None:
    image = Parser().remote_image("reg.example:5000/team/x")
    assert (image.registry, image.name, image.tag) == ("reg.example:5000", "team/x", "latest")
    pinned = Parser().remote_image("x@sha256:" + "0" * 64)
    assert (pinned.tag, pinned.digest) == (None, "sha256:" + "0" * 64)


@pytest.mark.parametrize("text", ["", "-x", "Ubuntu", "a:b:c:d", "image:mine", "x:" + "t" * 129])
def test_what_is_no_image_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="image"):
        Parser().remote_image(text)


@pytest.mark.parametrize(
    ("uri", "place", "said"),
    [
        ("dissk:x", "/mnt", "Invalid scheme 'dissk:' (only 'storage:' is allowed)"),
        ("storage:a#b", "/mnt", "Fragment part is not allowed in storage URI"),
        ("x", "/mnt", "URI Scheme not specified. Please specify one of storage."),
        ("storage:../x", "/mnt", "leaves its folder"),
        ("storage:x", "mnt", "is not absolute"),
    ],
)
def test_a_wrong_volume_is_an_error_in_apolos_words(uri: str, place: str, said: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is what is looked at
        Volume(storage_uri=uri, container_path=place)
    assert said in str(caught.value)


def test_memory_is_bytes_or_mb() -> None:
    assert Resources(memory_mb=100, cpu=0.5) == Resources(memory=100 * 2**20, cpu=0.5)
    assert Resources(memory=3 * 2**20).memory_mb == 3
    with pytest.raises(ValueError, match="give one of them"):
        Resources(memory=1, memory_mb=100)


def test_resources_become_fields_of_a_job_spec() -> None:
    container = Container(
        image="python:3.12",
        resources=Resources(memory_mb=100, cpu=0.5, gpu=2, gpu_model="A100"),
        entrypoint="python -m",
        command="train --name 'my model; $HOME'",
        volumes=[Volume(storage_uri=URL("storage:folder"), container_path="/var/data")],
    )
    asked = Asked(container=container, preset_name="gpu", priority=JobPriority.HIGH, life_span=0.0, preemptible=True)
    spec = load_spec(asked.spec(kind="docker"))
    assert spec.args == ("python", "-m", "train", "--name", "my model; $HOME")
    assert (spec.memory_bytes, spec.cpu_count, spec.shm_size_bytes) == (100 << 20, 0.5, 100 << 20)
    assert [(gpu.type, gpu.count) for gpu in spec.gpu_types] == [("A100", 2)]
    assert (spec.preset, spec.priority, spec.life_span_s) == ("gpu", "high", None)
    assert (spec.preemptible, spec.on_orphan) == (True, "continue")
    assert [volume.path for volume in spec.volumes] == ["folder"]
    assert load_spec(asked.spec(kind="ssh")).shm_size_bytes is None  # a host's /dev/shm is its own


def record(attempt: int, status: str, reason: str, ages: tuple[float, ...], **state: Any) -> dict[str, Any]:
    words = [("PENDING", "Staging"), ("RUNNING", ""), (status, reason)]
    history = tuple({"status": s, "reason": r, "ago_s": ago} for (s, r), ago in zip(words, ages, strict=True))
    told = JobState(job_id=f"j{attempt}", status=JobStatus(status), reason=reason, attempt=attempt, uid="u" * 32)
    spec = {"tags": ["a", "b"], "job_name": "train"}
    plan = {"uid": "u" * 32, "attempt": attempt, "job_id": f"j{attempt}", "name": "train"}
    return {
        "worker": "w",
        "plan": {**plan, "description": {"spec": spec, "user": "ann"}},
        "state": {**told.to_dict(), "history": history, **state},
    }


def test_a_history_is_of_all_attempts() -> None:
    first = record(1, "FAILED", "ExitCode", (100, 90, 50), running_s=40.0, life_span_s=600.0, exit_code=3)
    second = record(2, "SUCCEEDED", "", (45, 40, 10), running_s=30.0, life_span_s=560.0, exit_code=0)
    job = described(second, past([second, first], NOW), pool="lab", now=NOW)
    assert job.history.created_at == NOW - timedelta(seconds=100)
    assert job.history.started_at == NOW - timedelta(seconds=90)
    assert job.history.finished_at == job.history.changed_at == NOW - timedelta(seconds=10)
    assert (job.history.restarts, job.history.run_time_seconds, job.life_span) == (1, 70, 600.0)
    assert [(item.status.value, item.reason, item.exit_code) for item in job.history.transitions] == [
        ("PENDING", "Creating", None),
        ("RUNNING", "ContainerRunning", None),
        ("FAILED", "Error", 3),
        ("PENDING", "Restarting", None),
        ("RUNNING", "ContainerRunning", None),
        ("SUCCEEDED", "", 0),
    ]
    assert job.uri.startswith("job://lab/ann/j")


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (JobFilter(), True),
        (JobFilter(statuses=frozenset({JobStatus.FAILED})), True),
        (JobFilter(statuses=frozenset({JobStatus.RUNNING})), False),
        (JobFilter(name="train", tags=frozenset({"a"}), owners=frozenset({"ann", "ben"})), True),
        (JobFilter(tags=frozenset({"a", "c"})), False),
        (JobFilter(owners=frozenset({"ben"})), False),
        (JobFilter(name="trai"), False),
        (JobFilter(youngest_s=90, oldest_s=110), True),
        (JobFilter(youngest_s=101), False),
        (JobFilter(oldest_s=99), False),
    ],
)
def test_filters_hold_together(wanted: JobFilter, taken: bool) -> None:
    assert wanted.takes(record(1, "FAILED", "ExitCode", (100, 90, 50))) is taken


def view(name: str, cpu: float, *gpus: str, leases: tuple[dict[str, Any], ...] = (), **facts: Any) -> WorkerView:
    found = [{"index": n, "uuid": f"{name}-{n}", "model": m, "memory_bytes": 80 << 30} for n, m in enumerate(gpus)]
    room = Room(capacity={"cpu": cpu, "memory": 64 << 30, "gpus": found}, leases=leases)
    return WorkerView(name=name, room=room, **facts)


def test_capacity_counts_what_would_start_at_once() -> None:
    presets = {
        "small": {"cpu": 2},
        "gpu": {"cpu": 1, "gpu_types": [{"type": "A100", "count": 1}]},
        "pair": {"gpu_types": [{"type": "A100", "count": 2}]},
        "giant": {"memory": "1TB"},
        "anything": {},
    }
    pool = load_pool({"kind": "ssh", "workers": [{"conn_id": "a"}, {"conn_id": "b"}], "presets": presets})
    held = {"id": "1", "gpus": ["a-0"], "cpu": 1.0, "memory": 0, "disk": 0}
    both = [view("a", 4, "A100", "A100", "A100", leases=(held,)), view("b", 8)]
    assert capacity(pool, both) == {"small": 5, "gpu": 2, "pair": 1, "giant": 0, "anything": 2 * MOST}
    away = [WorkerView(name="a", trouble="no route"), view("b", 8, cordoned="ann: repairs")]
    assert capacity(pool, away) == dict.fromkeys(presets, 0)
