"""What a job says of itself: read while it runs and at its end, whatever it writes there."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.hostside import messages
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Serve, shell
from tests.hostside.conftest import Open
from tests.servers import disks


def digest(*lines: Any) -> messages.Digest:
    found = messages.Digest()
    for line in lines:
        found.feed((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
    return found


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ({"type": "progress", "value": 0.25}, {"progress": {"value": 0.25}}),
        ({"progress": 0.25}, {"progress": {"value": 0.25}}),
        ({"progress": {"done": 3, "total": 12, "text": "epoch 1"}}, {
            "progress": {"done": 3.0, "total": 12.0, "value": 0.25, "text": "epoch 1"}
        }),
        ({"type": "progress", "done": 1, "total": 0}, {"progress": {"done": 1.0, "total": 0.0, "value": 0.0}}),
        ({"type": "progress", "value": 7}, {"progress": {"value": 1.0}}),
        ({"type": "progress", "value": -1, "text": "a\x1b[31mb\n\x00c"}, {"progress": {"value": 0.0, "text": "ab c"}}),
        ({"type": "metric", "name": "loss", "value": 0.5, "step": 3}, {"metrics": {"loss": [0.5, 3]}}),
        ({"metric": {"name": "loss", "value": 2}}, {"metrics": {"loss": [2.0, ""]}}),
        ({"type": "asset", "uri": "s3://b/m"}, {"assets": [{"uri": "s3://b/m", "extra": {}}]}),
        ({"asset": "s3://b/m"}, {"assets": [{"uri": "s3://b/m", "extra": {}}]}),
        ({"type": "asset", "uri": "x", "extra": {"n": [1]}}, {"assets": [{"uri": "x", "extra": {"n": [1]}}]}),
        ({"artifact": "a/model.pt"}, {"outputs": [{"path": "a/model.pt", "text": ""}]}),
        ({"checkpoint": True}, {}),
        ({"checkpoint": "step", "loss": 0.5}, {}),
        (b'{"type": "metric", "name": "loss", "value": NaN}', {"metrics": {"loss": ["nan", ""]}}),
        (b'{"type": "metric", "name": "loss", "value": 1e999, "step": 1e999}', {"metrics": {"loss": ["inf", ""]}}),
        ({"type": "progress", "value": 0.1, "text": "x" * 999}, {
            "progress": {"value": 0.1, "text": "x" * 197 + "..."}
        }),
        (b"", {}),
    ],
    ids=range(18),
)  # fmt: skip
def test_what_is_kept(line: Any, kept: dict[str, Any]) -> None:
    assert digest(line).summary() == kept


@pytest.mark.parametrize(
    "line",
    [
        b"no json", b"[1]", b'"progress"', b"{}", b'{"type": "progress"}', b'{"type": "progress", "value": "0.5"}',
        b'{"type": "progress", "value": NaN}', b'{"type": "progress", "value": true}', b'{"type": 3, "value": 1}',
        b'{"type": "unheard-of"}', b'{"type": "__class__"}', b'{"type": "metric", "name": "", "value": 1}',
        b'{"type": "metric", "name": "x", "value": ' + b"9" * 5000 + b"}",
        b'{"type": "metric", "name": ["x"], "value": 1}',
        b'{"type": "asset", "uri": "s3://a\\nb"}', b'{"type": "asset", "uri": ""}', b'{"asset": 3}',
        b'{"type": "asset", "uri": "x", "extra": "y"}', b'{"type": "asset", "uri": "x", "extra": {"a": NaN}}',
        b"[" * 50_000, b'{"type": "artifact", "path": 3}', b"\xff\xfe", b'{"progress": 0.5, "other": 1}', b"x" * 70_000,
    ],
    ids=range(24),
)  # fmt: skip
def test_what_is_no_message_is_counted(line: bytes) -> None:
    assert digest(line).summary() == {"odd_lines": 1}


def test_the_newest_counts_and_lists_are_bounded() -> None:
    found = digest(
        {"progress": 0.1}, {"progress": 0.2},
        *({"type": "metric", "name": f"m{n}", "value": n} for n in range(60)),
        {"type": "metric", "name": "m1", "value": 9},
        *({"asset": f"s3://b/{n}"} for n in range(60)), {"type": "asset", "uri": "s3://b/1", "extra": {"again": 1}},
        *({"artifact": f"{n}.pt"} for n in range(60)),
    ).summary()  # fmt: skip
    assert found["progress"] == {"value": 0.2}
    assert (len(found["metrics"]), found["metrics"]["m1"]) == (50, [9.0, ""])
    assert (len(found["assets"]), found["assets_dropped"], found["assets"][1]["extra"]) == (50, 10, {"again": 1})
    assert len(found["outputs"]) == 20
    large = digest(*({"type": "asset", "uri": f"u{n}", "extra": {"x": "y" * 3000}} for n in range(5))).summary()
    assert large["assets_dropped"] == 3
    assert len(json.dumps(found)) < 16_000


@pytest.mark.parametrize("size", [1, 7, 100])
def test_lines_come_in_pieces(size: int) -> None:
    data = b'{"progress": 0.5}\n' + b"z" * 200_000 + b'\n\n{"asset": "a"}\n{"artifact": "m"}'
    found = messages.Digest()
    for at in range(0, len(data), size * 1000):
        found.feed(data[at : at + size * 1000])
    assert "outputs" not in found.summary()
    found.end()
    assert found.summary() == {
        "progress": {"value": 0.5}, "assets": [{"uri": "a", "extra": {}}], "outputs": [{"path": "m", "text": ""}],
        "odd_lines": 1,
    }  # fmt: skip


def test_a_running_job_is_looked_at_bit_by_bit(tmp_path: Path) -> None:
    path = tmp_path / "messages"
    live = messages.Live(str(path))
    assert live.summary() == {}
    path.write_text('{"progress": 0.1}\n{"prog')
    assert live.summary()["progress"] == {"value": 0.1}
    with path.open("a") as file:
        file.write('ress": 0.2}\n')
    assert live.summary() == {"progress": {"value": 0.2}}
    with path.open("a") as file:  # a flood: the newest counts
        file.write('{"progress": 0.3}\n' * 100_000 + '{"progress": 0.4}\n')
    begun = time.thread_time()
    assert live.summary() == {"progress": {"value": 0.4}}
    assert time.thread_time() - begun < 0.5
    path.write_text('{"asset": "a"}\n')  # begun anew
    assert live.summary() == {"assets": [{"uri": "a", "extra": {}}]}


SAY = 'say() { printf "%s\\n" "$1" >>"$JOBDEPLOY_MESSAGES_FILE"; }\n'


def test_progress_is_seen_while_the_job_runs(serve: Serve, host: HostPaths) -> None:
    name = serve.launch(shell(SAY + "say '{\"progress\": 0.42}'; while [ ! -e done ]; do sleep 0.05; done"))
    state = serve.until(name, lambda state: bool(state.get("messages")))
    assert state["messages"] == {"progress": {"value": 0.42}}
    assert JobState.from_wire(state).message.endswith("; 42 %.")
    Path(host.job(name).work, "done").touch()
    assert serve.end(name)["messages"] == {"progress": {"value": 0.42}}


def files(serve: Serve, name: str) -> dict[str, int]:
    return {entry["path"]: entry["size"] for entry in serve.ask("manifest", job=name)["files"]}


METRICS = [
    {"type": "metric", "name": "loss", "value": 0.5, "step": 1, "time": 1700000000.5},
    {"type": "metric", "name": 'a,"b\nc', "value": 1e999, "step": "e1"},
]


def test_metrics_are_among_the_artifacts(serve: Serve, host: HostPaths, tmp_path: Path) -> None:
    (tmp_path / "lines").write_text("".join(json.dumps(line) + "\n" for line in METRICS))
    name = serve.launch(shell(f"cat '{tmp_path}/lines' >>\"$JOBDEPLOY_MESSAGES_FILE\""))
    state = serve.end(name)
    assert state["artifacts"]["files"] == 1
    assert list(files(serve, name)) == ["metrics.csv"]
    text = Path(host.job(name).output, "metrics.csv").read_text()
    assert text == 'time,step,name,value\n1700000000.5,1,loss,0.5\n,e1,"a,""b c",inf\n'
    assert sorted(state["messages"]["metrics"]) == ['a,"b c', "loss"]


def test_a_metrics_file_of_the_job_stays_its_own(serve: Serve, host: HostPaths) -> None:
    line = json.dumps(METRICS[0])
    name = serve.launch(shell(SAY + f"say '{line}'; echo mine >\"$JOBDEPLOY_OUTPUT_DIR/metrics.csv\""))
    serve.end(name)
    assert Path(host.job(name).output, "metrics.csv").read_text() == "mine\n"
    assert not os.path.exists(host.job(name).metrics)


@pytest.mark.parametrize("what", ["mkfifo", "mkdir", "ln -s /etc/passwd", "ln -s /dev/zero"])
def test_what_is_no_file_is_not_read(serve: Serve, what: str) -> None:
    state = serve.run(shell(f'{what} "$JOBDEPLOY_MESSAGES_FILE"; echo x'))
    assert (state["status"], state["messages"]) == ("SUCCEEDED", {})


def test_a_flood_is_read_to_its_end(serve: Serve, host: HostPaths) -> None:
    line = '{"type": "metric", "name": "x", "value": 1}'
    text = f"yes '{line}' | head -n 300000 >>\"$JOBDEPLOY_MESSAGES_FILE\"; head -c 10000000 /dev/zero | tr '\\0' x"
    name = serve.launch(
        shell(text + ' >>"$JOBDEPLOY_MESSAGES_FILE"; ' + SAY + "say ''; say '{\"asset\": \"s3://b/m\"}'")
    )
    state = serve.end(name)
    assert state["messages"]["assets"] == [{"uri": "s3://b/m", "extra": {}}]
    assert state["messages"]["odd_lines"] == 1
    with Path(host.job(name).output, "metrics.csv").open() as file:
        assert sum(1 for _ in file) == 300_001


def test_metrics_on_a_full_disk(connect: Open, tmp_path: Path) -> None:
    with disks.small(tmp_path / "small", "1m") as place:
        serve = connect(place / "root")
        text = SAY + f"say '{json.dumps(METRICS[0])}'; head -c 2000000 /dev/zero >fill; exit 0"
        state = serve.run(shell(text))
        assert state["status"] == "SUCCEEDED"
        assert "metrics could not be written to metrics.csv: No space left" in state["facts"]["metrics_error"]
        assert "metrics.csv" in JobState.from_wire(state).message
