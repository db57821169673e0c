"""The matrix of faults in the docs is the one that `make faults` has measured."""

from __future__ import annotations

import json

from benchmarks import faults

ROWS = json.loads(faults.RESULTS.read_text(encoding="utf-8"))


def test_the_page_shows_what_was_measured() -> None:
    page = faults.PAGE.read_text(encoding="utf-8")
    assert faults.with_table(page, faults.matrix(ROWS)) == page, "run `make faults`"


def test_every_row_is_whole_and_held() -> None:
    names = [(row["fault"], row["backend"]) for row in ROWS]
    assert len(set(names)) == len(names)
    for row in ROWS:
        assert tuple(row) == faults.FIELDS
        assert row["held"], row
        assert row["live_attempts_max"] <= 1, row
        assert (row["bytes_lost"], row["left_behind"]) == (0, 0), row
