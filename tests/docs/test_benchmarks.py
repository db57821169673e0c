"""What was measured is well-formed, and the page shows it. No test measures time."""

from __future__ import annotations

import json

import pytest

from benchmarks import page
from benchmarks.rows import ROWS, Measured, result
from benchmarks.run import RESULTS

LINES = json.loads(RESULTS.read_text(encoding="utf-8"))
FIELDS = ["row", "ours", "reference", "reference_name", "ratio", "goal", "met"]


def test_the_page_shows_what_was_measured() -> None:
    shown = page.shown(page.PAGE.read_text(encoding="utf-8"))
    assert shown.strip() == page.markdown(LINES).strip(), "run `make bench`"


def test_every_row_was_measured() -> None:
    assert [line["row"] for line in LINES] == [row.what for row in ROWS.values()]


@pytest.mark.parametrize("line", LINES, ids=lambda line: str(line["row"]))
def test_a_line_is_whole(line: dict[str, object]) -> None:
    assert list(line) == FIELDS
    (name,) = [name for name, row in ROWS.items() if row.what == line["row"]]
    ours, reference = line["ours"], line["reference"]
    assert isinstance(ours, int | float)
    assert reference is None or isinstance(reference, int | float)
    found = Measured(row=name, ours=ours, reference=reference, reference_name=str(line["reference_name"]))
    assert {**result(found), "ratio": line["ratio"]} == line
