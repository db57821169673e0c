"""Who keeps a provisional lease, and for how long."""

from __future__ import annotations

import os
import time

import pytest

from airflow_jobdeploy.hostside import abstract, keeper
from airflow_jobdeploy.hostside.census import DOOR, GPU


def kept() -> tuple[str, str]:
    """A lease in the hands of a keeper: its id, its GPU."""
    name, gpu = os.urandom(16).hex(), f"GPU-{os.urandom(6).hex()}"
    lease = {"id": name, "gpus": [gpu], "who": "w" * 8, "job": "", "cpu": 0, "memory": 0, "disk": 0}
    claims = keeper.claim({**lease, "deployment": "d", "owner": "o@1", "past": "", "since": 0.0})
    assert claims is not None
    door = abstract.hold(DOOR + name.encode())
    assert door is not None
    keeper.keep(claims, door)
    return name, gpu


def is_free(gpu: str) -> bool:
    held = abstract.hold(GPU + gpu.encode())
    if held is not None:
        held.close()
    return held is not None


def until_free(gpu: str) -> None:
    """Until somebody else may have it."""
    began = time.monotonic()
    while not is_free(gpu):
        assert time.monotonic() - began < 20
        time.sleep(0.02)  # nothing tells of the end of a process that is nobody's child


def test_a_lease_that_nobody_takes_is_void_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PROVISIONAL_S", 0.5)
    began = time.monotonic()
    _, gpu = kept()
    until_free(gpu)
    assert time.monotonic() - began > 0.4


def test_while_code_and_data_come_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "PROVISIONAL_S", 2.0)
    name, gpu = kept()
    first, second = keeper.stay(name), keeper.stay(name)
    assert first is not None
    assert second is not None
    first.close()
    time.sleep(3.0)  # longer than its life
    assert not is_free(gpu)
    began = time.monotonic()
    second.close()
    until_free(gpu)
    assert time.monotonic() - began > 1.8, "whoever comes back after a cut finds it"
    assert keeper.stay(name) is None


def test_given_back_it_is_free_at_once_whoever_stays() -> None:
    name, gpu = kept()
    connection = keeper.stay(name)
    assert connection is not None
    with connection:
        assert keeper.release(name)
        until_free(gpu)
        connection.settimeout(5)
        assert connection.recv(1) == b"", "who stays hears of it"
