"""Messages of an engine as the bytes that a command wrote."""

from __future__ import annotations

import struct

import pytest

from airflow_jobdeploy.backends.engine.logs import Message, joined, messages, unmarked
from airflow_jobdeploy.backends.engine.times import seconds

FIRST, LATER = "2026-11-20T13:49:03.260682821Z", "2026-11-20T13:49:04.000000001Z"


def frame(stamp: str, data: bytes) -> bytes:
    body = stamp.encode() + b" " + data
    return struct.pack(">BxxxL", 1, len(body)) + body


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_messages_come_whole_whatever_the_pieces(size: int) -> None:
    stream = frame(FIRST, b"a\xff\x00b\r\n") + frame(LATER, b"")
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert list(messages(pieces)) == [Message(FIRST, b"a\xff\x00b\r\n"), Message(LATER, b"")]


def test_the_newline_of_a_long_line_is_given_back() -> None:
    told = [Message(FIRST, b"x" * 16384), Message(FIRST, b"yy"), Message(LATER, b"next\n"), Message(LATER, b"no end")]
    assert b"".join(message.data for message, _ in joined(told)) == b"x" * 16384 + b"yy\nnext\nno end"


@pytest.mark.parametrize("cut", range(1, 30))
def test_counts_are_taken_out_of_the_stream_wherever_it_is_cut(cut: int) -> None:
    stream = b"before\n\x01jobdeploy jx 4096\nbehind\x01job, but none\n"
    parts = list(unmarked([Message(FIRST, stream[:cut]), Message(FIRST, stream[cut:])], b"\x01jobdeploy jx "))
    assert b"".join(part.data for part in parts if isinstance(part, Message)) == b"before\nbehind\x01job, but none\n"
    assert [part for part in parts if isinstance(part, int)] == [4096]


def test_a_count_at_the_end_needs_no_newline() -> None:
    assert list(unmarked([Message(FIRST, b"\x01jobdeploy jx 7")], b"\x01jobdeploy jx ")) == [7]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1970-01-01T00:00:10Z", 10.0),
        ("1970-01-01T00:00:10.5Z", 10.5),
        ("1970-01-01T01:00:10.25+01:00", 10.25),
        ("1970-01-01T01:00:10+01:00", 10.0),
        ("0001-01-01T00:00:00Z", None),
        ("", None),
    ],
)
def test_times_of_an_engine(text: str, found: float | None) -> None:
    assert seconds(text) == found
