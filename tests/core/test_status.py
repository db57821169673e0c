"""States, handles and the sentence for people."""

from __future__ import annotations

import json

import pytest

from airflow_jobdeploy.core.status import JobHandle, JobState, JobStatus
from airflow_jobdeploy.core.words import counted, duration, size


def said(**wire: object) -> str:
    return JobState.from_wire({"job_id": "j1", **wire}).message


@pytest.mark.parametrize(
    ("wire", "sentence"),
    [
        (
            {
                "status": "FAILED",
                "reason": "ExitCode",
                "exit_code": 3,
                "running_s": 12.2,
                "facts": {"last_lines": "a\nb"},
            },
            "Exit code 3 after 12 s; last lines:\na\nb",
        ),
        (
            {"status": "FAILED", "reason": "ExitCode", "exit_code": 1, "step": "install", "running_s": 1},
            "Exit code 1 in build 'install' after 1.0 s",
        ),
        (
            {
                "status": "FAILED",
                "reason": "OutOfMemory",
                "running_s": 870,
                "facts": {"memory_used_bytes": 61.9 * 2**30, "memory_limit_bytes": 62 * 2**30},
            },
            "Killed by the kernel: out of memory at 61.9 of 62.0 GiB, 14 min in",
        ),
        (
            {"status": "FAILED", "reason": "TimedOut", "facts": {"limit": "timeout", "limit_s": 7200}},
            "Stopped by its timeout of 2 h",
        ),
        (
            {
                "status": "FAILED",
                "reason": "DiskFull",
                "exit_code": 1,
                "facts": {"disk_path": "/data", "disk_free_bytes": 0},
            },
            "The disk of /data is full (0 bytes free); exit code 1",
        ),
        (
            {"status": "FAILED", "reason": "DiskFull", "facts": {"disk_path": "/data", "disk_free_bytes": 4096}},
            "The disk of /data is full (4.0 KiB free); the command could not be started",
        ),
        (
            {"status": "SUCCEEDED", "running_s": 5, "facts": {"result_error": "the result file is not JSON: x"}},
            "Succeeded after 5.0 s; the result file is not JSON: x.",
        ),
        (
            {
                "status": "CANCELLED",
                "reason": "Cancelled",
                "facts": {"stopped_by": "ann", "stop_reason": "marked failed"},
            },
            "Stopped by ann: marked failed",
        ),
        ({"status": "SUCCEEDED", "running_s": 4000}, "Succeeded after 1 h 6 min."),
        ({"status": "PENDING", "reason": "Queued"}, "Waiting for a free slot on the worker"),
    ],
)
def test_the_sentence(wire: dict, sentence: str) -> None:
    assert said(**wire) == sentence


def test_a_status_of_a_newer_host_is_unknown_and_new_fields_are_left_out() -> None:
    state = JobState.from_wire({"job_id": "j1", "status": "HIBERNATED", "field_of_tomorrow": 1})
    assert state.status is JobStatus.UNKNOWN
    assert not state.status.is_finished


def test_a_state_survives_json() -> None:
    state = JobState.from_wire({"job_id": "j1", "status": "FAILED", "history": [{"status": "PENDING", "ago_s": 3}]})
    assert JobState.from_wire(json.loads(json.dumps(state.to_dict()))) == state


@pytest.mark.parametrize("character", ["x", "\n", "é", "😀"])
def test_a_handle_stays_small_and_survives_json(character: str) -> None:
    handle = JobHandle(uid="u" * 32, job_id="j1", attempt=1, key="d/run", worker_pool="lab", worker="gpu-a")
    handle = handle.with_state(JobState(job_id="j1", status=JobStatus.FAILED, message=character * 100_000))
    assert len(json.dumps(handle.to_dict())) < 4096
    assert JobHandle.from_dict(json.loads(json.dumps(handle.to_dict()))) == handle


@pytest.mark.parametrize("bad", [{}, {"uid": "u"}, {"uid": "u", "job_id": "j", "worker_pool": "p", "version": 2}])
def test_what_is_no_handle_says_so(bad: dict) -> None:
    with pytest.raises(ValueError, match=r"not a job handle|newer release"):
        JobHandle.from_dict(bad)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59, "59 s"), (600, "10 min"), (200000, "2 d 7 h"), (7 * 86400, "7 d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(5, "5 bytes"), (2048, "2.0 KiB"), (3 * 2**40, "3.0 TiB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


def test_counts() -> None:
    assert [counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
