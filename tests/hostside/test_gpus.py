"""What a host says of its GPUs: read from tools that may be missing, wrong, slow or hung."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import gpus, smi
from airflow_jobdeploy.hostside.gpus import Gpus
from tests.faults.processes import eventually, pids
from tests.hostside.client import Serve
from tests.servers.gpus import FakeGpus

MIB = 1024 * 1024
#: Sessions that wait for what a tool says, however busy the machine is.
PATIENT = "from airflow_jobdeploy.hostside import facts; facts._GPU_WAIT_S = 60.0"
A, B = "GPU-5c3e0d3a-0000-4000-8000-000000000001", "GPU-5c3e0d3a-0000-4000-8000-000000000002"


@pytest.fixture
def fake(tmp_path: Path) -> FakeGpus:
    return FakeGpus(tmp_path / "bin")


def _read(text: str, apps: str = "", code: int = 0) -> smi.Seen:
    return smi.READERS["nvidia-smi"].read([text, apps], [code, 0])


def test_a_worker_tells_its_gpus_and_their_driver(connect, fake: FakeGpus) -> None:
    facts = connect(env={**os.environ, "PATH": f"{fake.folder}:{os.environ['PATH']}"}, prelude=PATIENT).facts
    assert [(gpu["index"], gpu["uuid"], gpu["model"]) for gpu in facts["gpus"]] == [
        (0, fake.uuids[0], "NVIDIA H200"),
        (1, fake.uuids[1], "NVIDIA H200"),
    ]
    assert facts["gpus"][0]["memory_bytes"] == 143771 * MIB
    assert facts["driver"] == "570.00"


def test_a_later_session_asks_no_slow_tool_again(connect, fake: FakeGpus) -> None:
    env = {**os.environ, "PATH": f"{fake.folder}:{os.environ['PATH']}"}
    connect(env=env, prelude=PATIENT)
    asked = fake.times_asked
    fake.hang()
    assert len(connect(env=env).facts["gpus"]) == 2
    assert fake.times_asked == asked


def test_a_hung_tool_holds_no_session_up_and_is_not_left_behind(connect, fake: FakeGpus) -> None:
    fake.hang()
    begun = time.monotonic()
    session: Serve = connect(env={**os.environ, "PATH": f"{fake.folder}:{os.environ['PATH']}"})
    assert time.monotonic() - begun < gpus.HUNG_S - 3
    assert session.facts["gpus"] == []
    assert any("nvidia-smi has run for" in text for text in session.facts["warnings"])
    children = [pid for pid in pids() if _parent(pid) == session.process.pid]
    assert len(children) == 2
    session.close()
    eventually(lambda: all(not Path(f"/proc/{pid}").exists() or _parent(pid) == 1 for pid in children))
    eventually(lambda: not any(b"100000" in _line(pid) for pid in children))


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_what_hangs_is_killed_in_the_end(fake: FakeGpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "HUNG_S", 0.3)
    fake.hang()
    watched = Gpus(str(fake.folder))
    found, why = watched.look(30.0)
    assert found is None
    assert "has not answered" in why
    assert "driver hung?" in why
    fake.recover()
    monkeypatch.undo()
    found, why = watched.look(30.0, fresh_s=0)
    assert found is not None, why
    assert len(found.gpus) == 2


def test_a_host_without_tools_has_no_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_BESIDE", ())
    assert Gpus(str(tmp_path)).look(0.0) == (smi.Seen([], "", {}), "")


def test_a_driver_that_fails_is_no_host_without_gpus(fake: FakeGpus) -> None:
    fake.fail("Failed to initialize NVML: Driver/library version mismatch")
    found, why = Gpus(str(fake.folder)).look(30.0)
    assert found is None
    assert "Driver/library version mismatch" in why


def test_the_processes_of_a_gpu_are_seen_with_user_and_memory(fake: FakeGpus) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        fake.use((1, sleeper.pid), (1, sleeper.pid), memory="[N/A]")
        seen = Gpus(str(fake.folder))
        found, _ = seen.look(30.0)
        assert found is not None
        [entry] = found.processes[fake.uuids[1]]
        assert (entry["pid"], entry["user"], entry["memory_bytes"]) == (sleeper.pid, "root", None)
        assert gpus.still_there(entry)
    finally:
        sleeper.kill()
        sleeper.wait()
    assert not gpus.still_there(entry)


def test_one_that_is_not_to_be_seen_is_believed(fake: FakeGpus) -> None:
    fake.use((0, 4_000_000))
    found, _ = Gpus(str(fake.folder)).look(30.0)
    assert found is not None
    [entry] = found.processes[fake.uuids[0]]
    assert entry["user"] == ""
    assert gpus.still_there(entry)


_ELSEWHERE = """
import json, os, sys
from airflow_jobdeploy.hostside import capacity
os.setgid(60178); os.setuid(60178)
held = {"gpus": ["GPU-0"], "uid_number": 60178, "job": "j", "pid": 7}
for uid in (0, 60178):
    used = {"GPU-0": [{"pid": os.getppid(), "name": "python", "user": "", "uid": uid}]}
    print(len(capacity.outsiders(used, [held])))
