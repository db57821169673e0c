"""The decoded view of a log: nothing is lost, no character is cut, bars are collapsed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.core.logview import MAX_LINE, STALE_S, LogView


def fed(*pieces: bytes) -> str:
    view = LogView()
    return "".join(view.feed(piece, now=0.0) for piece in pieces) + view.end()


def test_whole_lines_come_at_once_and_the_rest_at_the_end() -> None:
    view = LogView()
    assert view.feed(b"one\ntw", now=0.0) == "one\n"
    assert view.pending_bytes == 2
    assert view.feed(b"o\n", now=0.0) == "two\n"
    assert view.pending_bytes == 0
    assert view.feed(b"rest", now=0.0) == ""
    assert view.end() == "rest\n"
    assert view.end() == ""


@given(st.text(alphabet="aé€😀\n", max_size=60), st.integers(1, 7))
def test_characters_survive_any_cut(text: str, width: int) -> None:
    data = text.encode()
    pieces = [data[i : i + width] for i in range(0, len(data), width)]
    expected = text if not text or text.endswith("\n") else text + "\n"
    assert fed(*pieces) == expected


@given(st.binary(max_size=400), st.integers(1, 50))
def test_any_bytes_make_text(data: bytes, width: int) -> None:
    fed(*(data[i : i + width] for i in range(0, len(data), width)))


def test_a_progress_bar_leaves_its_last_state() -> None:
    assert fed(b"  0%\r 50%\r", b"100%\r\n", b"done\r\n") == "100%\ndone\n"


def test_an_unfinished_bar_is_shown_now_and_then_and_its_bytes_stay_pending() -> None:
    view = LogView()
    assert view.feed(b" 10%\r 20%", now=0.0) == ""
    assert view.feed(b"\r 30%\r", now=STALE_S) == " 30%\n"
    assert view.feed(b"", now=2 * STALE_S) == ""  # the same state is not said twice
    assert view.feed(b"100%\n", now=2 * STALE_S) == "100%\n"


def test_a_line_of_10_mb_comes_in_pieces_whole_characters_each() -> None:
    line = "€" * (10 * 2**20 // 3)
    text = fed(*(line.encode()[i : i + 100_000] for i in range(0, len(line.encode()), 100_000)))
    assert text.replace("\n", "") == line
    assert max(map(len, text.split("\n"))) <= MAX_LINE


def test_a_long_bar_without_an_end_needs_no_memory() -> None:
    view = LogView()
    for step in range(20_000):
        view.feed(b"\r%05d of 20000" % step, now=0.0)
    assert view.pending_bytes <= MAX_LINE
    assert view.end() == "19999 of 20000\n"


def test_a_gap_is_named_where_it_is() -> None:
    view = LogView()
    assert view.feed(b"a\n", now=0.0) == "a\n"
    assert view.feed(b"z\n", now=0.0, offset=102, dropped=100) == "[100 bytes dropped at offset 2]\nz\n"
