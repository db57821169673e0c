"""Params + template -> `RenderedTemplate`: texts that can be run, and nothing left to go wrong but the run itself.

Secrets: a secret param is a reference (`conn:db.password`) everywhere but in the texts of scripts and files, and there
too unless `resolve_secret` is given. What is recorded (params, values, options, job specs) is rendered with references.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from airflow_jobdeploy.core.builds import Build, Whitelist, flattened
from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.kinds import Problems
from airflow_jobdeploy.core.layers import read_options
from airflow_jobdeploy.core.params import ParamSpec, gather
from airflow_jobdeploy.core.sandbox import Environment, RenderError
from airflow_jobdeploy.core.source import Item, in_order
from airflow_jobdeploy.core.spec import read_spec
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions
from airflow_jobdeploy.errors import TemplateError


@dataclass(frozen=True, kw_only=True)
class RenderedBuild:
    """One build, ready to run."""

    name: str
    #: "script", "file", "sequence" or "job"
    type: str
    #: script, file: the text; sequence: names of builds; job: the JobSpec.
    content: str | tuple[str, ...] | JobSpec = field(repr=False)
    whitelist: Whitelist = field(default_factory=Whitelist)
    #: "file:line"
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class RenderedTemplate:
    """All builds of a template for one set of params."""

    #: All params, for the record: secret ones are their references.
    params: Mapping[str, Any]
    #: For the record too.
    values: Mapping[str, Any]
    builds: Mapping[str, RenderedBuild]
    options: TemplateOptions
    #: id, subdir, project, created, commit, user: those that are known, whether declared or not.
    filled: Mapping[str, str]
    #: References of the secret params, sorted.
    secrets: tuple[str, ...] = ()
    #: What is odd, but no error; each names file and line.
    warnings: tuple[str, ...] = ()

    def steps(self, name: str) -> tuple[RenderedBuild, ...]:
        """What the build `name` runs, in order, sequences followed. KeyError when there is no such build."""
        return tuple(self.builds[step] for step in flattened(self.builds, name))


class Loaded(Protocol):
    """What rendering needs of a `Template`."""

    @property
    def name(self) -> str: ...

    @property
    def params(self) -> Mapping[str, ParamSpec]: ...

    @property
    def builds(self) -> Mapping[str, Build]: ...

    @property
    def items(self) -> Mapping[str, Mapping[str, Item]]: ...


def project_name(path: str) -> str:
    """The default of `project`: the last part of a project_dir or workdir, safe as a word in any script."""
    last = next((part for part in reversed(path.split("/")) if part not in ("", ".", "..", "~")), "")
    return re.sub(r"[^\w@%+=,-]", "_", last) or "project"


def render(
    template: Loaded,
    given: Mapping[str, Any],
    *,
    filled: Mapping[str, str],
    resolve_secret: Callable[[str], str] | None = None,
) -> RenderedTemplate:
    """See `Template.render`."""
    problems: Problems = []
    given_item = read_source(given, problems, label="<template_params>")
    if given_item is None:
        raise TemplateError(problems)
    known = _filled(template, filled)
    params = gather(template.params, given_item, template.items["binds"], known, problems)
    _stop_at(problems)  # texts rendered without a param would only repeat what is wrong with it
    if isinstance(params.get("project"), str):
        params["project"] = re.sub("[.:]", "_", params["project"])  # tmux renames them in session names
        known = {**known, "project": params["project"]}
    secrets = {name: params[name] for name, spec in template.params.items() if spec.secret and params[name]}
    record = _Rendering(template, params, secrets, problems)
    rendered = record.template(known)
    _stop_at(problems)
    if secrets and resolve_secret is not None:
        open_params = {**params, **{name: resolve_secret(reference) for name, reference in secrets.items()}}
        texts = _Rendering(template, open_params, secrets, problems).texts()
        _stop_at(problems)
        return _with_texts(rendered, texts)
    return rendered


def _stop_at(problems: Problems) -> None:
    if problems:
        raise TemplateError(in_order(problems))


def _filled(template: Loaded, filled: Mapping[str, str]) -> dict[str, str]:
    known = dict(filled)
    if "id" in known:
        stem = re.sub(r"[^\w.+@%=,-]", "_", template.name)[:60]
        known["subdir"] = f"{stem}-{known['id']}"
    if "project" in known:
        known["project"] = project_name(known["project"])
    return known


def _with_texts(rendered: RenderedTemplate, texts: Mapping[str, str]) -> RenderedTemplate:
    builds = {
        name: replace(build, content=texts[name]) if name in texts else build for name, build in rendered.builds.items()
    }
    return replace(rendered, builds=builds)


class _Rendering:
    """One pass over a template with one set of values."""

    def __init__(
        self, template: Loaded, params: Mapping[str, Any], secrets: Mapping[str, str], problems: Problems
    ) -> None:
        self.source = template
        self.secrets = secrets
        self.problems = problems
        self.environment = Environment()
        self.values: dict[str, Any] = {}
        self.context = {"params": dict(params), "values": self.values}
        for name, item in template.items["values"].items():
            self.values[name] = self.of(item)

    def of(self, item: Item) -> Any:
        """The value of `item` with every text in it rendered."""
        if isinstance(item.value, str):
            return self._text(item)
        if isinstance(item.value, dict):
            return {key: self.of(child) for key, child in item.fields()}
        if isinstance(item.value, list):
            return [self.of(element) for element in item.elements()]
        return item.value

    def _text(self, item: Item) -> str:
        try:
            return self.environment.rendered(item.value, self.context)
        except RenderError as error:
            found = error.problem
            self.problems.append(item.problem(found.message, found.hint, where=item.where_line(found.line)))
            return ""

    def texts(self) -> dict[str, str]:
        """The texts of scripts and files."""
        builds = self.source.builds.values()
        return {build.name: self._text(build.content_item) for build in builds if build.type in ("script", "file")}

    def template(self, filled: Mapping[str, str]) -> RenderedTemplate:
        """All of it."""
        warnings: list[str] = []
        texts = self.texts()
        builds = {name: self._build(build, texts, warnings) for name, build in self.source.builds.items()}
        items = {name: item.holding(self.of(item)) for name, item in self.source.items["options"].items()}
        self._refuse_secrets(items.get("env"))
        return RenderedTemplate(
            params=self.context["params"],
            values=dict(self.values),
            builds=builds,
            options=read_options(items, self.problems, rendered=True),
            filled=filled,
            secrets=tuple(sorted(set(self.secrets.values()))),
            warnings=tuple(warnings),
        )

    def _build(self, build: Build, texts: Mapping[str, str], warnings: list[str]) -> RenderedBuild:
        content: str | tuple[str, ...] | JobSpec
        if build.type == "sequence":
            content = tuple(build.content)
        elif build.type == "job":
            content = self._job(build.content_item, warnings)
        else:
            content = texts[build.name]
        return RenderedBuild(
            name=build.name, type=build.type, content=content, whitelist=build.whitelist, where=build.where
        )

    def _job(self, item: Item, warnings: list[str]) -> JobSpec:
        rendered = item.holding(self.of(item))
        for name, child in rendered.fields():
            if name != "secret_env":
                self._refuse_secrets(child)
        spec = read_spec([rendered], self.problems)
        warnings.extend(spec.warnings)
        return spec

    def _refuse_secrets(self, item: Item | None) -> None:
        """A secret in a job spec or in `env` would stand in records: there is `secret_env` for that."""
        if item is None:
            return
        if isinstance(item.value, str):
            for name, reference in self.secrets.items():
                if reference in item.value:
                    hint = f"Put it in secret_env: {{NAME: '{{{{ params.{name} }}}}'}}."
                    self.problems.append(
                        item.problem(f"the secret {name!r} would be written in the job's record.", hint)
                    )
        for part in (*(child for _, child in item.fields()), *item.elements()):
            self._refuse_secrets(part)
