"""Params of a template: what may be given, and whether what is given fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.fields import declared, fields_of, read_record
from airflow_jobdeploy.core.kinds import (
    CONTROL,
    Anything,
    Flag,
    Many,
    Number,
    Problems,
    Schema,
    Text,
    as_number,
)
from airflow_jobdeploy.core.source import Item, described, suggestion
from airflow_jobdeploy.core.variables import SECRET_REFERENCE, secret_reference
from airflow_jobdeploy.errors import Problem

#: Params that are filled by us when declared. Only `project` may be given.
FILLED = ("id", "subdir", "project", "created", "commit", "user")

#: Longest regular expression of a param.
MAX_PATTERN = 1_000
_SPELLINGS = {"str": "string", "text": "string", "int": "integer", "float": "number", "bool": "boolean"}
_SPELLINGS |= {"list": "array", "dict": "object", "mapping": "object"}
_TYPES = {"string": str, "boolean": bool, "array": list, "object": dict}
#: A group that repeats and is repeated: `(a+)+` can take longer than the universe to say no.
_NESTED_REPEAT = re.compile(r"[+*}][^()]*\)[+*{]")


@dataclass(frozen=True, kw_only=True)
class ParamSpec:
    """One declared param. Without a default it is required."""

    name: str
    type: str | None = declared(
        Text(("string", "integer", "number", "boolean", "array", "object"), spellings=_SPELLINGS), "What it takes."
    )
    default: Any = declared(Anything(), "What it is when not given.")  # noqa: RUF009
    enum: tuple[Any, ...] | None = declared(Many(Anything()), "The values to choose from.")
    minimum: float | None = declared(Number(), "The least number.")
    maximum: float | None = declared(Number(), "The largest number.")
    pattern: str | None = declared(Text(), "A regular expression that is found in the text.")
    description: str | None = declared(Text(lines=True), "What it is for; shown in forms.")
    secret: bool = declared(Flag(), "Given as a reference (conn:<id>.password, var:<key>), never kept.", False)
    required: bool = True
    #: Where it is declared.
    where: str = field(default="", compare=False, repr=False)

    @property
    def is_described(self) -> bool:
        """Whether more than the name is known."""
        return self != ParamSpec(name=self.name)

    def check(self, item: Item, problems: Problems) -> Any:
        """The value of `item` for this param: text that spells a number or boolean becomes one where that is asked."""
        if item.value is None and not self.required and self.default is None:
            return None
        if self.secret:
            return secret_reference(item, problems)
        value = self._typed(item, problems)
        if value is not None or item.value is None:
            self._check_limits(item, value, problems)
        return value

    def _typed(self, item: Item, problems: Problems) -> Any:
        value = item.value
        if isinstance(value, str) and "\0" in value:
            problems.append(item.problem("holds a NUL character."))
            return None
        if self.type is None:
            return value
        if self.type in ("integer", "number"):
            value = as_number(value, whole=self.type == "integer")
        elif self.type == "boolean" and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.strip().lower())
        elif not isinstance(value, _TYPES[self.type]):
            value = None
        if value is None:
            quote = self.type == "string" and isinstance(item.value, (bool, int, float))
            hint = f"Quote it: '{item.text}'." if quote else ""
            problems.append(item.problem(f"expected {_article(self.type)}, found {described(item.value)}.", hint))
        return value

    def _check_limits(self, item: Item, value: Any, problems: Problems) -> None:
        if self.enum is not None and not any(_same(value, choice) for choice in self.enum):
            choices = ", ".join(str(choice) for choice in self.enum)
            hint = suggestion(str(value), [str(choice) for choice in self.enum])
            problems.append(item.problem(f"{described(value)} is none of {choices}.", hint))
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if self.minimum is not None and value < self.minimum:
                problems.append(item.problem(f"{value} is less than {self.minimum}."))
            if self.maximum is not None and value > self.maximum:
                problems.append(item.problem(f"{value} is more than {self.maximum}."))
        if self.pattern is not None and isinstance(value, str) and not re.search(self.pattern, value):
            problems.append(item.problem(f"{described(value)} does not match {self.pattern}."))

    def json_schema(self) -> Schema:
        """JSON Schema of one value; `default` is absent when the param is required."""
        pattern = f"^(?:{SECRET_REFERENCE.pattern})$" if self.secret else self.pattern
        facts = {
            "title": self.name,
            "description": self.description,
            "type": "string" if self.secret else self.type,
            "enum": None if self.enum is None else list(self.enum),
            "minimum": self.minimum,
            "maximum": self.maximum,
            "pattern": pattern,
        }
        schema = {key: fact for key, fact in facts.items() if fact is not None}
        if not self.required:
            schema["default"] = self.default
            if self.default is None and "type" in schema:
                schema["type"] = [schema["type"], "null"]
        return schema

    def to_dict(self) -> dict[str, Any]:
        """As JSON, for the digest and for people."""
        facts = {entry.name: getattr(self, entry.attribute) for entry in fields_of(ParamSpec).values()}
        return {**facts, "enum": None if self.enum is None else list(self.enum), "required": self.required}


def _article(type_name: str) -> str:
    return {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}.get(
        type_name, {"array": "a list", "object": "a mapping"}.get(type_name, type_name)
    )


def _same(left: Any, right: Any) -> bool:
    """Equal, and not merely 1 == True."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def read_params(item: Item, problems: Problems) -> dict[str, ParamSpec]:
    """The `params` section: a list of names (or of one-key mappings), or a mapping of name -> type, default, ..."""
    if isinstance(item.value, dict):
        pairs = list(item.fields())
    elif isinstance(item.value, list):
        pairs = [pair for element in item.elements() for pair in _named(element, problems)]
    else:
        problems.append(item.problem(f"expected a list of names or a mapping, found {described(item.value)}."))
        return {}
    found: dict[str, ParamSpec] = {}
    for name, child in pairs:
        if name in found:
            problems.append(child.problem(f"the param {name!r} is declared twice.", "Remove one of them."))
        found[name] = _declared_param(name, child, problems)
    return found


