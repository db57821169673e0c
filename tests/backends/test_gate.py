"""At most so many handshakes at a time, across processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.gate import connecting
from airflow_jobdeploy.errors import WorkerError


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_stock_sshd_lets_ten_wait_and_eight_come_at_once() -> None:
    through = threading.Event()

    def come_ninth() -> None:
        with connecting("w"):
            through.set()

    ninth = threading.Thread(target=come_ninth)
    with contextlib.ExitStack() as held:
        for _ in range(8):
            held.enter_context(connecting("w"))
        ninth.start()
        assert not through.wait(0.3)
    assert through.wait(10)
    ninth.join(10)


def test_no_more_than_the_width_at_once() -> None:
    inside, most, lock = 0, 0, threading.Lock()
    first_are_in, go = threading.Barrier(4), threading.Event()

    def enter(number: int) -> None:
        nonlocal inside, most
        with connecting("w; rm -rf /", width=3):
            with lock:
                inside += 1
                most = max(most, inside)
            if number < 3:
                first_are_in.wait(60)
                go.wait(60)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    first_are_in.wait(60)
    late = [threading.Thread(target=enter, args=(number,)) for number in range(3, 10)]
    for thread in late:
        thread.start()
    go.set()
    for thread in (*threads, *late):
        thread.join(60)
    assert most == 3
    assert inside == 0


def test_workers_do_not_wait_for_each_other() -> None:
    with connecting("a", width=1), connecting("b", width=1):
        pass


_HOLD = """
import sys, tempfile
sys.path[:0] = {path!r}
tempfile.tempdir = {place!r}
from airflow_jobdeploy.backends.gate import connecting
with connecting("w", width=1):
    print("in", flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_frees_its_place(tmp_path: Path) -> None:
    code = _HOLD.format(path=sys.path, place=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        threading.Timer(0.2, process.kill).start()
        with connecting("w", width=1):
            assert process.wait(5) == -9


def test_a_directory_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"jobdeploy-connect-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(WorkerError, match="set TMPDIR"), connecting("w"):
        pytest.fail("entered")
