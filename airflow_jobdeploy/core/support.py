"""What this release, or a pool of one kind, cannot honour. Nothing is ever ignored: it is named, with what would do it.

The facts stand in the table of fields (`JobSpec`): a field that `needs` something is honoured by no pool yet.
"""

from __future__ import annotations

from airflow_jobdeploy.core.fields import Field, fields_of
from airflow_jobdeploy.core.source import in_order
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions
from airflow_jobdeploy.errors import Problem


def unsupported(spec: JobSpec | TemplateOptions, *, kind: str) -> list[Problem]:
    """The fields of `spec` that a pool of `kind` ("local", "ssh", "memory") cannot honour, each as a problem.

    Values that ask for nothing (empty, null, 0 GPUs, the default) are fine.
    """
    return in_order([_problem(field, spec, kind) for field in fields_of(JobSpec).values() if _asks(field, spec)])


def _asks(field: Field, spec: JobSpec | TemplateOptions) -> bool:
    if not field.needs or not hasattr(spec, field.attribute):
        return False
    value = getattr(spec, field.attribute)
    empty = value is None or value == () or value == {}
    return not empty and value != field.default and value not in field.same


def _problem(field: Field, spec: JobSpec | TemplateOptions, kind: str) -> Problem:
    value = getattr(spec, field.attribute)
    shown = f"{field.name}: {value}" if field.default not in (None, (), False, 1) or field.same else field.name
    where = spec.given.get(field.name, "<job_spec>")
    return Problem(where, field.name, f"a pool of kind {kind} cannot honour {shown!r} yet.", f"It needs {field.needs}.")
