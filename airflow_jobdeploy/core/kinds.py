"""The kinds of values that fields take: how each is read from an Item, and its JSON Schema.

A kind's `read` returns the normalised value, or appends to `problems` and returns None. Numbers and booleans are
also taken from text that spells exactly one ("60", "true"): what Jinja renders is always text.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_jobdeploy.core.source import Item, described, shortened, suggestion
from airflow_jobdeploy.errors import Problem

Schema = dict[str, Any]
Problems = list[Problem]

_INTEGER = re.compile(r"[-+]?\d{1,18}")
_NUMBER = re.compile(r"[-+]?(\d{1,18}(\.\d{0,18})?|\.\d{1,18})([eE][-+]?\d{1,2})?")
_DURATION = re.compile(r"(?=.)(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?")
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([kmgtp]?)(i?)(b?)", re.IGNORECASE)
#: Control characters; in a path they are odd but possible, NUL apart.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Kind(Protocol):
    """What a field takes."""

    def read(self, item: Item, problems: Problems) -> Any: ...

    def schema(self) -> Schema: ...


def expected(item: Item, what: str, problems: Problems, hint: str = "") -> None:
    """Report that `item` holds something else than `what`."""
    problems.append(item.problem(f"expected {what}, found {described(item.value)}.", hint))


@dataclass(frozen=True)
class Text:
    """Text; one of `choices` if given (a mapping maps other spellings), matching `pattern` if given."""

    choices: tuple[str, ...] = ()
    pattern: str = ""
    spellings: Mapping[str, str] | None = None
    empty: bool = False
    lines: bool = False

    def read(self, item: Item, problems: Problems) -> str | None:
        value = item.value
        if not isinstance(value, str):
            scalar = isinstance(value, (bool, int, float))
            expected(item, "text", problems, f"Quote it: '{shortened(item.text)}'." if scalar else "")
            return None
        value = (self.spellings or {}).get(value, value)
        if self.choices and value not in self.choices:
            known = ", ".join(self.choices)
            problems.append(item.problem(f"{described(value)} is none of {known}.", suggestion(value, self.choices)))
        elif not value.strip() and not self.empty:
            problems.append(item.problem("must not be empty."))
        elif "\0" in value or (not self.lines and CONTROL.search(value)):
            problems.append(item.problem("holds a control character."))
        elif self.pattern and not re.fullmatch(self.pattern, value):
            problems.append(item.problem(f"{described(value)} does not match {self.pattern}."))
        else:
            return value
        return None

    def schema(self) -> Schema:
        limits: Schema = {"enum": [*self.choices, *(self.spellings or {})]} if self.choices else {}
        return {"type": "string", **limits, **({"pattern": f"^(?:{self.pattern})$"} if self.pattern else {})}


@dataclass(frozen=True)
class Number:
    """A number, whole if `whole`, within the limits (both included unless `above`)."""

    whole: bool = False
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None

    def read(self, item: Item, problems: Problems) -> Any:
        value = as_number(item.value, whole=self.whole)
        if value is None:
            expected(item, "a whole number" if self.whole else "a number", problems)
        elif self.minimum is not None and value < self.minimum:
            problems.append(item.problem(f"{value} is less than {self.minimum}."))
        elif self.maximum is not None and value > self.maximum:
            problems.append(item.problem(f"{value} is more than {self.maximum}."))
        elif self.above is not None and value <= self.above:
            problems.append(item.problem(f"{value} is not more than {self.above}."))
        else:
            return value
        return None

    def schema(self) -> Schema:
        limits = {"minimum": self.minimum, "maximum": self.maximum, "exclusiveMinimum": self.above}
        return {
            "type": "integer" if self.whole else "number",
            **{key: limit for key, limit in limits.items() if limit is not None},
        }


def as_number(value: Any, *, whole: bool) -> int | float | None:
    """`value` as a number: a number, or text that spells one; 5.0 is whole. None: it is none."""
    if isinstance(value, str):
        text = value.strip()
        if _INTEGER.fullmatch(text):
            return int(text)
        value = float(text) if _NUMBER.fullmatch(text) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    if whole and value != int(value):
        return None
    return int(value) if whole else value


@dataclass(frozen=True)
class Flag:
    """true or false."""

    def read(self, item: Item, problems: Problems) -> bool | None:
        value = item.value.strip().lower() if isinstance(item.value, str) else item.value
        if isinstance(value, bool) or value in ("true", "false"):
            return value in (True, "true")
        expected(item, "true or false", problems)
        return None

    def schema(self) -> Schema:
        return {"type": "boolean"}


@dataclass(frozen=True)
class Duration:
    """Seconds, or text as `1d2h3m4s`; more than zero unless `zero`. Read as seconds."""

    zero: bool = False

    def read(self, item: Item, problems: Problems) -> Any:
        seconds = as_number(item.value, whole=False)
        if seconds is None and isinstance(item.value, str):
            seconds = self._parsed(item.value.strip())
        if seconds is None:
            expected(item, "seconds, or a duration like 1d2h3m4s", problems)
        elif seconds < 0 or (seconds == 0 and not self.zero):
            problems.append(item.problem(f"{seconds} s is too short.", "Leave it out for no limit."))
        elif seconds > 100 * 365 * 86400:
            problems.append(item.problem(f"{seconds} s is more than a hundred years.", "Leave it out for no limit."))
        else:
            return seconds
        return None

    @staticmethod
    def _parsed(text: str) -> int | None:
        match = _DURATION.fullmatch(text)
        if match is None:
            return None
        return sum(int(part or 0) * unit for part, unit in zip(match.groups(), (86400, 3600, 60, 1), strict=True))

    def schema(self) -> Schema:
        limit = {"minimum": 0} if self.zero else {"exclusiveMinimum": 0}
        pattern = r"^([0-9.]+|(?=.)(\d+d)?(\d+h)?(\d+m)?(\d+s)?)$"
        return {"anyOf": [{"type": "number", **limit}, {"type": "string", "pattern": pattern}]}


@dataclass(frozen=True)
class Size:
    """Bytes: text with a unit (`512MB`, `16 GiB`: all units are powers of 1024), or a number of `unit` bytes."""

    unit: int = 1

    def read(self, item: Item, problems: Problems) -> int | None:
        number = as_number(item.value, whole=False)
        size = None if number is None else number * self.unit
        if size is None and isinstance(item.value, str):
            size = self._parsed(item.value.strip())
        if size is None:
            expected(item, "a size like 512MB or 16GB", problems)
        elif size < 1 or size >= 1 << 63:
            problems.append(item.problem(f"{shortened(item.text)} is not a possible size."))
        else:
            return int(size)
        return None

    @staticmethod
    def _parsed(text: str) -> float | None:
        match = _SIZE.fullmatch(text)
        if match is None or (match[3] and not match[2]):
            return None
        power = " kmgtp".index(match[2].lower()) if match[2] else 0
        return float(match[1]) * 1024**power

    def schema(self) -> Schema:
        pattern = r"^\s*[0-9]+([.][0-9]+)?\s*([kKmMgGtTpP]?[iI]?[bB]?)\s*$"
        return {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern}]}


@dataclass(frozen=True)
class Many:
    """A list, each element of one kind. Read as a tuple."""

    of: Kind = Text()
    noun: str = "a list"

    def read(self, item: Item, problems: Problems) -> tuple[Any, ...] | None:
        if not isinstance(item.value, list):
            expected(item, self.noun, problems)
            return None
        before = len(problems)
        values = tuple(self.of.read(element, problems) for element in item.elements())
        return values if len(problems) == before else None

    def schema(self) -> Schema:
        return {"type": "array", "items": self.of.schema()}


@dataclass(frozen=True)
class Words:
    """Arguments: text split as sh splits words, or a list of words (numbers as written). Read as a tuple."""

    def read(self, item: Item, problems: Problems) -> tuple[str, ...] | None:
        if isinstance(item.value, str):
            try:
                return tuple(shlex.split(item.value))
            except ValueError as error:
                problems.append(item.problem(f"cannot be split into words: {str(error).lower()}."))
                return None
        if not isinstance(item.value, list):
            expected(item, "text or a list of words", problems)
            return None
        before = len(problems)
        words = tuple(written(element, "text or a number", problems) for element in item.elements())
        return words if len(problems) == before else None

    def schema(self) -> Schema:
        word = {"type": ["string", "number", "boolean"]}
        return {"anyOf": [{"type": "string"}, {"type": "array", "items": word}]}


@dataclass(frozen=True)
class ShellText:
    """sh text; a list is its words, quoted. Read as text."""

    def read(self, item: Item, problems: Problems) -> str | None:
        if isinstance(item.value, str):
            return Text(lines=True).read(item, problems)
        words = Words().read(item, problems)
        return None if words is None else shlex.join(words)

    def schema(self) -> Schema:
        return Words().schema()


def written(item: Item, what: str, problems: Problems) -> str:
    """A scalar as the person wrote it: `3.10` stays `3.10`, `yes` stays `yes`."""
    if isinstance(item.value, (str, bool, int, float)):
        text = item.value if isinstance(item.value, str) else item.text
        if "\0" not in text:
            return text
        problems.append(item.problem("holds a NUL character."))
    else:
        expected(item, what, problems, "Write '' for an empty text." if item.value is None else "")
    return ""


@dataclass(frozen=True)
class Anything:
    """Any value (a mapping only, if `mapping`): for what this release knows, but does not honour yet."""

    mapping: bool = False

    def read(self, item: Item, problems: Problems) -> Any:
        if self.mapping and not isinstance(item.value, dict):
            expected(item, "a mapping", problems)
        return item.value

    def schema(self) -> Schema:
        return {"type": "object"} if self.mapping else {}