def _named(item: Item, problems: Problems) -> list[tuple[str, Item]]:
    if isinstance(item.value, dict):
        return list(item.fields())
    if item.value is None or isinstance(item.value, list):
        problems.append(item.problem(f"expected a param's name, found {described(item.value)}."))
        return []
    return [(item.text, item.holding(None))]


def _declared_param(name: str, item: Item, problems: Problems) -> ParamSpec:
    if CONTROL.search(name) or not name.strip():
        problems.append(item.problem("a param's name is empty, or holds a control character."))
    if item.value is None:
        return ParamSpec(name=name, where=item.where)
    if not isinstance(item.value, dict):
        hint = "Write `default: ...` below the name for a default."
        problems.append(item.problem(f"expected a mapping of type, default, ..., found {described(item.value)}.", hint))
        return ParamSpec(name=name, where=item.where)
    before = len(problems)
    attributes = read_record(ParamSpec, item, problems, what="a param")
    spec = ParamSpec(name=name, **attributes, required="default" not in item.value, where=item.where)
    if len(problems) == before:
        _check_declaration(spec, item, problems)
    if "default" in item.value and len(problems) == before:
        return replace(spec, default=spec.check(item.child("default"), problems))
    return spec


def _check_declaration(spec: ParamSpec, item: Item, problems: Problems) -> None:
    if spec.pattern is not None:
        fault = pattern_fault(spec.pattern)
        if fault:
            problems.append(item.child("pattern").problem(fault))
    if spec.enum is not None and not spec.enum:
        problems.append(item.child("enum").problem("has no value to choose."))
    if spec.minimum is not None and spec.maximum is not None and spec.minimum > spec.maximum:
        problems.append(item.child("minimum").problem(f"{spec.minimum} is more than the maximum {spec.maximum}."))
    if spec.secret and (spec.type not in (None, "string") or spec.enum is not None):
        problems.append(item.child("secret").problem("a secret is text, and has no enum."))
    if spec.name in FILLED and spec.name != "project" and not spec.required:
        problems.append(item.problem(f"{spec.name!r} is filled for every job and has no default."))


def pattern_fault(pattern: str) -> str:
    """Why `pattern` cannot be used; "" when it can."""
    if len(pattern) > MAX_PATTERN:
        return f"is longer than {MAX_PATTERN} characters."
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"is not a regular expression: {error}."
    return "repeats a repeated group, which may take forever." if _NESTED_REPEAT.search(pattern) else ""


def gather(
    declared_params: Mapping[str, ParamSpec],
    given: Item,
    binds: Mapping[str, Item],
    filled: Mapping[str, str],
    problems: Problems,
) -> dict[str, Any]:
    """All params' values: given, bound, filled by us, or by default. Reports all that is unknown, missing or unfit."""
    for name, child in given.fields():
        _check_given(name, child, declared_params, binds, problems)
    values: dict[str, Any] = {}
    for name, spec in declared_params.items():
        item = given.child(name) if name in given.value else binds.get(name)
        if name in FILLED and (name != "project" or (item is None and spec.required)):
            values[name] = filled.get(name)
            if not filled.get(name):
                problems.append(
                    Problem(spec.where, f"params.{name}", f"{name!r} is not known here.", _FILL_HINTS.get(name, ""))
                )
        elif item is not None:
            values[name] = spec.check(item, problems)
        elif spec.required:
            hint = f"It is declared at {spec.where}." + (f" {spec.description}" if spec.description else "")
            problems.append(Problem(given.where, name, f"the param {name!r} is missing.", hint))
        else:
            values[name] = spec.default
    return values


_FILL_HINTS = {"commit": "The project is not in a git repository; remove the param or commit the project."}


def _check_given(
    name: str, item: Item, known: Mapping[str, ParamSpec], binds: Mapping[str, Item], problems: Problems
) -> None:
    if name in FILLED and name != "project":
        problems.append(item.problem(f"{name!r} is filled for every job and cannot be given.", "Leave it out."))
    elif name not in known:
        problems.append(item.problem(f"the template has no param {name!r}.", suggestion(name, known)))
    elif name in binds:
        hint = "Leave it out, or use the parent template."
        problems.append(item.problem(f"{name!r} is fixed by `binds` at {binds[name].where}.", hint))
