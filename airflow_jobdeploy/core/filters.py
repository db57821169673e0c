"""The filters of templates: Jinja's harmless ones, bounded, and `quote`, `json` and `yaml`.

Left out on purpose: `random` (two renderings of one template are equal), `attr`, `safe` and the HTML filters.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable
from typing import Any

import yaml
from jinja2 import Undefined
from jinja2.filters import FILTERS

from airflow_jobdeploy.core.budget import (
    MAX_WIDTH,
    Budget,
    TooMuchError,
    joined_size,
    measured,
    percent_size,
    replaced_size,
)

_JINJA = """
    abs capitalize count d default dictsort first float indent int items last length list lower map max min reject
    rejectattr reverse round select selectattr sort string title trim truncate unique upper
"""
#: Filters whose integer arguments are widths or precisions.
_WIDTHS = ("indent", "round", "truncate")
#: Filters that take a value that is not there.
FORGIVING = ("d", "default")


def filters(budget: Callable[[], Budget]) -> dict[str, Callable[..., Any]]:
    """All filters, each paying `budget()` for what it reads and makes."""
    own: dict[str, Callable[..., Any]] = {
        "quote": quote,
        "json": to_json,
        "tojson": to_json,
        "yaml": to_yaml,
        "format": functools.partial(_format, budget),
        "join": functools.partial(_join, budget),
        "replace": functools.partial(_replace, budget),
    }
    table = {name: _bounded(name, FILTERS[name], budget) for name in _JINJA.split()}
    return {**table, **{name: _bounded(name, function, budget) for name, function in own.items()}}


def _bounded(name: str, function: Callable[..., Any], budget: Callable[[], Budget]) -> Callable[..., Any]:
    # Jinja passes the environment, context or eval context first to functions that carry a mark.
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    def bounded(*args: Any, **kwargs: Any) -> Any:
        for value in args[first:]:
            if isinstance(value, Undefined) and name not in FORGIVING:
                value._fail_with_undefined_error()  # `quote` and `json` would print it otherwise
            budget().pay(measured(value))
        if name in _WIDTHS:
            _check_widths(args[first:], kwargs, budget())
        return budget().settle(function(*args, **kwargs))

    if first:
        bounded.jinja_pass_arg = function.jinja_pass_arg  # type: ignore[attr-defined]
    return bounded


def _check_widths(args: tuple[Any, ...], kwargs: dict[str, Any], budget: Budget) -> None:
    widths = [width for width in (*args[1:], *kwargs.values()) if isinstance(width, int)]
    if any(abs(width) > MAX_WIDTH for width in widths):
        raise TooMuchError(f"uses a width or precision beyond {MAX_WIDTH}")
    text = str(args[0]) if isinstance(args[0], str) else ""
    budget.pay((text.count("\n") + 1) * max([4, *widths]))


def quote(value: Any) -> str:
    """`value` as one word of sh, whatever it holds; a list as that many words."""
    if isinstance(value, (list, tuple)):
        return shlex.join(str(part) for part in value)
    return shlex.quote(str(value))


def to_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON; keys keep their order."""
    return json.dumps(value, ensure_ascii=False, indent=None if indent is None else max(0, min(int(indent), 16)))


class _Dumper(yaml.SafeDumper):
    """Without anchors: templates hold no references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def to_yaml(value: Any, block: bool = False) -> str:
    """`value` as YAML on one line, or (`block`) one key a line; without a line break at the end."""
    text = yaml.dump(
        value, Dumper=_Dumper, default_flow_style=not block, sort_keys=False, allow_unicode=True, width=1 << 30
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _format(budget: Callable[[], Budget], text: Any, /, *args: Any, **kwargs: Any) -> str:
    if args and kwargs:
        raise TypeError("format takes either positional or named values, not both")
    budget().pay(percent_size(str(text)))
    return str(str(text) % (kwargs or args))


def _join(budget: Callable[[], Budget], parts: Any, d: str = "", attribute: str | int | None = None) -> str:
    values = list(parts)
    if attribute is not None:
        raise TypeError("join takes no attribute here; use map(attribute=...) first")
    for value in values:
        if isinstance(value, Undefined):
            value._fail_with_undefined_error()
    budget().pay(joined_size(values, str(d)))
    return str(d).join(str(value) for value in values)


def _replace(budget: Callable[[], Budget], text: Any, old: str, new: str, count: int | None = None) -> str:
    budget().pay(replaced_size(str(text), str(old), str(new)))
    return str(text).replace(str(old), str(new), -1 if count is None else count)
