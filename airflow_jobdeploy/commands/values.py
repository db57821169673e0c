"""Values given on the command line: `k=v`, several with commas, whole files as `@file.yaml`.

    --params epochs=3 --params 'run=python main.py'      one each
    --params epochs=3,lr=0.1                             several: split before every `,name=`
    --params 'run="train --a=1,b=2",epochs=3'            double quotes keep what is in them together
    --params @values.yaml --params epochs=3              from a file; what comes later wins

Texts become what the param is declared to be; where nothing is declared, YAML scalars (`3`, `true`, `null`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.files import read_source
from airflow_jobdeploy.core.kinds import Duration
from airflow_jobdeploy.core.params import ParamSpec
from airflow_jobdeploy.core.source import Document, Item
from airflow_jobdeploy.core.yaml_text import parse_yaml
from airflow_jobdeploy.errors import InputError, Problem

_PAIR = re.compile(
    r'(?P<key>[^=,]+)=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"(?=,[A-Za-z_][\w.-]*=|,?$)|(?P<plain>.*))', re.DOTALL
)
_ENDS = re.compile(r",(?=[A-Za-z_][\w.-]*=)")


class UsageError(Exception):
    """The command line is wrong: the text says how it should be."""


class Quoted(str):
    """A value in double quotes: text, whatever it looks like."""

    __slots__ = ()


def read_pairs(given: Iterable[str]) -> dict[str, Any]:
    """All `k=v` groups and `@file`s, in order; values are texts, but those from files. UsageError, InputError."""
    found: dict[str, Any] = {}
    for group in given:
        found.update(_from_file(group[1:]) if group.startswith("@") else _from_text(group))
    return found


def _from_file(name: str) -> dict[str, Any]:
    problems: list[Problem] = []
    item = read_source(name, problems, label="--params", base=Path.cwd())
    if problems or item is None:
        raise InputError(problems)
    return dict(item.value)


def _from_text(group: str) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = group
    while rest:
        pair = _PAIR.match(rest)
        key = pair["key"].strip() if pair else ""
        if pair is None or not key:
            raise UsageError(f"{rest!r} is no k=v. Write --params name=value, or --params @file.yaml")
        if pair["quoted"] is not None:
            found[key] = Quoted(re.sub(r"\\(.)", r"\1", pair["quoted"]))
            rest = rest[pair.end() :].removeprefix(",")
            continue
        cut = _ENDS.search(pair["plain"])
        found[key] = pair["plain"][: cut.start()] if cut else pair["plain"]
        rest = pair["plain"][cut.end() :] if cut else ""
    return found


def read_age_s(given: str | None, option: str) -> float | None:
    """A time ago (`2h`, `1d12h`) or a date (`2026-01-31`, `2026-01-31T12:00`; this machine's time) -> seconds ago.

    UsageError.
    """
    if given is None:
        return None
    seconds = _duration(given, option, [], zero=True)
    if seconds is not None:
        return seconds
    try:
        moment = datetime.fromisoformat(given.strip())
    except ValueError:
        text = f"{option}: {given!r} is neither a time ago (30m, 2h, 1d12h) nor a date (2026-01-31, 2026-01-31T12:00)"
        raise UsageError(text) from None
    return (datetime.now(timezone.utc) - moment.astimezone(timezone.utc)).total_seconds()


def read_seconds(given: str, option: str, *, zero: bool = False) -> float:
    """`90`, `30s`, `1h30m`, in seconds. UsageError."""
    problems: list[Problem] = []
    seconds: float | None = _duration(given, option, problems, zero=zero)
    if seconds is None:
        raise UsageError(str(problems[0]))
    return seconds


def _duration(given: str, option: str, problems: list[Problem], *, zero: bool) -> float | None:
    found: float | None = Duration(zero=zero).read(Item(given, Document(name=option, value=given)), problems)
    return found


def for_params(given: Mapping[str, Any], declared: Mapping[str, ParamSpec]) -> dict[str, Any]:
    """Texts turned into what each param is declared to take; what does not fit is left for the template to refuse."""
    return {name: _typed(value, declared.get(name)) for name, value in given.items()}


def for_fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a job spec: its fields read numbers, durations and flags from text; lists and mappings are YAML."""
    return {name: _field(value) for name, value in given.items()}


def _field(value: Any) -> Any:
    if not isinstance(value, str) or isinstance(value, Quoted):
        return _plain(value)
    return None if value == "null" else _collection(value, as_written=True)


def _typed(value: Any, spec: ParamSpec | None) -> Any:
    if not isinstance(value, str) or isinstance(value, Quoted):
        return _plain(value)
    if spec is None or (spec.type is None and not spec.secret):
        return _scalar(value)
    if value == "null" and not spec.required and spec.default is None:
        return None
    if spec.type == "array" and not value.startswith("["):
        return [_scalar(part) for part in value.split("+") if part]  # as AI Job Deploy writes lists: a+b+3
    return _collection(value) if spec.type in ("array", "object") else value


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Quoted) else value


def _scalar(text: str) -> Any:
    """A YAML number, boolean or null; `[...]` and `{...}` as YAML; else the text."""
    if text[:1] in ("[", "{"):
        return _collection(text)
    problems: list[Problem] = []
    document = parse_yaml(text, "--params", problems) if text.strip() else None
    if document is None or problems or not isinstance(document.value, (bool, int, float, type(None))):
        return text
    return text if text.lstrip().startswith("#") else document.value


def _collection(text: str, *, as_written: bool = False) -> Any:
    """`[...]` and `{...}` as YAML where they are, numbers in them `as_written` (3.10); else the text (`{{` is text)."""
    if text[:1] not in ("[", "{"):
        return text
    problems: list[Problem] = []
    document = parse_yaml(text, "--params", problems)
    if document is None or problems:
        return text
    return _written(Item(document.value, document)) if as_written else document.value


def _written(item: Item) -> Any:
    if isinstance(item.value, dict):
        return {key: _written(child) for key, child in item.fields()}
    if isinstance(item.value, list):
        return [_written(element) for element in item.elements()]
    is_number = isinstance(item.value, (int, float)) and not isinstance(item.value, bool)
    return item.text if is_number else item.value
