"""Text or mappings written by a person -> plain values that remember where they were written.

A `Document` is a plain JSON-like value beside a table of marks (path inside the value -> line). An `Item` is a
cursor into it: everything that validates reads through Items, so that every problem can name file, line and path
without the values themselves being anything but `dict`, `list`, `str`, `int`, `float`, `bool` and `None`.

YAML is parsed in `core.yaml_text`, files are found in `core.files`; here are the cursor and Python mappings.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, Union

from airflow_jobdeploy.errors import Problem, nearest

#: Deepest nesting of lists and mappings.
MAX_DEPTH = 40
#: Most values in one document, aliases written out ("billion laughs" ends here).
MAX_NODES = 20_000

Keys = tuple[Union[str, int], ...]
_SIMPLE_KEY = re.compile(r"[\w-]+")
_PLACE = re.compile(r"(.*?):(\d+)(?::\d+)?", re.DOTALL)


@dataclass(frozen=True)
class Mark:
    """Where one value stands: 1-based `line` of its key or list item, and how it was written."""

    line: int
    #: A scalar as written (`3.10`, `yes`), before YAML made a number or bool of it; None for lists and mappings.
    text: str | None = None
    #: Line of the first line of a literal block (`|`), so that line n of the text is `body_line + n - 1`.
    body_line: int | None = None


@dataclass(frozen=True, kw_only=True)
class Document:
    """One file or mapping. `name` is what problems call it: the path as the user knows it, or `<template>`."""

    name: str
    value: Any
    path: Path | None = None
    marks: Mapping[Keys, Mark] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Item:
    """A cursor: one value of a document, with its place."""

    value: Any
    document: Document = field(repr=False)
    keys: Keys = ()

    @property
    def mark(self) -> Mark | None:
        """The mark of this value, else of the nearest value around it that has one."""
        marks = self.document.marks
        return next((marks[self.keys[:n]] for n in range(len(self.keys), -1, -1) if self.keys[:n] in marks), None)

    @property
    def where(self) -> str:
        """ "file:line", or the name alone when the document is a mapping given in Python."""
        return self.document.name if self.mark is None else f"{self.document.name}:{self.mark.line}"

    @property
    def path(self) -> str:
        """The place inside the document: `builds.up.content[2]`."""
        return dotted(self.keys)

    @property
    def text(self) -> str:
        """A scalar as the person wrote it (`3.10` stays `3.10`)."""
        mark = self.document.marks.get(self.keys)
        if mark is not None and mark.text is not None:
            return mark.text
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)

    def where_line(self, line: int) -> str:
        """The place of line `line` (from 1) of a text: exact in literal blocks, else the text's own line."""
        mark = self.document.marks.get(self.keys)
        if mark is None or mark.body_line is None:
            return self.where
        return f"{self.document.name}:{mark.body_line + line - 1}"

    def child(self, key: str | int) -> Item:
        """The value under `key`; its type is the caller's to check."""
        return Item(self.value[key], self.document, (*self.keys, key))

    def fields(self) -> Iterator[tuple[str, Item]]:
        """The pairs of a mapping, in order; nothing for any other value."""
        if isinstance(self.value, dict):
            yield from ((key, self.child(key)) for key in self.value)

    def elements(self) -> Iterator[Item]:
        """The elements of a list; nothing for any other value."""
        if isinstance(self.value, list):
            yield from (self.child(index) for index in range(len(self.value)))

    def holding(self, value: Any) -> Item:
        """The same place with another value: what rendering or an older spelling made of it."""
        return replace(self, value=value)

    def problem(self, message: str, hint: str = "", *, where: str = "") -> Problem:
        """A problem at this place (or, inside a long text, at `where`)."""
        return Problem(where or self.where, self.path, message, hint)


def dotted(keys: Keys) -> str:
    """`("builds", "up", "content", 2)` -> `builds.up.content[2]`; odd keys are quoted."""
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif _SIMPLE_KEY.fullmatch(key):
            path += f".{key}" if path else key
        else:
            path += f"[{shortened(repr(key))}]"
    return path


