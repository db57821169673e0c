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
        assert serve.process.wait(10) == 0
    finally:
        serve.close()


def test_a_transfer_that_stops_half_way_leaves_nothing(tmp_path: Path) -> None:
    serve = Serve(tmp_path / "root", greet=False)
    try:
        serve.ask("hello", client="test", env_mode="inherit", path=None, idle_s=1.0)
        plan = shell("ls")
        serve.claim(plan)
        serve.send("put", job=plan.job_id, into="checkpoint")
        serve.write(protocol.pack(b"B", bytes(1000)))
        assert serve.process.wait(10) == 0
        assert list((tmp_path / "root").glob("hosts/*/incoming/*")) == []
    finally:
        serve.close()


def test_a_client_that_asks_now_and_then_is_served_on(tmp_path: Path) -> None:
    serve = Serve(tmp_path / "root", greet=False)
    try:
        serve.ask("hello", client="test", env_mode="inherit", path=None, idle_s=1.0)
        for _ in range(6):
            serve.ask("poll", jobs=[])
            time.sleep(0.3)  # the passing of time is what is tested
        assert serve.process.poll() is None
    finally:
        serve.close()
