"""A client that is gone without a word: its session ends by itself, and nothing half-done stays."""

from __future__ import annotations

import time
from pathlib import Path

from airflow_jobdeploy.hostside import protocol
from tests.hostside.client import Serve, shell


def test_a_silent_client_is_taken_for_gone(tmp_path: Path) -> None:
    serve = Serve(tmp_path / "root", greet=False)
    try:
        serve.ask("hello", client="test", env_mode="inherit", path=None, idle_s=0.5)
        assert serve.process.wait(30) == 0
    finally:
        serve.close()


def test_a_transfer_that_stops_half_way_leaves_nothing(tmp_path: Path) -> None:
    serve = Serve(tmp_path / "root", greet=False)
    try:
        plan = shell("ls")
        # All at once: it must not find its client silent between two requests because this machine is busy.
        asks = [
            {"id": 1, "op": "hello", "client": "test", "env_mode": "inherit", "path": None, "idle_s": 1.0},
            {"id": 2, "op": "claim", "plan": plan.to_wire(), "secrets": {}},
            {"id": 3, "op": "put", "job": plan.job_id, "into": "checkpoint"},
        ]
        serve.write(b"".join(protocol.pack_json(ask) for ask in asks) + protocol.pack(b"B", bytes(1000)))
        assert [serve.answer(number)["ok"] for number in (1, 2)] == [True, True]
        assert serve.process.wait(30) == 0
        assert list((tmp_path / "root").glob("hosts/*/incoming/*")) == []
    finally:
        serve.close()


def test_a_client_that_asks_now_and_then_is_served_on(tmp_path: Path) -> None:
    serve, idle_s = Serve(tmp_path / "root", greet=False), 2.0
    try:
        serve.ask("hello", client="test", env_mode="inherit", path=None, idle_s=idle_s)
        begun = asked = time.monotonic()
        while time.monotonic() - begun < 1.5 * idle_s:
            time.sleep(0.3)  # the passing of time is what is tested
            try:
                serve.ask("poll", jobs=[])
            except (EOFError, BrokenPipeError):
                assert time.monotonic() - asked > idle_s, "it was not silent for so long"
                break  # by no fault of the session: this machine has stood still
            asked = time.monotonic()
    finally:
        serve.close()
