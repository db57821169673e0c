"""JSON Schemas of our files, made from the tables of fields; for editors, and for those who write files by program.

The shipped copies in `core/schemas/` are these values. What a schema cannot say (names that exist, sequences without
cycles, values made by Jinja) is checked when a file is loaded.
"""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy.core import ddl, dl_jobs
from airflow_jobdeploy.core.builds import NEEDED, Build
from airflow_jobdeploy.core.credentials import CREDENTIALS
from airflow_jobdeploy.core.fields import fields_of, record_schema
from airflow_jobdeploy.core.kinds import Schema
from airflow_jobdeploy.core.params import ParamSpec
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.spec import GPU_PAIR, OLDER
from airflow_jobdeploy.core.spec_fields import JobSpec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def json_schemas() -> dict[str, Schema]:
    """File name -> schema, for job specs, templates and worker pools."""
    return {
        "job-spec.schema.json": _headed("A job spec", spec_schema()),
        "template.schema.json": _headed("A template", template_schema()),
        "worker-pool.schema.json": _headed("A worker pool", record_schema(WorkerPool)),
    }


def _headed(title: str, schema: Schema) -> Schema:
    return {"$schema": _DIALECT, "title": title, **schema}


def spec_schema() -> Schema:
    """The schema of a job spec; older spellings are marked deprecated."""
    schema = record_schema(JobSpec)
    for name, field in fields_of(JobSpec).items():
        if field.honoured_by:
            schema["properties"][name]["description"] += f" Pools of kind {', '.join(field.honoured_by)}."
        elif field.needs:
            schema["properties"][name]["description"] += f" Not in this release: needs {field.needs}."
    for older, present in OLDER.items():
        schema["properties"][older] = _deprecated(f"Older spelling of {present}.", JobSpec, present)
    for name in GPU_PAIR:
        schema["properties"][name] = {"description": "Older spelling of gpu_types.", "deprecated": True}
    for name, text in dl_jobs.WORDS.items():
        schema["properties"][name] = {"description": text}
    for name in CREDENTIALS:
        schema["properties"][name] = {"description": "Accepted and not kept.", "deprecated": True}
    properties = schema["properties"]
    properties["job_type"]["anyOf"][0]["enum"] += list(ddl.FRAMEWORKS)
    properties[ddl.KEY] = _job_data_schema(properties)
    return schema


def _job_data_schema(spec: Schema) -> Schema:
    """DDL's `job_data`: each key as the field that it stands for."""
    dataset = {key: spec[name] for key, name in ddl.DATASET_FIELDS.items()}
    fields: Schema = {key: spec[name] for key, name in ddl.FIELDS.items()}
    fields["dataset"] = {"type": ["object", "null"], "properties": dataset, "additionalProperties": False}
    fields.update((name, spec[name]) for name in CREDENTIALS)
    return {
        "description": "As in DDL's task.yaml: main() of main.py is called.",
        "type": ["object", "null"],
        "properties": fields,
        "additionalProperties": False,
    }


def _deprecated(text: str, record: type, name: str) -> Schema:
    return {**fields_of(record)[name].kind.schema(), "description": text, "deprecated": True}


def template_schema() -> Schema:
    """The schema of a template. Children may have builds beside `builds`: mappings with a `type`."""
    build = _build_schema()
    param: Schema = {"anyOf": [record_schema(ParamSpec), {"type": "null"}]}
    named_params = {"type": "object", "additionalProperties": param}
    properties: dict[str, Any] = {
        "params": {
            "description": "What `up` takes: names, or names with type, default, ...",
            "anyOf": [{"type": "array", "items": {"anyOf": [{"type": "string"}, named_params]}}, named_params],
        },
        "values": {"description": "Named values made from params, in order.", "type": "object"},
        "builds": {
            "description": f"Named steps; {' and '.join(NEEDED)} are needed, here or in a parent.",
            "type": "object",
            "additionalProperties": build,
        },
        "parent": {"description": "The template that this one is made from.", "type": "string"},
        "binds": {"description": "Params of the parent that are fixed here.", "type": "object"},
        "options": {"description": "Limits and rules for all builds.", **_options_schema()},
    }
    nullable = {
        name: {"description": schema.pop("description"), "anyOf": [schema, {"type": "null"}]}
        for name, schema in properties.items()
    }
    return {"type": "object", "properties": nullable, "additionalProperties": build}


def _options_schema() -> Schema:
    spec = record_schema(JobSpec)["properties"]
    options = {name: spec[name] for name, field in fields_of(JobSpec).items() if field.option}
    rendered = {name: {"anyOf": [schema, {"type": "string"}]} for name, schema in options.items()}
    return {"type": "object", "properties": rendered, "additionalProperties": False}


def _build_schema() -> Schema:
    """`content` follows the type."""
    schema = record_schema(Build)
    contents: dict[str, Schema] = {
        "script": {"type": "string"},
        "file": {"type": "string"},
        "sequence": {"type": "array", "items": {"type": "string"}},
        "job": {"type": "object"},
    }
    schema["allOf"] = [
        {"if": {"properties": {"type": {"const": name}}}, "then": {"properties": {"content": content}}}
        for name, content in contents.items()
    ]
    return schema
