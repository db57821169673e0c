"""The pure parts: verdicts from evidence, last lines of a log, names, frames."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.hostside import kernel, layout, logs, protocol, verdict
from airflow_jobdeploy.hostside.verdict import Evidence

FULL = {"disk_free_bytes": 0, "disk_path": "/d"}
OOM = {"memory_used_bytes": 9, "memory_limit_bytes": 10}
STOP = {"reason": "r", "by": "b"}
LIMIT = {"limit": "timeout", "limit_s": 1.0}


@pytest.mark.parametrize(
    ("seen", "status", "reason"),
    [
        (Evidence(status=0, is_ok=True), "SUCCEEDED", ""),
        (Evidence(status=4, is_ok=True), "SUCCEEDED", ""),
        (Evidence(status=3), "FAILED", "ExitCode"),
        (Evidence(status=-11), "FAILED", "Signal"),
        (Evidence(status=-9, memory=OOM), "FAILED", "OutOfMemory"),
        (Evidence(status=137, memory=OOM), "FAILED", "OutOfMemory"),
        (Evidence(status=-9), "FAILED", "Signal"),
        (Evidence(status=1, memory=OOM), "FAILED", "ExitCode"),
        (Evidence(status=0, is_ok=True, memory=OOM, disk=FULL), "SUCCEEDED", ""),
        (Evidence(status=1, disk=FULL), "FAILED", "DiskFull"),
        (Evidence(status=-9, memory=OOM, disk=FULL), "FAILED", "OutOfMemory"),
        (Evidence(setup="no sh"), "FAILED", "Setup"),
        (Evidence(setup="no space", disk=FULL), "FAILED", "DiskFull"),
        (Evidence(status=-15, limit=LIMIT), "FAILED", "TimedOut"),
        (Evidence(status=0, is_ok=True, stop=STOP), "CANCELLED", "Cancelled"),
        (Evidence(status=-9, stop=STOP, memory=OOM), "CANCELLED", "Cancelled"),
    ],
)
def test_verdicts(seen: Evidence, status: str, reason: str) -> None:
    found = verdict.judge(seen)
    assert (found["status"], found["reason"]) == (status, reason)
    assert found["message"] == (seen.setup if reason == "Setup" else "")


def test_a_verdict_brings_its_facts() -> None:
    found = verdict.judge(Evidence(status=137, memory=OOM, facts={"last_lines": "x", "hint": ""}))
    assert found["facts"] == {"last_lines": "x", **OOM}
    assert (found["exit_code"], found["signal"]) == (137, None)
    assert verdict.judge(Evidence(status=-34))["signal"] == "SIGRTMIN"


@pytest.mark.parametrize(
    ("name", "number"), [("SIGINT", 2), ("int", 2), ("9", 9), (9, 9), ("nonsense", 15), ("", 15), ("Signals", 15)]
)
def test_signal_numbers(name: object, number: int) -> None:
    assert verdict.signal_number(name) == number


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", ""),
        (b"1\n2\n3\n4\n5\n6\n\n", "2\n3\n4\n5\n6"),
        (b"10%\r50%\r100%\r\n", "100%"),
        (b"\x1b[31mred\x1b[0m \x07bell", "red bell"),
        (b"\xff\xc3", "\ufffd\ufffd"),
        ("é".encode()[1:] + "é\n".encode(), "\ufffdé"),
    ],
)
def test_last_lines(data: bytes, lines: str) -> None:
    assert logs.last_lines(data) == lines


@given(st.binary(max_size=5000))
def test_last_lines_are_bounded_text(data: bytes) -> None:
    found = logs.last_lines(data)
    assert len(found.encode()) <= logs.LAST_BYTES
    assert len(found.split("\n")) <= logs.LAST_LINES
    assert all(character in "\n\t" or character.isprintable() or ord(character) >= 0xA0 for character in found)


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(min_value=1, max_value=50))
def test_frames_come_back_however_they_are_cut(blobs: list[bytes], size: int) -> None:
    reader = protocol.Reader()
    stream = b"".join(protocol.pack(b"B", blob) for blob in blobs) + protocol.pack_json({"id": 1, "text": "x" * 70_000})
    found = [frame for start in range(0, len(stream), size) for frame in reader.feed(stream[start : start + size])]
    assert found == [*((b"B", blob) for blob in blobs), (b"J", {"id": 1, "text": "x" * 70_000})]
    assert not reader.partial


@given(st.text())
def test_only_names_of_ours_become_paths(text: str) -> None:
    host = layout.HostPaths("/r", "m1")
    assert host.pool_slots(text).startswith("/r/hosts/m1/slots/")
    assert host.pool_slots(text).count("/") == 5
    if not layout.is_name(text):
        with pytest.raises(ValueError, match="not a name of ours"):
            host.job(text)


def test_temporary_paths_are_short_and_belong_to_one_root() -> None:
    one, other = (layout.HostPaths(root, "m1").temporary(65534, "r" * 40) for root in ("/a", "/b"))
    assert one != other
    assert len(one) < 30


def test_only_a_pipe_is_widened(tmp_path: Path) -> None:
    reads, writes = os.pipe()
    with os.fdopen(reads, "rb"), os.fdopen(writes, "wb"), (tmp_path / "file").open("wb") as file:
        assert kernel.widen_pipe(reads)
        assert fcntl.fcntl(reads, fcntl.F_GETPIPE_SZ) == 1024 * 1024
        assert not kernel.widen_pipe(file.fileno())
