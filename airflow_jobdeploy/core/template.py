"""`Template`: params, values and builds, with its parents merged in and everything checked that needs no params.

    load_template -> chain of files (child first) -> layers -> merged Template -> checks -> `render` (core.render)

Builds, values, options and binds of a child replace its parent's by name; params are added. All problems of all files
are reported at once.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.builds import Build, check_builds
from airflow_jobdeploy.core.layers import Layer, check_values, read_chain, read_layer, read_options
from airflow_jobdeploy.core.names import Scope, check_text
from airflow_jobdeploy.core.params import FILLED, ParamSpec
from airflow_jobdeploy.core.render import RenderedBuild, RenderedTemplate, project_name, render
from airflow_jobdeploy.core.sandbox import Environment
from airflow_jobdeploy.core.source import Item, in_order, suggestion
from airflow_jobdeploy.errors import Problem, TemplateError

__all__ = ["ParamSpec", "RenderedBuild", "RenderedTemplate", "Template", "load_template", "project_name"]


@dataclass(frozen=True, kw_only=True)
class Template:
    """A template that is in order; `render` makes its builds for given params."""

    #: The file's stem; "template" for a mapping.
    name: str
    #: The file; None for a mapping.
    path: Path | None
    params: Mapping[str, ParamSpec]
    builds: Mapping[str, Build]
    #: Params that a child template fixed, and to what.
    binds: Mapping[str, Any]
    #: Not rendered yet, by field names.
    options: Mapping[str, Any]
    #: Not rendered yet.
    values: Mapping[str, Any]
    #: sha256 of what the template says, parents merged in: equal for equal meanings, comments and order of files aside.
    digest: str
    #: The file and its parents, the template's own first.
    sources: tuple[Path, ...]
    #: Values, binds and options with their places.
    items: Mapping[str, Mapping[str, Item]] = field(repr=False, compare=False)

    @property
    def asked(self) -> dict[str, ParamSpec]:
        """The params that may be given: neither bound nor filled by us (`project` may be given)."""
        hidden = {*self.binds, *(name for name in FILLED if name != "project")}
        return {name: spec for name, spec in self.params.items() if name not in hidden}

    def render(
        self,
        given: Mapping[str, Any],
        *,
        filled: Mapping[str, str],
        resolve_secret: Callable[[str], str] | None = None,
    ) -> RenderedTemplate:
        """Check `given` against the params and render all builds.

        `filled` holds those of id, project, created, commit and user that are known; `subdir` follows from the id.
        `resolve_secret` turns a reference (`conn:db.password`) into the secret; without it the references stand in
        the texts, so that everything can be checked without Airflow. Raises TemplateError with all problems.
        """
        return render(self, given, filled=filled, resolve_secret=resolve_secret)


def load_template(
    source: str | os.PathLike[str] | Mapping[str, Any], *, search_path: Sequence[Path] = (), base: Path | None = None
) -> Template:
    """Read a template with its parents. Raises TemplateError with the problems of all files.

    A relative path is looked for in `base`, in each folder of `search_path`, in the current directory; a parent
    first beside the file that names it.
    """
    problems: list[Problem] = []
    chain, is_whole = read_chain(source, problems, base=base, search_path=search_path)
    layers = [read_layer(item, problems, is_child=item.value.get("parent") is not None) for item in chain]
    if is_whole:
        template = _merged(layers)
        _check(template, layers, problems)
    if problems:
        raise TemplateError(in_order(problems))
    return template


def _merged(layers: Sequence[Layer]) -> Template:
    """One template of a chain, child first."""
    params: dict[str, ParamSpec] = {}
    builds: dict[str, Build] = {}
    items: dict[str, dict[str, Item]] = {"values": {}, "binds": {}, "options": {}}
    for layer in reversed(layers):
        # A child that only repeats a name does not undo what its parent says about it.
        params.update({name: spec for name, spec in layer.params.items() if name not in params or spec.is_described})
        builds.update(layer.builds)
        for section, found in items.items():
            found.update(layer.sections[section])
    plain = {section: {name: item.value for name, item in found.items()} for section, found in items.items()}
    path = layers[0].root.document.path
    return Template(
        name=path.stem if path else "template",
        path=path,
        params=params,
        builds=builds,
        **plain,
        digest=_digest(params, builds, plain),
        sources=tuple(layer.root.document.path for layer in layers if layer.root.document.path),
        items=items,
    )


def _digest(params: Mapping[str, ParamSpec], builds: Mapping[str, Build], plain: Mapping[str, Any]) -> str:
    content = {
        "params": {name: spec.to_dict() for name, spec in params.items()},
        "builds": {name: build.to_dict() for name, build in builds.items()},
        **plain,
        "order of values": list(plain["values"]),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _check(template: Template, layers: Sequence[Layer], problems: list[Problem]) -> None:
    broken = {name for layer in layers for name in layer.broken} - set(layers[0].builds)
    check_builds(template.builds, layers[0].root, broken, problems)
    _check_binds(template, problems)
    check_values(template.items["values"], problems)
    read_options(template.items["options"], problems, rendered=False)
    if not any(layer.has_broken_params for layer in layers):
        _check_texts(template, problems)


def _check_binds(template: Template, problems: list[Problem]) -> None:
    for name, item in template.items["binds"].items():
        spec = template.params.get(name)
        if spec is None:
            problems.append(item.problem(f"there is no param {name!r} to bind.", suggestion(name, template.params)))
        elif name in FILLED and name != "project":
            problems.append(item.problem(f"{name!r} is filled for every job and cannot be bound."))
        else:
            spec.check(item, problems)


def _check_texts(template: Template, problems: list[Problem]) -> None:
    """Names in Jinja, in every text of the template."""
    environment = Environment()
    params = frozenset(template.params)
    names = list(template.values)
    for index, (_, item) in enumerate(template.items["values"].items()):
        seen, later = frozenset(names[:index]), frozenset(names[index:])
        _check_item(environment, item, Scope(params=params, values=seen, later=later), problems)
    scope = Scope(params=params, values=frozenset(names))
    for item in template.items["options"].values():
        _check_item(environment, item, scope, problems)
    for build in template.builds.values():
        _check_item(environment, build.content_item, scope, problems)


def _check_item(environment: Environment, item: Item, scope: Scope, problems: list[Problem]) -> None:
    if isinstance(item.value, str):
        for found in check_text(environment, item.value, scope):
            problems.append(item.problem(found.message, found.hint, where=item.where_line(found.line)))
    for part in (*(child for _, child in item.fields()), *item.elements()):
        _check_item(environment, part, scope, problems)
