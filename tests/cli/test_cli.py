"""The definitions: light, complete, and what the real program makes of them."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.cli import get_cli_commands

_LIGHT = """
import sys
import airflow_jobdeploy.cli as cli
heavy = {"paramiko", "docker", "yaml", "rich", "airflow"}
print(sorted(heavy & set(sys.modules)))
import airflow.cli.cli_config
before = set(sys.modules)
cli.get_cli_commands()
print(sorted(set(sys.modules) - before))
"""


def test_the_definitions_are_light() -> None:
    """They are read on every `airflow` command, by the scheduler's too."""
    done = subprocess.run([sys.executable, "-c", _LIGHT], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"]


def _commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for command in group.subcommands:
        name = f"{path}{command.name}"
        if hasattr(command, "subcommands"):
            yield from _commands(command, f"{name} ")
        else:
            yield name, command


COMMANDS = dict(_commands(get_cli_commands()[0]))


def test_every_command_is_there() -> None:
    expected = (
        "validate render run up down build rm ls status view logs download stop preempt bump forget reap "
        "submit progress"
    )
    assert set(COMMANDS) >= {*expected.split(), "pools ls", "pools test"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_leads_somewhere(name: str) -> None:
    from airflow._shared.module_loading import import_string

    function = import_string(inspect.getclosurevars(COMMANDS[name].func).nonlocals["import_path"])
    assert callable(function)
    assert function.__doc__


def test_every_command_stands_in_the_guide() -> None:
    page = Path(__file__).resolve().parents[2] / "docs/how-to/command-line.md"
    text = page.read_text(encoding="utf-8")
    missing = [name for name in COMMANDS if f"airflow jobdeploy {name}" not in text]
    assert not missing


def _airflow(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The real program, in an Airflow without a metadata database."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    env = {**kept, "HOME": str(cwd), "AIRFLOW_HOME": str(cwd / "airflow home")}
    program = Path(sys.executable).with_name("airflow")
    return subprocess.run(
        [program, "jobdeploy", *words], cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_real_program_needs_no_database(home: Path) -> None:
    (home / "job.yaml").write_text("command: 'echo hello; exit 9'\n")
    done = _airflow("run", "job.yaml", cwd=home)
    assert (done.returncode, done.stdout) == (9, "hello\n"), done.stderr
    assert "Exit code 9" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_real_program_says_what_is_wrong(home: Path) -> None:
    (home / "bad.yaml").write_text("comand: echo\n")
    done = _airflow("run", "bad.yaml", cwd=home)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "Did you mean 'command'?" in done.stderr
    assert _airflow("run", cwd=home).returncode == 2


def test_a_reader_that_has_enough(home: Path) -> None:
    """`... | head -1` is no error worth a word."""
    (home / "job.yaml").write_text("command: seq 200000\n")
    program = Path(sys.executable).with_name("airflow")
    line = f"'{program}' jobdeploy run job.yaml | head -1"
    done = subprocess.run(["sh", "-c", line], cwd=home, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "1\n"
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr
