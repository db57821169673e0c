"""Environment variables and references to secrets, as files write them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from airflow_jobdeploy.core.kinds import Problems, Schema, expected, written
from airflow_jobdeploy.core.source import Item, shortened

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: A secret kept in Airflow: the connection's field (`extra.` and a key for its extra), or a Variable.
SECRET_REFERENCE = re.compile(
    r"conn:[\w.\-/]{1,250}?\.(?:password|login|host|extra\.[^\s.][^\s]{0,250})|var:[^\s]{1,250}"
)
_SECRET_HINT = "Give a reference: conn:<id>.password (login, host, extra.<key>) or var:<key>."


@dataclass(frozen=True)
class Variables:
    """Environment variables: a mapping, a list of {name, value}, or a list of `NAME=value`. Read as a dict."""

    #: Reads one value; by default as written.
    value: Callable[[Item, Problems], str] = lambda item, problems: written(item, "a value", problems)
    value_schema: Schema | None = None

    def read(self, item: Item, problems: Problems) -> dict[str, str] | None:
        before = len(problems)
        if isinstance(item.value, dict):
            pairs = list(item.fields())
        elif isinstance(item.value, list):
            pairs = [pair for element in item.elements() for pair in _pair(element, problems)]
        else:
            expected(item, "a mapping, a list of {name, value}, or a list of NAME=value", problems)
            return None
        found: dict[str, str] = {}
        for name, value in pairs:
            _check_variable(name, value, found, problems)
            found[name] = self.value(value, problems)
        return found if len(problems) == before else None

    def schema(self) -> Schema:
        scalar = self.value_schema or {"type": ["string", "number", "boolean"]}
        pair = {
            "type": "object",
            "properties": {"name": {"type": "string"}, "value": scalar},
            "required": ["name", "value"],
            "additionalProperties": False,
        }
        items = {"anyOf": [pair, {"type": "string", "pattern": "^[A-Za-z_][A-Za-z0-9_]*="}]}
        return {"anyOf": [{"type": "object", "additionalProperties": scalar}, {"type": "array", "items": items}]}


def _pair(item: Item, problems: Problems) -> list[tuple[str, Item]]:
    """The one pair that an element of an `env` list gives, if it is one."""
    if isinstance(item.value, str) and "=" in item.value:
        name, _, value = item.value.partition("=")
        return [(name, item.holding(value))]
    if isinstance(item.value, dict) and set(item.value) == {"name", "value"} and isinstance(item.value["name"], str):
        return [(item.value["name"], item.child("value"))]
    # The value is not shown: it may be a secret.
    problems.append(item.problem("expected NAME=value, or a mapping with `name` and `value`."))
    return []


def _check_variable(name: str, item: Item, found: Mapping[str, str], problems: Problems) -> None:
    if not _ENV_NAME.fullmatch(name):
        problems.append(item.problem(f"{shortened(repr(name))} is not a name for an environment variable."))
    elif name.startswith("JOBDEPLOY_"):
        problems.append(item.problem(f"{name} is set for every job: names with JOBDEPLOY_ are taken."))
    elif name in found:
        problems.append(item.problem(f"{name} is given twice.", "Remove one of them."))


def secret_reference(item: Item, problems: Problems) -> str:
    """A reference to a secret. A literal is a problem, and is not shown."""
    if isinstance(item.value, str) and SECRET_REFERENCE.fullmatch(item.value):
        return item.value
    problems.append(item.problem("is a secret, and must not be written here.", _SECRET_HINT))
    return ""


SECRETS = Variables(secret_reference, {"type": "string", "pattern": "^(conn:.+[.].+|var:.+)$"})
