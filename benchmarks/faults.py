"""`make faults`: run the fault tests alone, print the matrix, write faults.json and the table that the docs show.

Each test notes what its fault came to (tests/faults/hosts/conftest.py); a fault that is not held is a row, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parent.parent
RESULTS = HOME / "benchmarks" / "faults.json"
PAGE = HOME / "docs" / "explanation" / "faults.md"
#: The table stands in the page between these lines.
BEGIN, END = "<!-- faults: made by `make faults` -->", "<!-- end of faults -->"

FIELDS = ("fault", "backend", "verdict", "live_attempts_max", "bytes_lost", "left_behind", "held")
_HEADS = (
    "Fault",
    "Worker",
    "What is told of the job",
    "Attempts alive at once",
    "Log bytes lost",
    "Left behind",
    "Held",
)


def main(options: Sequence[str]) -> int:
    """0 when all that ran held; `options` go to pytest (`-k power`). A part of the tests changes no file."""
    with tempfile.TemporaryDirectory() as directory:
        record = Path(directory) / "rows"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "tests/faults",
            "-m",
            "fault",
            "-p",
            "no:cacheprovider",
            "--timeout=600",
            "-v",
        ]
        environment = {**os.environ, "JOBDEPLOY_FAULTS_RECORD": str(record)}
        code = subprocess.run([*command, *options], env=environment, cwd=HOME, check=False).returncode
        found = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    print("\n" + matrix(found, seconds=True))
    if found and not options:
        RESULTS.write_text(json.dumps([{key: row[key] for key in FIELDS} for row in found], indent=2) + "\n")
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8"), matrix(found)), encoding="utf-8")
        print(f"\nWrote {RESULTS.relative_to(HOME)} and the table of {PAGE.relative_to(HOME)}.")
    return code


def matrix(rows: Iterable[dict[str, Any]], *, seconds: bool = False) -> str:
    """The rows as a Markdown table; `seconds`: with the time that each took."""
    shown = [[_cell(row[key]) for key in FIELDS] + ([str(row["seconds"])] if seconds else []) for row in rows]
    table = [[*_HEADS, *(["Seconds"] if seconds else [])], *shown]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "not seen" if value == -1 else str(value)


def with_table(page: str, table: str) -> str:
    """The page with this table in place of its own. ValueError when the page has no place for one."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"no lines {BEGIN!r} and {END!r} in the page")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
