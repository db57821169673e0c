"""YAML text -> `Document`, with every limit and every message that a person needs.

The subset is JSON's data model in YAML's clothes. Differences from PyYAML's SafeLoader, each to avoid a known trap:
keys are the text as written (`on:` is "on", `1:` is "1"); `1:30`, `007`, dates, `.inf` and numbers too long for 64
bits stay text; `1e-3` is a number, as YAML 1.2 says; duplicate keys are problems. Anchors, aliases, merge keys
(`<<`) and the standard tags work; other tags are problems.

Parsing is PyYAML's own scanner, parser and composer (pure Python: the same messages everywhere, no recursion in C).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from yaml.composer import Composer
from yaml.error import MarkedYAMLError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader, ReaderError
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from airflow_jobdeploy.core.credentials import CREDENTIALS
from airflow_jobdeploy.core.repair import syntax_problem
from airflow_jobdeploy.core.source import (
    MAX_DEPTH,
    MAX_NODES,
    Document,
    Item,
    Keys,
    Mark,
    TooLargeError,
    checked_text,
    shortened,
)
from airflow_jobdeploy.errors import Problem

_TAG = "tag:yaml.org,2002:"
_TRUE = ("yes", "true", "on")
_QUOTE = "Text that starts with {{ must be quoted: '{{ params.x }}'."


class _TooMuchError(Exception):
    """The text is nested too deeply or holds too many values."""

    def __init__(self, problem: str, line: int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line


class _Resolver(BaseResolver):
    """Which plain scalars are numbers, booleans and null; all others are text."""


for _kind, _pattern, _first in (
    ("bool", r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF", "yYnNtTfFoO"),
    ("int", r"[-+]?(?:0|[1-9][0-9_]{0,17}|0x[0-9a-fA-F_]{1,15}|0b[01_]{1,63})", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]{1,3})?", "-+.0123456789"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("merge", r"<<", "<"),
):
    _Resolver.add_implicit_resolver(_TAG + _kind, re.compile(f"(?:{_pattern})$"), list(_first))


class _Composer(Reader, Scanner, Parser, Composer, _Resolver):
    """PyYAML's stages as far as nodes, bounded."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)
        self.depth = self.count = 0

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        self.depth += 1
        self.count += 1
        if self.depth > MAX_DEPTH:
            raise _TooMuchError(f"nested deeper than {MAX_DEPTH}", self.peek_event().start_mark.line + 1)
        if self.count > MAX_NODES:
            raise _TooMuchError(f"more than {MAX_NODES} values", self.peek_event().start_mark.line + 1)
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_yaml(data: bytes | str, name: str, problems: list[Problem], *, path: Path | None = None) -> Document | None:
    """Parse one YAML document; None when it is unusable. `problems` are appended to either way (duplicate keys).

    `name` is what problems call the file. Nothing is raised for any input.
    """
    before = len(problems)
    text = data if isinstance(data, str) else _decoded(data, name, problems)
    if text is None:
        return None
    node = _composed(text, name, problems)
    if node is None:
        return None
    walk = _Walk(name, problems)
    try:
        value = walk.value(node, ())
    except TooLargeError as error:
        problems.append(error.problem)
    document = None if len(problems) > before else Document(name=name, value=value, path=path, marks=walk.marks)
    problems.extend(walk.repeated)
    return document


def _decoded(data: bytes, name: str, problems: list[Problem]) -> str | None:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        problems.append(Problem(name, "", "is UTF-16.", "Save it as UTF-8."))
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message = f"byte 0x{data[error.start]:02x} is not UTF-8."
        problems.append(Problem(f"{name}:{line}:{column}", "", message, "Save the file as UTF-8."))
        return None


def _composed(text: str, name: str, problems: list[Problem]) -> Node | None:
    try:
        node: Node | None = _Composer(text).get_single_node()
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        message = f"the character U+{error.character:04X} is not allowed in YAML."
        problems.append(Problem(f"{name}:{line}:{column}", "", message, "Remove it."))
        return None
    except _TooMuchError as error:
        problems.append(Problem(f"{name}:{error.line}", "", f"{error.problem}.", "Is this the right file?"))
        return None
    except MarkedYAMLError as error:
        problems.append(syntax_problem(error, text, name))
        return None
    except (ValueError, OverflowError):  # an escape beyond U+10FFFF, a %YAML version of 5000 digits
        problems.append(Problem(name, "", "holds an escape or a directive that is no YAML."))
        return None
    if node is None:
        problems.append(Problem(name, "", "the file is empty.", "Expected a mapping of keys to values."))
    return node


