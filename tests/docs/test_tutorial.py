"""The tutorial, done as it is written, in a folder and a HOME of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial" / "first-job.md"

pytestmark = pytest.mark.airflow


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


class Reader:
    """Somebody who types what the page says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        # What the page calls .venv/bin/ is where this Python is.
        (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)

    def run_again(self) -> str:
        """What the last commands print, without making the database anew."""
        done = self.sh("\n".join(line for line in blocks("sh")[1].splitlines() if "migrate" not in line))
        return done.stdout + done.stderr

    def sh(self, script: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HOME": str(self.home)}
        command = ["sh", "-c", script]
        return subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, check=False, timeout=200
        )


@pytest.fixture
def reader(tmp_path: Path) -> Reader:
    reader = Reader(tmp_path)
    assert reader.sh(blocks("sh")[0]).returncode == 0
    (tmp_path / "my_dags" / "train.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "my_dags" / "my_first_job.py").write_text(blocks("python")[0])
    return reader


def test_the_tutorial_works(reader: Reader) -> None:
    done = reader.sh(blocks("sh")[1])
    assert done.returncode == 0, done.stdout + done.stderr
    (model,) = (reader.home / "my_first_job").rglob("model.json")
    assert set(json.loads(model.read_text())) == {"slope", "bias"}
    assert "epoch 3: y = " in done.stdout

    # Section 5: a wrong name starts nothing and is named, with the line; a failing script tells its exit code.
    template = reader.folder / "my_dags" / "train.yaml"
    good = template.read_text()
    template.write_text(good.replace("params.epochs }}", "params.epoch }}"))
    wrong = reader.run_again()
    assert "train.yaml:" in wrong
    assert "'epochs'" in wrong
    template.write_text(good)
    train = reader.folder / "my_dags" / "my_project" / "train.py"
    train.write_text("raise SystemExit(3)\n")
    failed = reader.run_again()
    assert "Exit code 3" in failed
    assert "nothing is left to stop" in failed