"""


@pytest.mark.netns
def test_whose_process_may_not_be_read_is_judged_by_its_account() -> None:
    """Whether it belongs to the job that holds the GPU is not to be seen."""
    told = subprocess.run([sys.executable, "-c", _ELSEWHERE], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["1", "0"]


def test_what_is_not_told_is_not_made_up() -> None:
    seen = _read(f"1, {B}, [N/A], 570.00, [N/A], [Unknown Error]\n0, {A}, 80000, 570.00, Enabled, NVIDIA A100\n")
    assert [(gpu["index"], gpu["memory_bytes"], gpu["mig"], gpu["model"]) for gpu in seen.gpus] == [
        (0, 80000 * MIB, True, "NVIDIA A100"),
        (1, None, False, ""),
    ]


def test_a_name_may_hold_a_comma() -> None:
    seen = _read(f"0, {A}, 1, 1, Disabled, NVIDIA X, the second", f"{A}, 7, 12, python -c 'a, b'\n")
    assert seen.gpus[0]["model"] == "NVIDIA X, the second"
    assert seen.processes == {A: [{"pid": 7, "name": "python -c 'a, b'", "memory_bytes": 12 * MIB}]}


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", 0),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9),
        ('Field "mig.mode.current" is not a valid field to query.', 2),
        ("0, ../../etc/passwd, 1, 1, Disabled, x", 0),
        (f"zero, {A}, 1, 1, Disabled, x", 0),
        (f"0, GPU-{'a' * 60}, 1, 1, Disabled, x", 0),
        ("0, GPU-\u00e4, 1, 1, Disabled, x", 0),
        ("\x00\xff" * 100, 0),
        (f"0, {A}", 0),
    ],
)
def test_what_names_no_gpu_is_an_error(text: str, code: int) -> None:
    with pytest.raises(ValueError, match=r"."):
        _read(text, code=code)


def test_warnings_between_the_lines_do_no_harm() -> None:
    apps = f"WARNING: infoROM is corrupted\n{A}, [N/A], 3, x\n{A}, -1, 3, x\n{A}, 12, [Not Supported], x\nbad\n"
    seen = _read(f"WARNING: infoROM is corrupted at gpu 0000:00\n0, {A}, 5, 1, Disabled, x\n", apps)
    assert [gpu["uuid"] for gpu in seen.gpus] == [A]
    assert seen.processes == {A: [{"pid": 12, "name": "x", "memory_bytes": None}]}


def test_no_devices_is_no_error() -> None:
    assert _read("No devices were found\n", code=6).gpus == []


ROCM = """WARNING: AMD GPU device(s) is/are in a low-power state.
{"card1": {"Unique ID": "0x9246b1ff9e4b2a01", "Card series": "AMD Instinct MI300X",
           "VRAM Total Memory (B)": "206141652992", "VRAM Total Used Memory (B)": "297"},
 "card0": {"Unique ID": "0xDEADBEEF", "Card model": "N/A", "GFX Version": "gfx942", "VRAM Total Memory (B)": "?"},
 "card2": {"Unique ID": "N/A"}, "system": {"Driver version": "6.7.0"}}
"""


def test_amd_gpus_are_read_from_json() -> None:
    seen = smi.READERS["rocm-smi"].read([ROCM], [0])
    assert seen.driver == "6.7.0"
    assert [(gpu["index"], gpu["uuid"], gpu["model"], gpu["memory_bytes"]) for gpu in seen.gpus] == [
        (0, "GPU-deadbeef", "gfx942", None),
        (1, "GPU-9246b1ff9e4b2a01", "AMD Instinct MI300X", 206141652992),
    ]


@pytest.mark.parametrize("text", ["[1, 2]", "{", "no module rocm", '{"a": [' * 10000])
def test_amd_nonsense_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        smi.READERS["rocm-smi"].read([text], [1])
