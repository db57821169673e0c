"""The kernel kills for memory: told apart from any other SIGKILL by the kernel's own count.

The test needs a memory cgroup of its own; where this machine gives none, there is nothing to be run: evidence.py reads
the same counters of whatever cgroup a job is in.
"""

from __future__ import annotations

import os
import shlex
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import evidence
from tests.hostside.client import Serve, shell

LIMIT = 128 << 20
V1 = Path("/sys/fs/cgroup/memory")


@pytest.mark.usefixtures("no_memory_kills")
def test_memory_of_this_host() -> None:
    limit, peak = evidence.memory_limit()
    assert 1 << 26 < limit <= evidence.host_memory()
    assert peak >= 0
    assert not evidence.was_oom(evidence.memory_reading(), evidence.memory_reading())


@pytest.mark.usefixtures("no_memory_kills")
def test_a_sigkill_by_hand_is_no_memory_kill(serve: Serve) -> None:
    assert serve.run(shell("kill -KILL $$"))["reason"] == "Signal"


if os.access(V1, os.W_OK) and os.geteuid() == 0:

    @pytest.fixture
    def cage() -> Iterator[Path]:
        """A memory cgroup with a limit."""
        folder = V1 / f"jd-test-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        (folder / "memory.limit_in_bytes").write_text(str(LIMIT))
        yield folder
        for pid in (folder / "cgroup.procs").read_text().split():
            (V1 / "cgroup.procs").write_text(pid)
        folder.rmdir()

    @pytest.mark.usefixtures("memory_kills")
    @pytest.mark.parametrize("prefix", ["exec ", "", "echo; "])
    def test_out_of_memory_is_told(connect, cage: Path, prefix: str) -> None:
        serve = connect()
        (cage / "cgroup.procs").write_text(str(serve.process.pid))
        program = "x = [bytearray(8 << 20) for _ in range(100)]"
        state = serve.run(shell(f"{prefix}{shlex.quote(sys.executable)} -S -c {shlex.quote(program)}"))
        serve.close()
        assert (state["status"], state["reason"]) == ("FAILED", "OutOfMemory"), state
        assert state["facts"]["memory_limit_bytes"] == LIMIT
        assert state["facts"]["memory_used_bytes"] > LIMIT * 0.8
