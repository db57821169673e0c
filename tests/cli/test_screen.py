"""Tables that fit, bars that move, and nothing that a terminal would obey."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest

from airflow_jobdeploy.commands import screen
from airflow_jobdeploy.commands.screen import Column, Progress, fitted, harmless, one_line, table, width_of


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _column(title: str, **facts: bool) -> Column:
    return Column(title=title, cell=lambda row: row[title], **facts)


COLUMNS = [
    _column("JOB"),
    _column("STATUS", word=True),
    _column("NAME", cut=True),
    _column("WORKER", cut=True),
    _column("TASK", cut=True, optional=True),
]
ROW = {
    "JOB": "jabcdefgh",
    "STATUS": "RUNNING",
    "NAME": "train a model with a very long name, and 日本語 too",
    "WORKER": "gpu-07.cluster.example.org",
    "TASK": "dag/scheduled__2026-01-01T00:00:00+00:00/train[12]",
}


@pytest.mark.parametrize("width", [50, 60, 80, 100, 140, 200])
def test_a_table_fits(width: int) -> None:
    lines = table([ROW, {**ROW, "NAME": "x", "TASK": ""}], COLUMNS, width=width)
    assert max(map(width_of, lines)) <= width
    assert all("jabcdefgh" in line and "RUNNING" in line for line in lines[1:])


def test_nothing_is_cut_without_a_terminal() -> None:
    (_, line) = table([ROW], COLUMNS)
    assert all(text in line for text in ROW.values())


def test_columns_that_are_empty_or_have_no_room_go() -> None:
    assert "TASK" not in table([{**ROW, "TASK": ""}], COLUMNS)[0]
    assert "TASK" not in table([ROW], COLUMNS, width=50)[0]
    assert "TASK" in table([ROW], COLUMNS, width=140)[0]


def test_too_narrow_for_anything_still_shows_all_that_counts() -> None:
    (head, _) = table([ROW], COLUMNS, width=10)
    assert head.split() == ["JOB", "STATUS", "NAME", "WORKER"]


@pytest.mark.parametrize(
    ("text", "shown"), [("abc", "abc  "), ("abcdef", "abcd…"), ("日本語", "日本…"), ("e\u0301", "e\u0301    ")]
)
def test_fitted(text: str, shown: str) -> None:
    assert fitted(text, 5) == shown
    assert width_of(fitted(text, 5)) == 5


def test_escapes_do_not_reach_the_terminal() -> None:
    assert one_line("a\x1b]0;title\x07b\nsecond") == "a ]0;title b"
    assert harmless("a\x1b[2Jb\n\tc\x9b") == "a [2Jb\n c "


def test_status_words_are_coloured_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[36mRUNNING\x1b[0m" in table([ROW], COLUMNS, stream=Terminal())[1]
    assert "\x1b" not in table([ROW], COLUMNS, stream=io.StringIO())[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in table([ROW], COLUMNS, stream=Terminal())[1]


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """A clock to advance by hand."""
    now = [100.0]
    monkeypatch.setattr(screen.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_a_bar_on_a_terminal(ticking: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    with Progress("Sending") as progress:
        progress.update(1, 100)  # too early to draw
        ticking(0.2)
        progress.update(50, 100)
    drawn = terminal.getvalue()
    assert " 50% 50 bytes of 100 bytes" in drawn
    assert "1 bytes" not in drawn
    assert drawn.endswith("\r\x1b[K")  # the line is clean for what follows


def test_lines_elsewhere(ticking: Callable[[float], None], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with Progress("Downloading") as progress:
        for moved in range(0, 100, 10):
            ticking(2.0)
            progress.update(moved, 100, ", 1 of 2 files")
    assert stream.getvalue().splitlines() == [
        "Downloading: 20 bytes of 100 bytes, 1 of 2 files",
        "Downloading: 50 bytes of 100 bytes, 1 of 2 files",
        "Downloading: 80 bytes of 100 bytes, 1 of 2 files",
    ]
