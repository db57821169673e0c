"""The loop of a session: order of answers, changes, bad requests, its end."""

from __future__ import annotations

import hashlib
import time

import pytest

from airflow_jobdeploy.hostside import protocol
from airflow_jobdeploy.hostside.protocol import pack_json
from tests.faults.processes import cpu_s
from tests.hostside.client import Refused, Serve, shell
from tests.hostside.test_stop import running


def test_stop_is_answered_first(serve: Serve) -> None:
    job = serve.launch(shell("echo; sleep 60"))
    serve.until(job, running)
    asks = [{"id": number, "op": "poll", "jobs": [job]} for number in range(100, 110)]
    stop = {"id": 200, "op": "stop", "job": job, "reason": "now", "by": "", "grace_s": 0}
    serve.write(b"".join(pack_json(ask) for ask in [*asks, stop]))
    order = [serve.frame()[1]["id"] for _ in range(11)]
    assert order.index(200) <= 1, order
    assert sorted(order) == [*range(100, 110), 200]
    serve.end(job)


@pytest.mark.parametrize(
    ("ask", "code"),
    [
        ({"op": "dance"}, "bad-request"),
        ({}, "bad-request"),
        ({"op": "_job"}, "bad-request"),
        ({"op": "poll"}, "bad-request"),
        ({"op": "poll", "jobs": ["../../etc"]}, "bad-request"),
        ({"op": "poll", "jobs": 3}, "bad-request"),
        ({"op": "start", "job": "jaaaaaaaaaaaaaaaaaaaa"}, "no-such-job"),
        ({"op": "log", "job": "/etc/passwd", "offset": 0, "limit": 1}, "bad-request"),
        ({"op": "claim", "plan": None}, "bad-request"),
        ({"op": "claim", "plan": {}}, "newer-layout"),
        ({"op": "resource", "resource": "a/b"}, "bad-request"),
        ({"op": "stop", "job": ["x"]}, "bad-request"),
    ],
)
def test_a_bad_request_is_answered_and_the_next_one_served(serve: Serve, ask: dict, code: str) -> None:
    serve.write(pack_json({"id": 77, **ask}))
    kind, message = serve.frame()
    assert kind == b"J"
    assert (message["id"], message["ok"], message["error"]) == (77, False, code)
    assert message["message"]
    assert serve.ask("poll", jobs=[])["states"] == {}


def test_hello_comes_first(connect) -> None:
    serve = connect(greet=False)
    with pytest.raises(Refused, match="hello"):
        serve.ask("poll", jobs=[])


def test_hello_tells_who_and_what(serve: Serve) -> None:
    facts = serve.facts
    assert (facts["protocol"], facts["layout"], facts["live_jobs"]) == (1, 1, 0)
    assert facts["memory_bytes"] > 1 << 28
    assert facts["disk_free_bytes"] > 0
    assert facts["cpu_count"] >= 1
    assert facts["extra"]["locks"] is True


def test_bye_and_the_end_of_input_end_the_session(connect) -> None:
    serve = connect()
    serve.ask("bye")
    assert serve.process.wait(60) == 0
    other = connect()
    assert other.process.stdin
    other.process.stdin.close()
    assert other.process.wait(60) == 0


def test_noise_instead_of_frames_ends_the_session(connect) -> None:
    serve = connect()
    serve.write(b"GET / HTTP/1.1\r\n\r\n")
    assert serve.process.wait(60) == 2


def test_watch_tells_changes_once(serve: Serve, connect) -> None:
    job = shell("echo one; exit 3")
    watcher = connect()
    assert watcher.ask("watch", jobs=[job.job_id])["states"] == {job.job_id: None}
    serve.launch(job)
    seen = []
    while not seen or seen[-1]["phase"] != "ended":
        kind, event = watcher.frame(60)
        assert kind == b"J"
        assert (event["event"], event["job"]) == ("state", job.job_id)
        seen.append(event["state"])
    assert seen[-1]["log_bytes"] == 4
    with pytest.raises(TimeoutError):
        watcher.frame(1.0)


def test_watch_costs_little_while_nothing_happens(serve: Serve) -> None:
    jobs = [shell("true") for _ in range(100)]
    for job in jobs:
        serve.claim(job)
    serve.ask("watch", jobs=[job.job_id for job in jobs])
    before = cpu_s(serve.process.pid)
    time.sleep(2.0)  # what is measured is what an idle watch costs meanwhile
    assert cpu_s(serve.process.pid) - before < 0.2


def test_many_states_come_in_frames_of_64_kib(serve: Serve) -> None:
    jobs = [shell("true") for _ in range(300)]
    for job in jobs:
        serve.claim(job)
    states = serve.ask("poll", jobs=[job.job_id for job in jobs])["states"]
    assert {state["status"] for state in states.values()} == {"PENDING"}
    assert protocol.MAX_FRAME == 65536


def test_a_log_of_any_size_comes_in_pieces(serve: Serve) -> None:
    state = serve.run(shell('head -c 9000000 /dev/urandom | tee "$JOBDEPLOY_OUTPUT_DIR/copy"'))
    job, data = state["job_id"], b""
    while len(data) < 9_000_000:
        piece = serve.log(job, offset=len(data), limit=1 << 30)
        assert 0 < len(piece) <= 4 << 20
        data += piece
    files = serve.ask("manifest", job=job)["files"]
    assert hashlib.sha256(data).hexdigest() == files[0]["sha256"]
