"""What to say about text that is not YAML: the place, the cause in words, and where possible the corrected block."""

from __future__ import annotations

import re

import yaml
from yaml.error import MarkedYAMLError

from airflow_jobdeploy.core.credentials import masked
from airflow_jobdeploy.errors import Problem

#: YAML 1.1's line breaks, which PyYAML counts.
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
#: PyYAML's words -> what the person can do.
_HINTS = {
    "found character '\\t'": "YAML indents with spaces: replace the tab.",
    "found a tab character": "YAML indents with spaces: replace the tab.",
    "expected a single document": "Keep one document a file: remove the `---` and what follows it.",
    "found undefined alias": "Define the anchor (`&name`) before the alias (`*name`).",
    "found unexpected end of stream": "A quote or bracket is not closed.",
    "found character '%'": "Quote the text.",
    "found character '@'": "Quote the text.",
    "found character '`'": "Quote the text.",
    "did not find expected ',' or '}'": "Text that starts with {{ must be quoted: '{{ params.x }}'.",
    "expected ',' or '}'": "Text that starts with {{ must be quoted: '{{ params.x }}'.",
    "unhashable key": "Text that starts with {{ must be quoted: '{{ params.x }}'.",
    "could not find expected ':'": "Is the line above or this one indented too little, or a colon missing?",
    "mapping values are not allowed here": "Quote text that holds ': ', and indent all keys of a mapping alike.",
    "expected <block end>": "Indent all keys of a mapping, and all items of a list, alike.",
}


def syntax_problem(error: MarkedYAMLError, text: str, name: str) -> Problem:
    """The problem for PyYAML's `error` in `text`, at file:line:column, with the corrected block where one is found."""
    mark = error.problem_mark or error.context_mark
    said = str(error.problem or error.context or "invalid YAML")
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    context = f" ({error.context}, line {error.context_mark.line + 1})" if error.context and error.context_mark else ""
    hint = next((advice for words, advice in _HINTS.items() if words in said + context), "")
    block = corrected_block(text, mark.line) if mark else ""
    if block:
        hint = f"The line is indented deeper than the one above it. Corrected:\n{masked(block)}"
    return Problem(where, "", f"this is not YAML: {said}{context}.", hint)


def corrected_block(text: str, line: int) -> str:
    """The block around 0-based `line`, with that line aligned to the key above it; "" unless that makes it YAML.

    The mistake of the best known example: `content: |` indented below `type: script` instead of beside it.
    """
    lines = _BREAK.split(text)
    if line >= len(lines):
        return ""
    above = next((index for index in range(line - 1, -1, -1) if lines[index].strip()), None)
    if above is None or _indent(lines[above]) >= _indent(lines[line]):
        return ""
    indent = _indent(lines[above])
    first = next(
        (index for index in range(above, -1, -1) if lines[index].strip() and _indent(lines[index]) < indent), above
    )
    last = next(
        (index for index in range(line + 1, len(lines)) if lines[index].strip() and _indent(lines[index]) < indent),
        len(lines),
    )
    block = [*lines[first:line], " " * indent + lines[line].lstrip(), *lines[line + 1 : last]]
    if len(block) > 40 or not _is_yaml("\n".join(block)):
        return ""
    return "\n".join(f"    {part}".rstrip() for part in block).rstrip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _is_yaml(text: str) -> bool:
    try:
        return all(token is not None for token in yaml.parse(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError, OverflowError):  # the latter for impossible escapes
        return False
