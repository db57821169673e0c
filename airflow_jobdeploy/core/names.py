"""Which names a template text uses, found without rendering: every misspelt name of every build, at once.

A param is always there once declared, so a use of an undeclared one is certain to fail. A text that asks first
(`params.x is defined`, `'x' in params`, `| default(...)`) may use what it asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from jinja2 import meta, nodes

from airflow_jobdeploy.core.filters import FORGIVING
from airflow_jobdeploy.core.sandbox import ASKING, Environment, RenderError, TextProblem, guarded, has_jinja
from airflow_jobdeploy.core.source import suggestion

#: Most problems that are reported of one text.
MAX_PROBLEMS = 100
_MAPPING_METHODS = ("get", "items", "keys", "values")


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The names that a text may use as `params.x` and `values.x`; `later` are values that come after this one."""

    params: frozenset[str] = frozenset()
    values: frozenset[str] = frozenset()
    later: frozenset[str] = field(default=frozenset())


def check_text(environment: Environment, text: str, scope: Scope) -> list[TextProblem]:
    """Everything that is certain to fail in `text`: syntax, unknown filters, names that are not there."""
    if not has_jinja(text):
        return []
    try:
        tree = environment.parsed(text)
        found: list[TextProblem] = guarded(lambda: _certain(environment, tree, scope))
    except RenderError as error:
        return [error.problem]
    return sorted(dict.fromkeys(found), key=lambda problem: problem.line)


def _certain(environment: Environment, tree: nodes.Template, scope: Scope) -> list[TextProblem]:
    unknown = list(_unknown_filters(environment, tree))
    found = chain(unknown, _bare_names(environment, tree, scope), _members(tree, scope))
    return list(islice(found, MAX_PROBLEMS))


def _unknown_filters(environment: Environment, tree: nodes.Template) -> Iterator[TextProblem]:
    for kind, known in (("filter", environment.filters), ("test", environment.tests)):
        for node in tree.find_all(nodes.Filter if kind == "filter" else nodes.Test):
            name = node.name
            if name not in known or name.startswith("_"):
                yield TextProblem(node.lineno, f"there is no {kind} {name!r}.", suggestion(name, known))
                node.name = "string"  # a filter and a test that exist: jinja2.meta refuses the tree otherwise


def _bare_names(environment: Environment, tree: nodes.Template, scope: Scope) -> Iterator[TextProblem]:
    missing = meta.find_undeclared_variables(tree) - {"params", "values"} - set(environment.globals)
    missing -= {node.name for node in _asked_nodes(tree) if isinstance(node, nodes.Name)}
    for node in tree.find_all(nodes.Name):
        if node.ctx == "store" and node.name in ("params", "values"):
            yield TextProblem(node.lineno, f"{node.name!r} cannot be set.", "Choose another name.")
        elif node.name in missing:
            yield TextProblem(node.lineno, f"{node.name!r} is undefined.", _bare_hint(node.name, scope))


def _bare_hint(name: str, scope: Scope) -> str:
    for place, names in (("params", scope.params), ("values", scope.values)):
        if name in names:
            return f"Write {place}.{name}."
    near = suggestion(name, scope.params)
    return near or "Texts see `params` and `values` only."


def _members(tree: nodes.Template, scope: Scope) -> Iterator[TextProblem]:
    called = {id(call.node) for call in tree.find_all(nodes.Call)}
    asked = {name for name in map(_member, _asked_nodes(tree)) if name} | set(_asked_by_in(tree))
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        found = _member(node)
        if found is None or found in asked:
            continue
        place, name = found
        known = scope.params if place == "params" else scope.values
        if name not in known and not (name in _MAPPING_METHODS and id(node) in called):
            yield TextProblem(node.lineno, *_missing(place, name, scope))


def _missing(place: str, name: str, scope: Scope) -> tuple[str, str]:
    if place == "params":
        hint = suggestion(name, scope.params) or f"Declare it: add {name!r} to `params`."
        return f"the param {name!r} is not declared.", hint
    if name in scope.later:
        return f"the value {name!r} is not there yet.", "Values see the values above them: move it up."
    hint = suggestion(name, scope.values) or "Add it to `values`."
    return f"the value {name!r} is not defined.", hint


def _member(node: nodes.Node) -> tuple[str, str] | None:
    """("params", "x") for `params.x` and `params['x']`."""
    if not isinstance(node, (nodes.Getattr, nodes.Getitem)) or not isinstance(node.node, nodes.Name):
        return None
    if node.node.name not in ("params", "values"):
        return None
    if isinstance(node, nodes.Getattr):
        return node.node.name, node.attr
    key = node.arg.value if isinstance(node.arg, nodes.Const) else None
    return (node.node.name, key) if isinstance(key, str) else None


def _asked_nodes(tree: nodes.Template) -> Iterator[nodes.Node]:
    """What the text asks about before it uses it."""
    for test in tree.find_all(nodes.Test):
        if test.name in ASKING:
            yield test.node
    for used in tree.find_all(nodes.Filter):
        if used.name in FORGIVING and used.node is not None:
            yield used.node


def _asked_by_in(tree: nodes.Template) -> Iterator[tuple[str, str]]:
    """`'x' in params`."""
    for compare in tree.find_all(nodes.Compare):
        name = compare.expr.value if isinstance(compare.expr, nodes.Const) else None
        for operand in compare.ops:
            if isinstance(name, str) and operand.op in ("in", "notin") and isinstance(operand.expr, nodes.Name):
                yield operand.expr.name, name
