"""Trigger forms made from templates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.errors import TemplateError
from airflow_jobdeploy.params import template_params

TEMPLATE: dict[str, Any] = {
    "params": {
        "name": {"type": "string", "pattern": "[a-z]+", "description": "What to call it."},
        "epochs": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9},
        "kind": {"enum": ["small", "large"], "default": "small"},
        "token": {"secret": True},
        "note": {"type": "string", "default": None},
        "id": None,
        "commit": None,
        "project": None,
    },
    "builds": {
        "up": {"type": "script", "content": "true"},
        "down": {"type": "script", "content": "true"},
    },
}


def test_the_form() -> None:
    form = template_params(TEMPLATE)
    assert list(form) == ["name", "epochs", "kind", "token", "note", "project"]
    assert form["name"].description == "What to call it."
    assert form["name"].schema == {"title": "name", "type": "string", "pattern": "[a-z]+"}
    assert form["epochs"].value == 3
    assert {key: form["epochs"].schema[key] for key in ("type", "minimum", "maximum")} == {
        "type": "integer",
        "minimum": 1,
        "maximum": 9,
    }
    assert form["kind"].schema["enum"] == ["small", "large"]
    assert form["note"].resolve() is None


def test_values_are_checked_as_the_template_checks_them() -> None:
    form = template_params(TEMPLATE)
    assert form["epochs"].resolve(9) == 9
    with pytest.raises(Exception, match="10 is greater than the maximum of 9"):
        form["epochs"].resolve(10)
    assert form["token"].resolve("conn:vault.password") == "conn:vault.password"
    with pytest.raises(Exception, match="does not match"):
        form["token"].resolve("s3cret")
    with pytest.raises(Exception, match="No value passed and Param has no default value"):
        form["name"].resolve()


def test_bound_params_are_no_fields(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(
        "params: [a, b]\nbuilds: {up: {type: script, content: 'true'}, down: {type: script, content: 'true'}}\n"
    )
    (tmp_path / "child.yaml").write_text("parent: parent.yaml\nbinds: {a: 1}\nparams: [c]\n")
    assert list(template_params(tmp_path / "child.yaml")) == ["b", "c"]


def test_a_file_is_looked_up_beside_the_caller(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "params: [n]\nbuilds: {up: {type: script, content: 'true'}, down: {type: script, content: 'true'}}\n"
    )
    dag = tmp_path / "dag.py"
    dag.write_text("from airflow_jobdeploy.params import template_params\nprint(list(template_params('t.yaml')))\n")
    done = subprocess.run([sys.executable, str(dag)], capture_output=True, text=True, check=True, cwd="/", timeout=120)
    assert done.stdout.strip().endswith("['n']")


def test_a_missing_or_broken_template_says_so(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"there is no file 'no\.yaml'; looked for it at"):
        template_params("no.yaml")
    with pytest.raises(TemplateError, match="down"):
        template_params({"builds": {"up": {"type": "script", "content": "true"}}})
