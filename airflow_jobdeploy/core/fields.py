"""Records: frozen dataclasses whose fields say, once, how they are read, described and honoured.

The same declaration drives parsing, problems, JSON both ways, JSON Schema and the reference pages. A field's name in
files is the attribute's name without its unit: `timeout_s` is written `timeout`, `memory_bytes` `memory`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.core.kinds import Kind, Problems, Schema, expected
from airflow_jobdeploy.core.source import Item, shortened, suggestion

_UNITS = ("_s", "_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Field:
    """One field of a record."""

    attribute: str
    kind: Kind
    doc: str
    default: Any
    #: What would honour any value but the default: "a docker pool". "" when this release does.
    needs: str = ""
    #: Kinds of pools that honour it all the same; and those that do not yet, of a field that others honour.
    honoured_by: tuple[str, ...] = ()
    missing_on: tuple[str, ...] = ()
    #: Values beside the default that ask for nothing more.
    same: tuple[Any, ...] = ()
    #: Also a field of a template's `options`.
    option: bool = False
    required: bool = False

    @property
    def name(self) -> str:
        """The name in files."""
        return next((self.attribute.removesuffix(u) for u in _UNITS if self.attribute.endswith(u)), self.attribute)


def declared(kind: Kind, doc: str, default: Any = None, **facts: Any) -> Any:
    """The declaration of one attribute of a record (a `dataclasses.field`)."""
    metadata = {"kind": kind, "doc": doc, **facts}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@functools.cache
def fields_of(record: type) -> Mapping[str, Field]:
    """The fields of a record by their names in files, in order."""
    found = {}
    for entry in dataclasses.fields(record):
        if "kind" in entry.metadata:
            default = {} if entry.default_factory is dict else entry.default
            field = Field(attribute=entry.name, default=default, **entry.metadata)
            found[field.name] = field
    return found


def read_record(
    record: type, item: Item, problems: Problems, *, what: str, hints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Attributes for `record` from a mapping. Reports what `read_fields` does, and missing fields."""
    if not isinstance(item.value, dict):
        expected(item, f"a mapping ({what})", problems)
        return {}
    for name, field in fields_of(record).items():
        if field.required and item.value.get(name) is None:
            problems.append(item.problem(f"{what} needs {name!r}.", f"{name}: {field.doc[0].lower()}{field.doc[1:]}"))
    return read_fields(record, dict(item.fields()), problems, what=what, hints=hints)


def read_fields(
    record: type, items: Mapping[str, Item], problems: Problems, *, what: str, hints: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Attributes for `record` from its fields by name; null means the default. `hints`: unknown names -> what to do.

    Reports unknown names and whatever each kind reports; attributes with problems are left out.
    """
    known = fields_of(record)
    attributes: dict[str, Any] = {}
    for name, item in items.items():
        field = known.get(name)
        if field is None:
            hint = (hints or {}).get(name) or suggestion(name, known)
            problems.append(item.problem(f"{what} has no field {shortened(repr(name))}.", hint))
        elif item.value is not None:
            value = field.kind.read(item, problems)
            if value is not None:
                attributes[field.attribute] = value
    return attributes


def record_schema(record: type) -> Schema:
    """The JSON Schema of a record's mapping in files. Null is the default everywhere."""
    fields = fields_of(record)
    properties = {name: _property(field) for name, field in fields.items()}
    required = [name for name, field in fields.items() if field.required]
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _property(field: Field) -> Schema:
    schema = field.kind.schema()
    nullable = schema if field.required or not schema else {"anyOf": [schema, {"type": "null"}]}
    return {"description": field.doc, **nullable}


def plain(value: Any) -> Any:
    """A normalised value as JSON: tuples become lists, records mappings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.attribute: plain(getattr(value, f.attribute)) for f in fields_of(type(value)).values()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return value


@dataclasses.dataclass(frozen=True)
class Record:
    """The kind of a mapping that is a record of its own."""

    record: type
    what: str

    def read(self, item: Item, problems: Problems) -> Any:
        before = len(problems)
        attributes = read_record(self.record, item, problems, what=self.what)
        return self.record(**attributes) if len(problems) == before else None

    def schema(self) -> Schema:
        return record_schema(self.record)


@dataclasses.dataclass(frozen=True)
class Named:
    """The kind of a mapping from names to records."""

    of: Record

    def read(self, item: Item, problems: Problems) -> dict[str, Any] | None:
        if not isinstance(item.value, dict):
            expected(item, "a mapping of names", problems)
            return None
        return {name: self.of.read(child, problems) for name, child in item.fields()}

    def schema(self) -> Schema:
        return {"type": "object", "additionalProperties": self.of.schema()}
