"""The demo, as its first user runs it: a fresh folder, one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.airflow


def test_the_demo_trains_a_model_and_says_where_it_is(tmp_path: Path) -> None:
    # HOME is where the pool `local` keeps its jobs.
    env = {**os.environ, "HOME": str(tmp_path / "home dir"), "AIRFLOW_HOME": str(tmp_path / "untouched")}
    (tmp_path / "home dir").mkdir()
    command = [sys.executable, "-m", "airflow_jobdeploy.example_dags.demo", "--home", "demo", "--epochs", "3"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (metrics,) = (tmp_path / "demo" / "models").rglob("metrics.json")
    assert json.loads(metrics.read_text())["accuracy"] > 0.9
    assert f"Artifacts in {metrics.parent}" in done.stdout
    assert "epoch  3/3" in done.stdout
    assert not (tmp_path / "untouched").exists()
