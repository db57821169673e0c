"""`retry`: for which causes a job is run again within one try of its Airflow task.

retry: {on: [worker_lost, out_of_memory, {exit_code: [75]}], max: 3, delay: 1m}
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_jobdeploy.core.fields import declared, read_record, record_schema
from airflow_jobdeploy.core.kinds import Duration, Number, Problems, Schema, as_number, expected
from airflow_jobdeploy.core.sequels import CAUSES
from airflow_jobdeploy.core.source import Item
from airflow_jobdeploy.errors import nearest

_CODE = "exit_code:"


@dataclass(frozen=True)
class Causes:
    """A list of causes, and of {exit_code: [75, ...]}. Read as names of causes and as "exit_code:75"."""

    def read(self, item: Item, problems: Problems) -> tuple[str, ...] | None:
        if not isinstance(item.value, list):
            expected(item, "a list of causes", problems, f"They are {', '.join(CAUSES)} and {{exit_code: [75]}}.")
            return None
        before = len(problems)
        found = [cause for element in item.elements() for cause in self._one(element, problems)]
        return tuple(dict.fromkeys(found)) if len(problems) == before else None

    def _one(self, item: Item, problems: Problems) -> list[str]:
        if isinstance(item.value, dict) and set(item.value) == {"exit_code"}:
            return _codes(item.child("exit_code"), problems)
        if isinstance(item.value, str) and item.value in CAUSES:
            return [item.value]
        hint = nearest(str(item.value), CAUSES) or f"They are {', '.join(CAUSES)} and {{exit_code: [75]}}."
        expected(item, "a cause", problems, hint)
        return []

    def schema(self) -> Schema:
        codes = {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": "integer"}}]}
        one = {"type": "object", "properties": {"exit_code": codes}, "required": ["exit_code"]}
        return {"type": "array", "items": {"anyOf": [{"enum": list(CAUSES)}, {**one, "additionalProperties": False}]}}


def _codes(item: Item, problems: Problems) -> list[str]:
    entries = list(item.elements()) if isinstance(item.value, list) else [item]
    found = []
    for entry in entries:
        number = as_number(entry.value, whole=True)
        if number is None or not 1 <= number <= 255:
            expected(entry, "an exit code from 1 to 255", problems)
        else:
            found.append(f"{_CODE}{int(number)}")
    return found


@dataclass(frozen=True, kw_only=True)
class RetryRule:
    """When a job is run again, how often, after how long."""

    on: tuple[str, ...] = declared(Causes(), "Causes that are worth another attempt.", ())
    max: int = declared(Number(whole=True, minimum=0), "How often, at most.", 3)
    delay_s: float = declared(Duration(zero=True), "How long the worker waits before it starts again.", 0)

    @property
    def causes(self) -> tuple[str, ...]:
        """Those that are names of reasons."""
        return tuple(cause for cause in self.on if not cause.startswith(_CODE))

    @property
    def exit_codes(self) -> tuple[int, ...]:
        """Exit codes that are worth another attempt."""
        return tuple(int(cause.removeprefix(_CODE)) for cause in self.on if cause.startswith(_CODE))


@dataclass(frozen=True)
class Retry:
    """A RetryRule; a number alone is `{on: [every cause], max: number}`."""

    def read(self, item: Item, problems: Problems) -> RetryRule | None:
        number = as_number(item.value, whole=True)
        if number is not None and number >= 0 and not isinstance(item.value, bool):
            return RetryRule(on=tuple(CAUSES), max=int(number))
        before = len(problems)
        attributes = read_record(RetryRule, item, problems, what="retry")
        return RetryRule(**attributes) if len(problems) == before else None

    def schema(self) -> Schema:
        return {"anyOf": [record_schema(RetryRule), {"type": "integer", "minimum": 0}]}


def retry_from_dict(data: object) -> RetryRule | None:
    """A rule from its JSON. TypeError when it is none."""
    if data is None:
        return None
    if not isinstance(data, dict):
        raise TypeError(f"retry is {data!r}")
    return RetryRule(**{**data, "on": tuple(data.get("on", ()))})
