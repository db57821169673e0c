"""Roots that are full, read-only, noexec or not ours: a sentence, or the job's own true outcome."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.core.plan import Step
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Refused, Serve, plan, shell
from tests.hostside.test_stop import running, supervisor

#: Mounting takes root; elsewhere sudo, where it asks for no password.
AS_ROOT = () if os.geteuid() == 0 else ("sudo", "-n")
SIZE = 4 << 20


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 4 MiB of its own."""
    point = tmp_path / "small"
    point.mkdir()
    options = f"size={SIZE},noexec,mode=0700,uid={os.getuid()}"
    if not as_root("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(point)):
        pytest.skip("cannot mount a small filesystem: neither root nor sudo without a password")
    yield point
    as_root("umount", "-l", str(point))


def as_root(*command: str) -> bool:
    try:
        return subprocess.run([*AS_ROOT, *command], check=False).returncode == 0
    except OSError:  # no sudo
        return False


def fill(point: Path, leave: int = 0) -> Path:
    """Take all space but `leave` bytes."""
    path = point / "ballast"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
        file.truncate(max(0, file.tell() // 4096 * 4096 - leave))
    return path


@pytest.fixture
def full(connect, small: Path) -> Serve:
    return connect(small / "root")


def test_the_command_gets_enospc_and_the_outcome_says_so(full: Serve, small: Path) -> None:
    state = full.run(shell("head -c 9000000 /dev/zero"))
    assert (state["status"], state["reason"]) == ("FAILED", "DiskFull")
    assert state["facts"]["disk_free_bytes"] < 65536
    assert str(small) in state["facts"]["disk_path"]
    assert state["exit_code"] == 1
    assert b"\0" * 1000 in full.log(state["job_id"])


@pytest.mark.parametrize("code", [0, 7])
def test_the_exit_record_fits_on_a_full_disk(full: Serve, small: Path, tmp_path: Path, code: int) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    job = full.launch(shell(f"echo said; read x < '{gate}'; exit {code}"))
    full.until(job, running)
    fill(small)
    gate.write_text("go\n")
    state = full.end(job)
    assert state["exit_code"] == code
    assert state["reason"] == ("DiskFull" if code else "")
    assert state["facts"]["last_lines"] == "said"
    assert "manifest could not be written" in state["facts"]["manifest_error"]


def test_a_job_on_a_full_disk_is_stopped(full: Serve, small: Path) -> None:
    job = full.launch(shell("echo said; sleep 600"))
    full.until(job, running)
    fill(small)
    full.stop(job)
    assert full.end(job)["status"] == "CANCELLED"


def test_a_claim_on_a_full_disk_is_refused_and_leaves_nothing(full: Serve, small: Path) -> None:
    ballast = fill(small, leave=16384)
    with pytest.raises(Refused, match=r"disk-full: the disk of .* is full") as caught:
        full.claim(shell("true"))
    assert "free some space" in str(caught.value)
    host = HostPaths(str(small / "root"), full.facts["machine"])
    assert not os.listdir(host.incoming)
    ballast.unlink()
    assert full.run(shell("true"))["status"] == "SUCCEEDED"


def test_a_life_is_not_lengthened_on_a_full_disk_and_that_is_said(full: Serve, small: Path) -> None:
    job = full.launch(shell("echo said; sleep 600", limits={"life_span_s": 600}))
    full.until(job, running)
    ballast = fill(small)
    with pytest.raises(Refused, match=r"disk-full: the disk of .* is full"):
        full.ask("extend", job=job, seconds=60, token="a")
    assert full.state(job)["life_span_s"] == 600
    ballast.unlink()
    assert full.ask("extend", job=job, seconds=60, token="a")["state"]["life_span_s"] == 660
    full.stop(job, grace_s=0)


def test_a_supervisor_killed_on_a_full_disk_is_still_told(full: Serve, small: Path) -> None:
    job = full.launch(shell("echo said; sleep 600"))
    full.until(job, running)
    fill(small)
    host = HostPaths(str(small / "root"), full.facts["machine"])
    os.kill(supervisor(host, job), 9)
    assert full.end(job)["reason"] == "ProcessLost"


def test_noexec_runs_scripts_by_their_shebang(full: Serve) -> None:
    assert full.facts["extra"]["noexec"] is True
    step = Step(name="go", kind="script", path="go", content="#!/usr/bin/env bash\necho ran ${BASH_VERSION:+bash}")
    state = full.run(plan((step,)))
    assert full.log(state["job_id"]) == b"ran bash\n"


def test_hello_on_a_full_disk_says_so(connect, small: Path) -> None:
    fill(small)
    with pytest.raises(Refused, match="disk-full"):
        connect(small / "root").ask("bye")


def test_hello_on_a_read_only_root_says_so(connect, small: Path) -> None:
    assert as_root("mount", "-o", "remount,ro", str(small))
    with pytest.raises(Refused, match=r"read-only: .*set another root"):
        connect(small / "root")


def test_a_root_that_is_a_file_is_named(connect, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="file"):
        connect(tmp_path / "file")


def test_a_root_of_another_user_is_refused_in_words(connect, tmp_path: Path) -> None:
    wrap = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o700 if wrap else 0o000)
    with pytest.raises(Refused, match="Permission denied"):
        connect(locked / "root", wrap=wrap, python="/usr/bin/python3")
