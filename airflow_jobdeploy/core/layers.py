"""One file of a template's chain of parents: finding it, and reading its sections."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.builds import Build, read_build, read_builds
from airflow_jobdeploy.core.fields import fields_of, read_fields
from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.kinds import Problems, expected
from airflow_jobdeploy.core.params import ParamSpec, read_params
from airflow_jobdeploy.core.sandbox import has_jinja
from airflow_jobdeploy.core.source import Item, shortened, suggestion
from airflow_jobdeploy.core.spec_fields import JobSpec, TemplateOptions

SECTIONS = ("params", "values", "builds", "parent", "binds", "options")
#: Longest chain of parents.
MAX_PARENTS = 32


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What one file says."""

    root: Item
    params: Mapping[str, ParamSpec]
    builds: Mapping[str, Build]
    #: values, binds, options: name -> item
    sections: Mapping[str, Mapping[str, Item]]
    #: Builds that are there, but wrong.
    broken: frozenset[str] = field(default=frozenset())
    has_broken_params: bool = False


def read_chain(
    source: str | os.PathLike[str] | Mapping[str, Any],
    problems: Problems,
    *,
    base: Path | None,
    search_path: Sequence[Path],
) -> tuple[list[Item], bool]:
    """The template and its parents, child first, and whether all of them could be read."""
    chain: list[Item] = []
    seen: list[str] = []
    place: Item | None = None
    following: str | os.PathLike[str] | Mapping[str, Any] | None = source
    while following is not None:
        label = place.where if place is not None else "<template>"
        item = read_source(following, problems, label=label, base=base, search_path=search_path)
        if item is None:
            return chain, False
        fault = _chain_fault(item, seen)
        if fault and place is not None:
            problems.append(place.problem(fault))
            return chain, False
        base = item.document.path.parent if item.document.path is not None else base
        chain.append(item)
        place = item.child("parent") if "parent" in item.value else None
        following = _parent(place, problems)
    return chain, place is None or place.value is None


def _chain_fault(item: Item, seen: list[str]) -> str:
    """Why `item` cannot follow the files in `seen`, to which it is added."""
    if item.document.path is None:
        return ""
    real = os.path.realpath(item.document.path)
    if real in seen:
        names = " -> ".join(Path(path).name for path in [*seen[seen.index(real) :], real])
        return f"the template is its own parent: {shortened(names, 300)}."
    seen.append(real)
    return f"more than {MAX_PARENTS} templates over each other." if len(seen) > MAX_PARENTS else ""


def _parent(place: Item | None, problems: Problems) -> str | None:
    if place is None or place.value is None:
        return None
    if isinstance(place.value, str) and place.value.strip():
        return place.value
    expected(place, "the path of a template", problems)
    return None


def read_layer(root: Item, problems: Problems, *, is_child: bool) -> Layer:
    """The sections of one file."""
    before = len(problems)
    params = read_params(root.child("params"), problems) if root.value.get("params") is not None else {}
    has_broken_params = len(problems) > before
    builds = read_builds(root.child("builds"), problems) if root.value.get("builds") is not None else {}
    names = {name for name, _ in root.child("builds").fields()} if "builds" in root.value else set()
    for name, item in root.fields():
        if name in SECTIONS:
            continue
        names.add(name)
        build = _outer_build(name, item, builds, problems, is_child=is_child)
        if build is not None:
            builds[name] = build
    sections = {name: _section(root, name, problems) for name in ("values", "binds", "options")}
    broken = frozenset(names - set(builds))
    return Layer(
        root=root, params=params, builds=builds, sections=sections, broken=broken, has_broken_params=has_broken_params
    )


def _outer_build(
    name: str, item: Item, builds: Mapping[str, Build], problems: Problems, *, is_child: bool
) -> Build | None:
    """A build beside `builds:`, where only a child may have one, as in the seed's own sample."""
    is_build = isinstance(item.value, dict) and "type" in item.value
    if is_build and not is_child:
        problems.append(item.problem(f"the build {name!r} is not below `builds:`.", "Move it there."))
    elif is_build and name in builds:
        problems.append(item.problem(f"the build {name!r} is given twice, here and below `builds:`.", "Keep one."))
    elif is_build:
        return read_build(name, item, problems)
    else:
        hint = suggestion(name, SECTIONS) or f"A template has {', '.join(SECTIONS)}."
        problems.append(item.problem(f"a template has no section {shortened(repr(name))}.", hint))
    return None


def _section(root: Item, name: str, problems: Problems) -> dict[str, Item]:
    if root.value.get(name) is None:
        return {}
    item = root.child(name)
    if not isinstance(item.value, dict):
        expected(item, "a mapping", problems)
    return dict(item.fields())


def check_values(values: Mapping[str, Item], problems: Problems) -> None:
    """Values are static in this release: those that run a script are named."""
    for name, item in values.items():
        kind = item.value.get("type") if isinstance(item.value, dict) else None
        if isinstance(kind, str) and kind.startswith("output/"):
            hint = "Run the script as a build, and read its file there."
            problems.append(item.problem(f"the value {name!r} is of type {kind}, which is not in this release.", hint))


def read_options(items: Mapping[str, Item], problems: Problems, *, rendered: bool) -> TemplateOptions:
    """The `options` section. Before it is `rendered`, what holds Jinja is not looked at."""
    known = {field.name: field for field in fields_of(JobSpec).values() if field.option}
    checked = {}
    for name, item in items.items():
        if name not in known:
            is_spec = name in fields_of(JobSpec)
            hint = suggestion(name, known) or f"Options are {', '.join(known)}."
            message = (
                f"{name!r} is a field of job specs, not an option of templates." if is_spec else f"no option {name!r}."
            )
            problems.append(item.problem(message, hint))
        elif rendered or not _has_jinja(item.value):
            checked[name] = item
    attributes = read_fields(JobSpec, checked, problems, what="a template's options")
    both = set(attributes.get("env", ())) & set(attributes.get("secret_env", ()))
    problems.extend(items["secret_env"].problem(f"{name} is in env as well.") for name in sorted(both))
    given = {name: item.where for name, item in items.items() if item.value is not None}
    return TemplateOptions(**attributes, given=given)


def _has_jinja(value: Any) -> bool:
    if isinstance(value, str):
        return has_jinja(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_has_jinja(part) for part in parts)
