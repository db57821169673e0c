"""Airflow finds the provider, and its metadata is in order."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from airflow_jobdeploy.core.fields import fields_of
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.get_provider_info import CONFIG, get_provider_info

INFO = get_provider_info()


def _schema(name: str) -> dict:
    import airflow

    return json.loads((Path(airflow.__file__).parent / name).read_text(encoding="utf-8"))


def test_valid_against_airflows_schema() -> None:
    jsonschema.validate(INFO, _schema("provider_info.schema.json"))


def test_the_form_is_valid_against_the_schema_that_knows_forms() -> None:
    jsonschema.validate(
        INFO["connection-types"], _schema("provider.yaml.schema.json")["properties"]["connection-types"]
    )


def test_the_form_has_fields_of_pools_and_takes_workers_as_json() -> None:
    form = INFO["connection-types"][0]["conn-fields"]
    assert set(form) - {"pool_file"} <= set(fields_of(WorkerPool))
    assert set(form["kind"]["schema"]["enum"]) == {"local", "ssh", "docker"}
    # The form's editor of JSON is for arrays whose items are no text; else each line is one.
    assert form["workers"]["schema"]["items"] == {"type": "object"}


def test_the_names_are_those_of_the_distribution() -> None:
    found = importlib.metadata.distribution(INFO["package-name"])
    assert found.version in INFO["versions"]
    groups = {entry.group: entry.value for entry in found.entry_points}
    assert groups["apache_airflow_provider"] == "airflow_jobdeploy.get_provider_info:get_provider_info"
    assert groups["airflow.plugins"] == "airflow_jobdeploy.plugin:JobDeployPlugin"


@pytest.mark.parametrize(
    "module",
    [
        module
        for kind in ("operators", "sensors", "hooks", "triggers")
        for e in INFO[kind]
        for module in e["python-modules"]
    ],
)
def test_every_module_named_is_there(module: str) -> None:
    importlib.import_module(module)


def test_defaults_are_texts_that_read_as_their_type() -> None:
    for name, option in CONFIG.items():
        assert isinstance(option["default"], str), name
        if option["type"] == "float":
            float(option["default"])


def test_airflow_knows_the_connection_type_and_the_section() -> None:
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.configuration import conf

    hook = ProvidersManager().hooks["jobdeploy"]
    assert hook is not None
    assert hook.hook_name == "Job Deploy worker pool"
    assert hook.connection_id_attribute_name == "worker_pool"
    assert conf.getfloat("jobdeploy", "checkpoint_interval") == 45.0


_HEAVY = """
import sys
import airflow_jobdeploy.operators.template, airflow_jobdeploy.operators.job, airflow_jobdeploy.operators.artifact
import airflow_jobdeploy.sensors.job, airflow_jobdeploy.params
print(sorted({"paramiko", "docker", "asyncssh", "airflow.providers.ssh.hooks.ssh"} & set(sys.modules)))
"""


def test_parsing_a_dag_imports_no_ssh_and_no_docker() -> None:
    """A DAG file is parsed every 30 s: 0.3 s of paramiko each time would be felt."""
    done = subprocess.run([sys.executable, "-c", _HEAVY], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_metadata_imports_nothing() -> None:
    code = "import sys; import airflow_jobdeploy.get_provider_info; print('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"
