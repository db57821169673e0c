"""Labels of workers, and `where`: which of them a job may go to.

    workers: [{conn_id: gpu-a, labels: {zone: a, disk: nvme}}]        in a pool
    where: {zone: [a, b], disk: nvme}                                  in a job spec

Each key must be a label of the worker, with one of the values. `worker` is a label that every worker has: its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from airflow_jobdeploy.core.kinds import Problems, Schema, expected, written
from airflow_jobdeploy.core.source import Item, shortened

#: The label that every worker has.
WORKER = "worker"
#: Of labels, and of engines.
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
_NAME_HINT = "Names are letters, digits, '-', '_' and '.', up to 63."
_SCALAR: Schema = {"type": ["string", "number", "boolean"]}


def _value(item: Item, problems: Problems) -> str:
    text = written(item, "text", problems)
    if not text.strip() or len(text) > 200:
        problems.append(item.problem("must not be empty, nor longer than 200 characters."))
    return text


@dataclass(frozen=True)
class Labels:
    """A mapping of names to values, as written."""

    def read(self, item: Item, problems: Problems) -> dict[str, str] | None:
        if not isinstance(item.value, dict):
            expected(item, "a mapping of labels", problems)
            return None
        before = len(problems)
        for name, child in item.fields():
            _check_name(name, child, problems)
            if name == WORKER:
                problems.append(child.problem("'worker' is the worker's own name.", "Call the label otherwise."))
        found = {name: _value(child, problems) for name, child in item.fields()}
        return found if len(problems) == before else None

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": _SCALAR}


@dataclass(frozen=True)
class Where:
    """A mapping of labels to a value, or to a list of values of which any will do. Read as tuples."""

    def read(self, item: Item, problems: Problems) -> dict[str, tuple[str, ...]] | None:
        if not isinstance(item.value, dict):
            expected(item, "a mapping of labels such as {zone: a}", problems)
            return None
        before = len(problems)
        found: dict[str, tuple[str, ...]] = {}
        for name, child in item.fields():
            _check_name(name, child, problems)
            if isinstance(child.value, list) and not child.value:
                problems.append(child.problem("an empty list is no value.", "Leave the label out for any."))
            each = child.elements() if isinstance(child.value, list) else [child]
            found[name] = tuple(_value(element, problems) for element in each)
        return found if len(problems) == before else None

    def schema(self) -> Schema:
        value = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}
        return {"type": "object", "additionalProperties": value}


def _check_name(name: str, item: Item, problems: Problems) -> None:
    if not re.fullmatch(NAME, name):
        problems.append(item.problem(f"{shortened(repr(name))} is not a label's name.", _NAME_HINT))


def mismatch(where: Mapping[str, tuple[str, ...]], labels: Mapping[str, str]) -> str:
    """The first of `where` that `labels` do not meet, in words; "" when they meet all."""
    for name, values in where.items():
        if labels.get(name) not in values:
            wanted = " or ".join(values)
            return f"its {name} is {labels[name]}, not {wanted}" if name in labels else f"it has no {name}: {wanted}"
    return ""
