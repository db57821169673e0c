"""What people see: tables that fit the terminal, colours on a terminal only, a bar while bytes move.

Results go to stdout, everything said beside them to stderr: `airflow jobdeploy run job.yaml > log` keeps the job's
log and nothing else.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, TextIO

from airflow_jobdeploy.core.status import size

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36", "bold": "1", "dim": "2"}
#: Statuses of jobs, states of resources and verdicts -> colour.
WORDS = {
    **dict.fromkeys(("SUCCEEDED", "ok", "now"), "green"),
    **dict.fromkeys(("FAILED", "wrong", "silent", "never"), "red"),
    **dict.fromkeys(("CANCELLED", "SUSPENDED", "warning", "waits", "aside", "passing", "cordoned"), "yellow"),
    **dict.fromkeys(("RUNNING", "active"), "cyan"),
    "UNKNOWN": "magenta",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
#: Columns that may be cut keep this much while there are others that can be left out, and this much in any case.
_COMFORTABLE, _LEAST = 16, 8
_GAP = "  "


def has_colours(stream: TextIO) -> bool:
    """On a terminal, unless NO_COLOR (https://no-color.org) or TERM say otherwise."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, colour: str, stream: TextIO) -> str:
    """`text` in a colour, where `stream` shows any."""
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if colour and has_colours(stream) else text


def say(text: str, colour: str = "dim") -> None:
    """A line for the person at the terminal."""
    print(painted(harmless(text), colour, sys.stderr), file=sys.stderr, flush=True)


def complain(text: str, word: str = "error") -> None:
    """An error or warning, on stderr."""
    colour = "red" if word == "error" else "yellow"
    lines = wrapped(f"{word}: {harmless(text)}", sys.stderr)
    lines[0] = painted(f"{word}:", colour, sys.stderr) + lines[0].removeprefix(f"{word}:")
    print("\n".join(lines), file=sys.stderr, flush=True)


def one_line(text: str) -> str:
    """The first line, with nothing in it that a terminal would obey."""
    return _CONTROL.sub(" ", text.strip().partition("\n")[0])


def harmless(text: str) -> str:
    """All lines, with nothing in them that a terminal would obey."""
    return "\n".join(_CONTROL.sub(" ", line) for line in text.split("\n"))


def wrapped(text: str, stream: TextIO, *, taken: int = 0) -> list[str]:
    """The lines of a text, broken between words where a terminal ends, `taken` columns of which are not free."""
    columns = terminal_width(stream)
    lines = text.split("\n")
    if columns is None:
        return lines
    room = max(20, columns - taken)
    found = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()))
        pieces = textwrap.wrap(line, room, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
        found += pieces or [""]
    return found


# -- tables ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table for people."""

    title: str
    cell: Callable[[Mapping[str, Any]], str]
    #: May be cut with an ellipsis where the terminal is narrow.
    cut: bool = False
    #: Is left out where the terminal is narrow, the last such column first; and where no row has anything in it.
    optional: bool = False
    #: Holds a status, which has a colour.
    word: bool = False


def width_of(text: str) -> int:
    """Columns of a terminal that `text` takes."""
    wide = (
        2 if unicodedata.east_asian_width(char) in "WF" else 0 if unicodedata.combining(char) else 1 for char in text
    )
    return sum(wide)


def fitted(text: str, width: int) -> str:
    """`text` in exactly `width` columns."""
    if width_of(text) > width:
        while text and width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - width_of(text))


def terminal_width(stream: TextIO) -> int | None:
    """Columns of the terminal; None: no terminal, nothing is to be cut."""
    return shutil.get_terminal_size().columns if stream.isatty() else None


def table(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[Column],
    *,
    width: int | None = None,
    stream: TextIO | None = None,
) -> list[str]:
    """The lines of a table, headings first; at most `width` columns wide where that can be, painted for `stream`."""
    shown = [column for column in columns if not column.optional or any(column.cell(row) for row in rows)]
    cells = {column.title: [one_line(column.cell(row)) for row in rows] for column in shown}
    widths = {title: max(map(width_of, [title, *texts])) for title, texts in cells.items()}
    shown = _narrowed(shown, widths, width)
    lines = [[fitted(column.title, widths[column.title]) for column in shown]]
    for index in range(len(rows)):
        texts = [fitted(cells[column.title][index], widths[column.title]) for column in shown]
        painted_too = [
            with_word(text, stream) if stream and c.word else text for c, text in zip(shown, texts, strict=True)
        ]
        lines.append(painted_too)
    return [_GAP.join(line).rstrip() for line in lines]


