"""A supervisor lives as long as its job, with all that it imports; it starts its command without subprocess."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside import layout

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


#: A house reaps every child of its process: it gets one of its own.
PROGRAM = """
import json, os, sys
from airflow_jobdeploy.hostside import house
home = house.House()
try:
    pid = home.spawn(**json.load(sys.stdin))
except (OSError, ValueError) as error:
    try:
        os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        print(json.dumps([type(error).__name__, str(error)]))
else:
    while pid not in home.ended:
        home.wait(1.0)
    print(json.dumps(["ended", home.ended[pid]]))
"""


def _spawned(argv: list[str], cwd: str, log: Path, env: dict[str, str] | None = None) -> list[object]:
    given = json.dumps({"argv": argv, "env": env or {}, "cwd": cwd, "log": str(log)})
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))  # printed only when no child was left over


def test_a_command_is_started_as_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    text = 'echo "$0 $WORD $(pwd)"; echo also >&2; ps -o ignored= -p $$; cat; exit 3'
    env = {"WORD": "ü", "PATH": os.defpath}
    assert _spawned(["/bin/sh", "-c", text, "it's me"], str(tmp_path), log, env) == ["ended", 3]
    said = log.read_text().splitlines()
    assert said[:2] == [f"it's me ü {tmp_path}", "also"]
    # SIGPIPE, which Python ignores, is as a login gives it; so is what we ignore ourselves.
    ignored = int(said[2], 16)
    assert not ignored & (1 << signal.SIGPIPE - 1 | 1 << signal.SIGHUP - 1 | 1 << signal.SIGINT - 1)


@pytest.mark.parametrize(
    ("argv", "cwd", "kind", "words"),
    [
        (["/nonexistent/program"], "/", "FileNotFoundError", "/nonexistent/program"),
        (["/etc"], "/", "PermissionError", "/etc"),
        (["/bin/true"], "/nonexistent folder", "FileNotFoundError", "/nonexistent folder"),
        (["/bin/true", "a\0b"], "/", "ValueError", "null byte"),
        (["/bin/true", *["x" * 100_000] * 30], "/", "OSError", "Argument list too long"),
    ],
    ids=["program", "folder", "cwd", "null", "long"],
)
def test_what_cannot_be_started_says_why(tmp_path: Path, argv: list[str], cwd: str, kind: str, words: str) -> None:
    found, text = _spawned(argv, cwd, tmp_path / "log")
    assert found == kind
    assert words in str(text)
