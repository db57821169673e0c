"""The shipped examples: the project trains, the templates load, the links into the package are links."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from xml.dom import minidom

import pytest

from airflow_jobdeploy.core.template import load_template

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "airflow_jobdeploy" / "example_dags"
PROJECT = SHIPPED / "examples" / "characters"
TEMPLATES = sorted((SHIPPED / "templates").glob("*.yaml"))


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with what two epochs made, run as a job would be."""
    env = {
        **os.environ,
        "JOBDEPLOY_OUTPUT_DIR": str(tmp_path / "output"),
        "JOBDEPLOY_RESULT_FILE": str(tmp_path / "result.json"),
        "JOBDEPLOY_MESSAGES_FILE": str(tmp_path / "messages.jsonl"),
    }
    command = [sys.executable, "main.py", "--name", "a <b> & c", "--epochs", "2"]
    subprocess.run(command, cwd=PROJECT, env=env, check=True, capture_output=True, timeout=120)
    return tmp_path


def test_the_model_is_better_than_guessing(trained: Path) -> None:
    metrics = json.loads((trained / "output" / "metrics.json").read_text())
    assert metrics["accuracy"] > 0.9 > 0.5 > metrics["baseline"]
    assert json.loads((trained / "result.json").read_text())["accuracy"] == metrics["accuracy"]


def test_it_tells_its_progress(trained: Path) -> None:
    messages = [json.loads(line) for line in (trained / "messages.jsonl").read_text().splitlines()]
    assert [(m["done"], m["total"]) for m in messages if m["type"] == "progress"] == [(1, 2), (2, 2)]
    assert [set(m["values"]) for m in messages if m["type"] == "metric"] == [{"loss", "accuracy"}] * 2


def test_the_report_is_a_picture_whatever_the_name(trained: Path) -> None:
    picture = minidom.parse(str(trained / "output" / "report.svg"))
    assert picture.documentElement is not None
    assert picture.documentElement.tagName == "svg"
    assert "a <b> & c: " in picture.getElementsByTagName("text")[0].firstChild.nodeValue  # type: ignore[union-attr]


def test_the_data_is_what_its_readme_says() -> None:
    rows = gzip.decompress((PROJECT / "data" / "characters.tsv.gz").read_bytes()).decode().splitlines()
    readme = (PROJECT / "data" / "README.md").read_text(encoding="utf-8")
    assert f"{len(rows):,} characters" in readme
    assert (PROJECT / "data" / "LICENSE-UNICODE.txt").exists()
    assert {len(row.split("\t")) for row in rows} == {3}


def test_the_project_needs_nothing_installed() -> None:
    lines = (PROJECT / "requirements.txt").read_text().splitlines()
    assert all(line.startswith("#") for line in lines)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_templates_load(path: Path) -> None:
    template = load_template(path)
    assert {"up", "down"} <= set(template.builds)


@pytest.mark.parametrize(
    ("link", "target"),
    [("dags", SHIPPED), ("examples", SHIPPED / "examples"), ("example_templates", SHIPPED / "templates")],
)
def test_the_folders_at_the_top_are_links(link: str, target: Path) -> None:
    assert (ROOT / link).is_symlink()
    assert (ROOT / link).resolve() == target