def _narrowed(shown: list[Column], widths: dict[str, int], width: int | None) -> list[Column]:
    """The columns that stay; those that may be cut get narrower in `widths`."""
    while width is not None and _total(shown, widths) > width:
        optional = [column for column in shown if column.optional]
        least = _COMFORTABLE if optional else _LEAST
        room = {c.title: widths[c.title] - max(least, len(c.title)) for c in shown if c.cut}
        room = {title: free for title, free in room.items() if free > 0}
        if sum(room.values()) >= _total(shown, widths) - width or (room and not optional):
            widths[max(room, key=lambda title: widths[title])] -= 1
        elif optional:
            shown = [column for column in shown if column is not optional[-1]]
        else:
            break
    return shown


def _total(shown: Sequence[Column], widths: Mapping[str, int]) -> int:
    return sum(widths[column.title] for column in shown) + len(_GAP) * (len(shown) - 1)


def with_word(text: str, stream: TextIO) -> str:
    """`text` with its first word in colour, when that is a status."""
    word = text.split(" ", 1)[0]
    return painted(word, WORDS.get(word, ""), stream) + text[len(word) :]


def print_table(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """For people: fitted to the terminal, in colours there."""
    head, *body = table(rows, columns, width=terminal_width(sys.stdout), stream=sys.stdout)
    print("\n".join([painted(head, "bold", sys.stdout), *body]))


def print_plain(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column]) -> None:
    """For pipes: one line a row, columns aligned, nothing cut, an empty cell is `-`."""
    filled = [{column.title: one_line(column.cell(row)) or "-" for column in columns} for row in rows]
    same = [Column(title=column.title, cell=itemgetter(column.title)) for column in columns]
    print("\n".join(table(filled, same)))


def print_data(data: Any, output: str) -> None:
    """As JSON or YAML."""
    if output == "yaml":
        import yaml

        print(yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, allow_unicode=True), end="")
    else:
        print(json.dumps(data, indent=2, ensure_ascii=False))


def print_facts(facts: Iterable[tuple[str, str]], *, indent: str = "") -> None:
    """`Label   text`, long texts wrapped below themselves; empty ones are left out."""
    told = [(label, text) for label, text in facts if text]
    label_width = max((len(label) for label, _ in told), default=0) + 2
    for label, text in told:
        first, *rest = wrapped(harmless(text), sys.stdout, taken=len(indent) + label_width)
        print(indent + painted(label.ljust(label_width), "dim", sys.stdout) + with_word(first, sys.stdout))
        for line in rest:
            print(indent + " " * label_width + line)


# -- bytes on their way ---------------------------------------------------------------------------------------------


class Progress:
    """On a terminal a bar that is drawn anew, elsewhere a line now and then. A context manager."""

    BAR_S = 0.1
    LINE_S = 5.0

    def __init__(self, what: str) -> None:
        self._what = what
        self._is_bar = sys.stderr.isatty()
        self._told_at = time.monotonic()
        self._drawn = False

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()

    def clear(self) -> None:
        """Make way for other lines."""
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._drawn = False

    def update(self, moved: int, total: int, note: str = "") -> None:
        """`moved` of `total` bytes are there."""
        now = time.monotonic()
        if now - self._told_at < (self.BAR_S if self._is_bar else self.LINE_S):
            return
        self._told_at = now
        amount = f"{size(moved)} of {size(total)}{note}"
        if not self._is_bar:
            say(f"{self._what}: {amount}")
            return
        self._drawn = True
        share = min(1.0, moved / total) if total else 1.0
        columns = terminal_width(sys.stderr) or 80
        room = max(10, min(40, columns - len(self._what) - len(amount) - 12))
        bar = "━" * round(share * room)
        text = f"{self._what} {painted(bar, 'green', sys.stderr)}{' ' * (room - len(bar))} {share:4.0%} {amount}"
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
