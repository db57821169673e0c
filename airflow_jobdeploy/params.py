"""A trigger form made from a template: `DAG(params=template_params("templates/train.yaml"))`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import Param

from airflow_jobdeploy.core.template import load_template
from airflow_jobdeploy.errors import TemplateError
from airflow_jobdeploy.hooks import files

if TYPE_CHECKING:
    from airflow_jobdeploy.core.params import ParamSpec


def template_params(template: str | Path | Mapping[str, Any]) -> dict[str, Param]:
    """The params that a template asks for, as fields of Airflow's trigger form.

    Each has the template's type, choices, bounds, pattern, description and default; one without a default is
    required. What is filled for every job, or fixed by `binds`, is left out. A secret is asked for as a
    reference (`conn:<id>.password`, `var:<key>`).

    A relative path is looked up beside the calling file, in `[jobdeploy] search_path`, in the current
    directory. Raises TemplateError with all problems of the template: the DAG shows them as its import error.
    """
    folders = files.folders(dag_file=sys._getframe(1).f_code.co_filename)
    source = template
    if not isinstance(template, Mapping):
        source = files.find(template, folders, argument="template_params", error=TemplateError)
    asked = load_template(source, search_path=folders).asked
    return {name: _param(spec) for name, spec in asked.items()}


def _param(spec: ParamSpec) -> Param:
    schema = spec.json_schema()
    given = {"default": schema.pop("default")} if "default" in schema else {}
    return Param(description=schema.pop("description", None), schema=schema, **given)
