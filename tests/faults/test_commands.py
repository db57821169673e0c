"""Commands and logs that other tools get wrong (reference: rows a to g): any shell text, any bytes, any size."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from airflow_jobdeploy.core.logview import LogView
from tests.contract.labs import HostedLab
from tests.contract.steps import launch, log, outcome
from tests.faults.processes import MIB, run, sh


def test_all_lines_of_a_command_count(lab: HostedLab) -> None:
    state, text = run(lab, "echo one\necho two >&2\n\nif true; then\n  echo three\nfi\nfalse\necho four")
    assert text == b"one\ntwo\nthree\nfour\n"
    assert state.status.value == "SUCCEEDED"


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("echo before; exit 3", 3, b"before\n"),
        ("set -e\necho before\nfalse\necho never", 1, b"before\n"),
        ("set -e\n(exit 7)\necho never", 7, b""),
        ("set -eu\necho $undefined", 2, None),
        ("trap 'echo bye; exit 9' EXIT; exit 3", 9, b"bye\n"),
        ("exec sh -c 'exit 4'", 4, b""),
        ("no-such-command-at-all", 127, None),
        ("kill -TERM $$", None, b""),
        ("if", 2, None),
    ],
)
def test_the_shells_own_exit_status(lab: HostedLab, text: str, code: int | None, said: bytes | None) -> None:
    state, written = run(lab, text)
    assert state.status.value == "FAILED"
    assert state.exit_code == code
    assert state.signal == ("SIGTERM" if code is None else None)
    assert said is None or written == said


def test_here_documents_and_quotes(lab: HostedLab) -> None:
    text = (
        "cat <<'END'\n$HOME `id` \"quoted\" it's\n\ttab \\ back\nEND\ncat <<END\n$((6 * 7))\nEND\nprintf '%s' \"a'b\"\n"
    )
    state, written = run(lab, text)
    assert written == b"$HOME `id` \"quoted\" it's\n\ttab \\ back\n42\na'b"
    assert state.exit_code == 0


def test_a_command_reads_no_input_of_ours(lab: HostedLab) -> None:
    assert run(lab, "read x; echo got:$x; wc -c")[1] == b"got:\n0\n"


@pytest.mark.parametrize("size", [1 * MIB, 40 * MIB])
def test_a_burst_at_the_end_arrives_whole(lab: HostedLab, size: int) -> None:
    state, text = run(lab, f"yes 'a line of the burst' | head -c {size}; exit 3")
    assert state.exit_code == 3
    assert len(text) == size
    line = b"a line of the burst\n"
    assert text == (line * (size // len(line) + 1))[:size]


def test_binary_output_is_kept(lab: HostedLab, tmp_path: Path) -> None:
    data = bytes(range(256)) * 2000 + os.urandom(500_000)
    (tmp_path / "data").write_bytes(data)
    _, text = run(lab, f"cat {tmp_path}/data")
    assert hashlib.sha256(text).hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_line_of_ten_megabytes(lab: HostedLab) -> None:
    _, text = run(lab, f"head -c {10 * MIB} /dev/zero | tr '\\0' x; echo; echo end")
    assert text == b"x" * (10 * MIB) + b"\nend\n"


def test_characters_split_anywhere(lab: HostedLab) -> None:
    backend = lab.backend()
    expected = "grüße 你好 🎉\n" * 40
    job_id = launch(backend, lab.plan(lab.words.say(expected)))
    outcome(backend, job_id)
    assert log(backend, job_id, turn=7) == expected.encode()
    view, offset, shown = LogView(), 0, ""
    while (chunk := backend.read_log(job_id, offset, 7)).data:
        shown += view.feed(chunk.data, now=0.0, offset=chunk.offset, dropped=chunk.dropped_bytes)
        offset = chunk.next_offset
    assert shown + view.end() == expected


def test_both_streams_keep_their_order(lab: HostedLab) -> None:
    _, text = run(lab, "for i in 1 2 3 4 5; do echo out$i; echo err$i >&2; done")
    assert text.split() == [word for n in range(1, 6) for word in (b"out%d" % n, b"err%d" % n)]


def test_a_log_is_read_while_megabytes_come(lab: HostedLab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(sh(f"for i in 1 2 3 4 5 6 7 8; do yes {'z' * 60} | head -c {MIB}; done")))
    got, offset = [], 0
    while not (states := backend.poll([job_id]))[job_id].status.is_finished or offset < states[job_id].log_bytes:
        chunk = backend.read_log(job_id, offset, 256 * 1024)
        got.append(chunk.data)
        offset = chunk.next_offset
    once = (b"z" * 60 + b"\n") * (MIB // 61 + 1)
    assert b"".join(got) == once[:MIB] * 8
