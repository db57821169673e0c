"""The tables of fields agree with what is made from them."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

import airflow_jobdeploy.core
from airflow_jobdeploy.core.builds import Build
from airflow_jobdeploy.core.capacity import Capacity, Quota
from airflow_jobdeploy.core.fields import fields_of
from airflow_jobdeploy.core.gpus import GpuWish
from airflow_jobdeploy.core.params import ParamSpec
from airflow_jobdeploy.core.pool import Storage, Worker, WorkerPool
from airflow_jobdeploy.core.presets import Preset
from airflow_jobdeploy.core.schema import json_schemas
from airflow_jobdeploy.core.spec import JobSpec, TemplateOptions

SHIPPED = Path(airflow_jobdeploy.core.__file__).parent / "schemas"
RECORDS = (JobSpec, Build, ParamSpec, WorkerPool, Worker, Preset, Storage, GpuWish, Capacity, Quota)


@pytest.mark.parametrize("name", json_schemas())
def test_shipped_schemas_are_current(name: str) -> None:
    """REWRITE_GOLDEN=1 writes them anew."""
    text = json.dumps(json_schemas()[name], indent=2) + "\n"
    if os.environ.get("REWRITE_GOLDEN") == "1":
        (SHIPPED / name).write_text(text)
    assert (SHIPPED / name).read_text() == text
    jsonschema.Draft202012Validator.check_schema(json.loads(text))


def test_nothing_else_is_shipped() -> None:
    assert {path.name for path in SHIPPED.iterdir()} == set(json_schemas())


def is_valid(name: str, value: Any) -> bool:
    return bool(jsonschema.Draft202012Validator(json_schemas()[f"{name}.schema.json"]).is_valid(value))


@pytest.mark.parametrize("name", ["local.yaml", "my_model.yaml"])
def test_the_seeds_templates_are_valid(name: str, data: Path) -> None:
    assert is_valid("template", yaml.safe_load((data / name).read_text()))


@pytest.mark.parametrize(
    ("name", "value", "valid"),
    [
        (
            "job-spec",
            {"command": "x", "timeout": "1h", "env": [{"name": "A", "value": 1}, "B=2"], "memory": "16GB"},
            True,
        ),
        ("job-spec", {"context": ".", "gpu_type": "A100", "gpu_types": [{"name": "A100"}], "tags": None}, True),
        ("job-spec", {"comand": "x"}, False),
        ("job-spec", {"command": "x", "timeout": "soon"}, False),
        ("job-spec", {"command": "x", "job_type": "rn"}, False),
        ("template", {"params": {"a": {"type": "int", "secret": True}, "b": None}, "builds": {}}, True),
        ("template", {"builds": {"up": {"type": "sequence", "content": "x"}}}, False),
        ("template", {"builds": {"up": {"type": "script", "content": "x", "whitelist": [256, "SIGKILL"]}}}, True),
        ("template", {"parent": "x", "options": {"timeout": "{{ params.t }}"}, "watch": {"type": "file"}}, False),
        (
            "worker-pool",
            {"kind": "ssh", "workers": [{"conn_id": "a", "hosts": "x[1-2]"}], "presets": {"s": {"cpu": 1}}},
            True,
        ),
        ("worker-pool", {"workers": []}, False),
        (
            "worker-pool",
            {
                "kind": "ssh",
                "workers": [{"conn_id": "a", "labels": {"rack": 7}, "capacity": {"gpus": [0, "GPU-1"]}}],
                "presets": {"a": {"extends": "b", "nvidia_gpu": {"count": 1}}, "b": {"gpu": 2}},
                "quotas": {"*": {"max_gpus": 2, "max_priority": "low"}},
            },
            True,
        ),
        ("worker-pool", {"kind": "ssh", "quotas": {"a": {"max_priority": "urgent"}}}, False),
        ("job-spec", {"gpu_types": [{"memory": "..40GB"}, {"type": "any", "memory": "16GB..24GB"}]}, True),
        ("job-spec", {"gpu_types": [{"type": "A100", "memory": ".."}]}, False),
        ("job-spec", {"gpu_types": [{"count": 1}]}, False),
        ("job-spec", {"where": {"zone": ["a", "b"], "rack": 7}}, True),
        ("job-spec", {"where": {"zone": []}}, False),
    ],
)
def test_schemas_say_what_the_parser_says(name: str, value: Any, valid: bool) -> None:
    assert is_valid(name, value) is valid


@pytest.mark.parametrize("record", RECORDS)
def test_every_field_is_described(record: type) -> None:
    for field in fields_of(record).values():
        assert field.doc
        assert field.doc.endswith(".")


def test_options_are_those_fields_of_specs_with_the_same_defaults() -> None:
    options = {field.name: field for field in dataclasses.fields(TemplateOptions) if field.name != "given"}
    shared = {field.attribute: field for field in fields_of(JobSpec).values() if field.option}
    assert set(options) == set(shared)
    for name, option in options.items():
        default = {} if option.default_factory is dict else option.default
        assert default == ("wait" if name == "leftovers" else shared[name].default)