def in_order(problems: Sequence[Problem]) -> list[Problem]:
    """Problems by line, files in the order in which they first have one."""
    places = [_PLACE.fullmatch(problem.where) for problem in problems]
    files = [place[1] if place else problem.where for place, problem in zip(places, problems, strict=True)]
    keys = [(files.index(file), int(place[2]) if place else 0) for file, place in zip(files, places, strict=True)]
    return [problem for _, problem in sorted(zip(keys, problems, strict=True), key=lambda pair: pair[0])]


def suggestion(name: str, known: Iterable[str]) -> str:
    """ "Did you mean 'x'?" or "". Bounded: thousands of misspelt names among thousands must not take minutes."""
    return nearest(name, islice(known, 200)) if len(name) <= 100 else ""


def shortened(text: str, limit: int = 60) -> str:
    """`text`, cut to `limit` characters for a message."""
    return text if len(text) <= limit else text[: limit - 3] + "..."


_NAMES = {dict: "a mapping", list: "a list", bool: "a boolean", int: "a whole number", float: "a number", str: "text"}


def described(value: Any) -> str:
    """What was found, for a message: `text 'abc'`, `a whole number 3`, `a list`, `nothing`."""
    if value is None:
        return "nothing (null)"
    name = _NAMES.get(type(value), type(value).__name__)
    if isinstance(value, (dict, list)):
        return name
    shown = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"{name} {shortened(shown)}"


class TooLargeError(Exception):
    """A document passes MAX_NODES or MAX_DEPTH; holds the one problem to report."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def from_mapping(value: Mapping[str, Any], label: str, problems: list[Problem]) -> Document | None:
    """A mapping given in Python, copied and checked: the same plain values as YAML gives. None: see `problems`."""
    try:
        return Document(name=label, value=_Copy(label, problems).of(value, ()))
    except TooLargeError as error:
        problems.append(error.problem)
        return None


class _Copy:
    """Copies lists and mappings, converts what is nearly plain, and reports what is not."""

    def __init__(self, label: str, problems: list[Problem]) -> None:
        self.document = Document(name=label, value=None)
        self.problems = problems
        self.left = MAX_NODES

    def of(self, value: Any, keys: Keys) -> Any:
        self.left -= 1
        if self.left < 0 or len(keys) > MAX_DEPTH:
            message = f"more than {MAX_NODES} values, or nested deeper than {MAX_DEPTH}."
            raise TooLargeError(
                Problem(self.document.name, shortened(dotted(keys)), message, "Does it contain itself?")
            )
        if isinstance(value, Mapping):
            self._check_keys(value, keys)
            pairs = [(str.__str__(key), child) for key, child in value.items() if isinstance(key, str)]
            return {key: self.of(child, (*keys, key)) for key, child in pairs}
        if isinstance(value, (list, tuple)):
            return [self.of(child, (*keys, index)) for index, child in enumerate(value)]
        return self._scalar(Item(value, self.document, keys))

    def _check_keys(self, value: Mapping[Any, Any], keys: Keys) -> None:
        place = Item(value, self.document, keys)
        for key in value:
            if isinstance(key, str):
                checked_text(place, key, self.problems)
            else:
                self.problems.append(place.problem(f"the key {shortened(repr(key))} is not text."))

    def _scalar(self, place: Item) -> Any:
        value = place.value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, (int, float)):
            return self._number(place)
        if isinstance(value, os.PathLike):
            value = os.fspath(value)
        if isinstance(value, str):
            return checked_text(place, value, self.problems)
        hint = "Use text, numbers, booleans, lists and mappings."
        self.problems.append(place.problem(f"a value of type {type(value).__name__} cannot be used here.", hint))
        return None

    def _number(self, place: Item) -> int | float | None:
        """A number that every reader of JSON can hold."""
        value: int | float = place.value
        if isinstance(value, int) and value.bit_length() <= 64:
            return int(value)
        if isinstance(value, float) and math.isfinite(value):
            return float(value)
        shown = value if isinstance(value, float) else f"a number of {value.bit_length()} bits"
        self.problems.append(
            place.problem(f"{shown} cannot be kept.", "Numbers are finite and of 64 bits; or use text.")
        )
        return None


def checked_text(place: Item, text: str, problems: list[Problem]) -> str:
    """`text` as a plain str. Surrogate pairs (JSON's escapes) become their character; half a pair is a problem."""
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        problems.append(place.problem("holds half of a surrogate pair, which is not a character."))
        return ""