class _Walk:
    """Nodes -> plain values and marks. Aliases are written out, so the count is of what the reader will see."""

    def __init__(self, name: str, problems: list[Problem]) -> None:
        self.document = Document(name=name, value=None)
        self.problems = problems
        #: Keys given twice: the rest of the document can be looked at all the same.
        self.repeated: list[Problem] = []
        self.marks: dict[Keys, Mark] = {}
        self.left = MAX_NODES

    def value(self, node: Node, keys: Keys, key_node: Node | None = None) -> Any:
        self._count(node, keys)
        self.marks[keys] = _mark(node, key_node)
        if isinstance(node, MappingNode):
            pairs = self._pairs(node, keys)
            return {key: self.value(child, (*keys, key), named) for key, (named, child) in pairs.items()}
        if isinstance(node, SequenceNode):
            if not self._known_tag(node, keys, "seq"):
                return None
            return [self.value(child, (*keys, index)) for index, child in enumerate(node.value)]
        return self._scalar(node, keys) if isinstance(node, ScalarNode) else None

    def _count(self, node: Node, keys: Keys) -> None:
        self.left -= 1
        if self.left < 0 or len(keys) > MAX_DEPTH:
            hint = f"At most {MAX_NODES} values, {MAX_DEPTH} deep; does an anchor contain itself?"
            problem = self._item(node, keys).problem("aliases make this too large or too deep.", hint)
            raise TooLargeError(replace(problem, path=shortened(problem.path)))

    def _pairs(self, node: MappingNode, keys: Keys) -> dict[str, tuple[Node, Node]]:
        """The mapping's own pairs over those of its merge keys, in the order written."""
        own: dict[str, tuple[Node, Node]] = {}
        merged: dict[str, tuple[Node, Node]] = {}
        if not self._known_tag(node, keys, "map"):
            return own
        for key_node, child in node.value:
            if key_node.tag == _TAG + "merge":
                for source in self._merge_sources(child, keys):
                    merged = {**self._pairs(source, keys), **merged}
            elif not isinstance(key_node, ScalarNode):
                self._problem(key_node, keys, "a key must be text, not a list or mapping.", _QUOTE)
            elif key_node.value in own:
                first = own[key_node.value][0].start_mark.line + 1
                message = f"the key {shortened(repr(key_node.value))} is given twice (first in line {first})."
                place = self._item(key_node, (*keys, key_node.value))
                self.repeated.append(place.problem(message, "Remove one of them."))
            else:
                own[checked_text(self._item(key_node, keys), key_node.value, self.problems)] = (key_node, child)
        return {**merged, **own}

    def _merge_sources(self, node: Node, keys: Keys) -> Iterator[MappingNode]:
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            self._count(node, keys)
            if isinstance(source, MappingNode) and not _merges_itself(source):
                yield source
            else:
                self._problem(
                    source, keys, "`<<` takes a mapping, or a list of mappings, that does not contain itself."
                )

    def _known_tag(self, node: Node, keys: Keys, kind: str) -> bool:
        if node.tag == _TAG + kind:
            return True
        self._problem(node, keys, f"the tag {shortened(node.tag.replace(_TAG, '!!'))} is not supported.", "Remove it.")
        return False

    def _scalar(self, node: ScalarNode, keys: Keys) -> Any:
        kind = node.tag.removeprefix(_TAG)
        text = checked_text(self._item(node, keys), node.value, self.problems)
        if kind in ("str", "merge"):
            return text
        if kind == "null":
            return None
        try:
            return _converted(kind, text)
        except KeyError:
            self._known_tag(node, keys, "str")
        except (ValueError, OverflowError):
            shown = "the value" if keys and keys[-1] in CREDENTIALS else shortened(repr(text))
            self._problem(node, keys, f"{shown} is not of the type that its tag !!{kind} says.")
        return None

    def _item(self, node: Node, keys: Keys) -> Item:
        document = Document(name=self.document.name, value=None, marks={keys: Mark(node.start_mark.line + 1)})
        return Item(None, document, keys)

    def _problem(self, node: Node, keys: Keys, message: str, hint: str = "") -> None:
        self.problems.append(self._item(node, keys).problem(message, hint))


def _mark(node: Node, key_node: Node | None) -> Mark:
    line = (key_node or node).start_mark.line + 1
    if not isinstance(node, ScalarNode):
        return Mark(line)
    return Mark(line, node.value, node.start_mark.line + 2 if node.style == "|" else None)


def _merges_itself(node: MappingNode) -> bool:
    """Whether following `<<` from `node` leads back to it."""
    seen: list[Node] = []
    queue: list[Node] = [node]
    while queue:
        current = queue.pop()
        for key, value in current.value if isinstance(current, MappingNode) else ():
            if key.tag == _TAG + "merge":
                sources = value.value if isinstance(value, SequenceNode) else [value]
                if any(source is node for source in sources):
                    return True
                queue.extend(source for source in sources if not any(source is known for known in seen))
                seen.extend(sources)
    return False


def _converted(kind: str, text: str) -> Any:
    """A bool, int or float. KeyError: no such type; ValueError: `text` is none."""
    plain = text.replace("_", "").lower()
    if kind == "bool":
        if plain not in (*_TRUE, "no", "false", "off"):
            raise ValueError(text)
        return plain in _TRUE
    if kind == "int":
        if len(plain) > 66:
            raise ValueError(text)
        return int(plain, 0 if plain.lstrip("+-")[:2] in ("0x", "0b") else 10)
    if kind == "float":
        number = float(plain)
        return number if math.isfinite(number) else text
    raise KeyError(kind)
