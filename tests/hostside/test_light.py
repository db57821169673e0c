"""A supervisor lives as long as its job, with all that it imports; it starts its command without subprocess."""

from __future__ import annotations

import base64
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import house, layout

ROOT = Path(__file__).resolve().parents[2]
#: Together 2.5 MB of each supervisor, and 15 ms of its start.
HEAVY = {"argparse", "base64", "hashlib", "glob", "platform", "shutil", "socket", "subprocess", "tarfile", "uuid"}


@pytest.mark.parametrize("role", ["supervise", "serve"])
def test_no_role_imports_what_it_seldom_needs(role: str) -> None:
    program = f"import sys, airflow_jobdeploy.hostside.{role}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert HEAVY & set(done.stdout.split()) == set()


@pytest.mark.parametrize("count", [8, 20, 51])
def test_letters_are_base32_of_sha256(count: int) -> None:
    for data in (b"", b"x", "ü\n".encode() * 99):
        expected = base64.b32encode(hashlib.sha256(data).digest()).decode().lower()[:count]
        assert layout.letters(data, count) == expected


@pytest.fixture
def home() -> Iterator[house.House]:
    kept = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGCHLD, signal.SIGHUP, signal.SIGINT)
    }
    yield house.House()
    signal.set_wakeup_fd(-1)
    for number, handler in kept.items():
        signal.signal(number, handler)


def _ended(home: house.House, pid: int) -> int:
    while pid not in home.ended:
        home.wait(1.0)
    return home.ended[pid]


def test_a_command_is_started_as_asked(home: house.House, tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = 'echo "$0 $WORD $(pwd)"; echo also >&2; ps -o ignored= -p $$; cat; exit 3'
    pid = home.spawn(["/bin/sh", "-c", text, "it's me"], {"WORD": "ü", "PATH": os.defpath}, str(tmp_path), str(log))
    assert _ended(home, pid) == 3
    said = log.read_text().splitlines()
    assert said[:2] == [f"it's me ü {tmp_path}", "also"]
    # SIGPIPE, which Python ignores, is as a login gives it; so is what we ignore ourselves.
    ignored = int(said[2], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGHUP - 1 | 1 << signal.SIGINT - 1)


@pytest.mark.parametrize(
    ("argv", "cwd", "kind", "words"),
    [
        (["/nonexistent/program"], "/", FileNotFoundError, "/nonexistent/program"),
        (["/etc"], "/", PermissionError, "/etc"),
        (["/bin/true"], "/nonexistent folder", FileNotFoundError, "/nonexistent folder"),
        (["/bin/true", "a\0b"], "/", ValueError, "null byte"),
        (["/bin/true", "x" * 3_000_000], "/", OSError, "Argument list too long"),
    ],
)
def test_what_cannot_be_started_says_why(
    home: house.House, tmp_path: Path, argv: list[str], cwd: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        home.spawn(argv, {}, cwd, str(tmp_path / "log"))
    assert words in str(caught.value)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
