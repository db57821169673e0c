"""The table of docs/explanation/performance.md: the lines of results.json, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.rows import ROWS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "explanation" / "performance.md"
_BEGIN, _END = "<!-- bench: made by `make bench` -->\n", "<!-- end of bench -->"

Line = Mapping[str, object]


def cells(line: Line) -> list[str]:
    """A line as the table has it: what, ours, reference, its name, ratio, goal, met or not."""
    digits = next((row.digits for row in ROWS.values() if row.what == line["row"]), 2)
    ours, reference = (_number(line[key], digits) for key in ("ours", "reference"))
    ratio = "" if line["ratio"] is None else f"{line['ratio']:.3g}"
    is_met = "yes" if line["met"] else "no"
    return [str(line["row"]), ours, reference, str(line["reference_name"]), ratio, str(line["goal"]), is_met]


HEADS = ["", "Ours", "Reference", "which is", "Ratio", "Goal", "Met"]


def _number(value: object, digits: int) -> str:
    return "" if value is None else f"{value:,.{digits}f}"


def markdown(lines: Sequence[Line]) -> str:
    """The table."""
    marks = ["---", "--:", "--:", "---", "--:", "---", "---"]
    rows = [HEADS, marks, *map(cells, lines)]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def shown(page: str) -> str:
    """The table that a page holds. ValueError when it has no place for one."""
    _, begin, rest = page.partition(_BEGIN)
    found, end, _ = rest.partition(_END)
    if not (begin and end):
        raise ValueError(f"no lines {_BEGIN.strip()!r} and {_END.strip()!r} in the page")
    return found


def write(lines: Sequence[Line]) -> None:
    """Put the table into the page."""
    page = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(page.replace(_BEGIN + shown(page), f"{_BEGIN}\n{markdown(lines)}\n"), encoding="utf-8")
