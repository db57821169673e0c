"""Every Python that a host may have: 3.8 grammar, standard library only, and one job from end to end on each."""

from __future__ import annotations

import ast
import glob
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_jobdeploy import hostside
from tests.hostside.client import Serve, shell
from tests.hostside.test_stop import running

FOLDER = Path(hostside.__file__).parent
MODULES = sorted(FOLDER.glob("*.py"))


def _pythons() -> list[str]:
    """One interpreter a version from 3.8 up, of those on this machine."""
    names = [f"python3.{minor}" for minor in range(8, 20)]
    found = [shutil.which(name) for name in names] + ["/usr/bin/python3", sys.executable]
    found += glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python3"))
    by_version: dict[str, str] = {}
    for path in filter(None, found):
        match = re.fullmatch(r"Python (3\.\d+)\.\S+", _version(path))
        if match and int(match.group(1)[2:]) >= 8:
            by_version.setdefault(match.group(1), path)
    return [by_version[version] for version in sorted(by_version, key=lambda text: int(text[2:]))]


def _version(path: str) -> str:
    try:
        return subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20).stdout.strip()
    except OSError:
        return ""


@pytest.mark.parametrize("python", _pythons(), ids=_version)
def test_a_job_from_end_to_end(connect, python: str) -> None:
    serve: Serve = connect(python=python)
    assert _version(python) == f"Python {serve.facts['python']}"
    state = serve.run(
        shell('echo out; echo 1 > "$JOBDEPLOY_RESULT_FILE"; setsid sleep 600 & exit 3', limits={"grace_s": 1})
    )
    assert (state["exit_code"], state["result"]) == (3, 1)
    assert len(state["facts"]["left_behind"]) == 1
    job = serve.launch(shell("echo; sleep 600"))
    serve.until(job, running)
    serve.stop(job)
    assert serve.end(job)["status"] == "CANCELLED"
    assert serve.ask("jobs", deployment=None, live_only=False)["jobs"][0]["plan"]["job_id"] == job


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_grammar_and_imports(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert {name for name in outside if not name.startswith("airflow_jobdeploy.hostside")} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_no_module_hides_one_of_the_standard_library(path: Path) -> None:
    assert path.stem not in sys.stdlib_module_names
