"""Which workers share a watcher in a triggerer: those that are one place, whatever pools and connections call them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from airflow_jobdeploy.hooks.connect import endpoint
from airflow_jobdeploy.service import Watcher
from airflow_jobdeploy.triggers.watchers import Watchers

pytestmark = pytest.mark.airflow


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host by two connections, by a pool of it, and what is another place on it."""
    host = {"conn_type": "ssh", "host": "127.0.0.1", "login": "ann", "port": 1}
    alone = {"kind": "ssh", "workers": [{"conn_id": "one"}]}
    connections: dict[str, Any] = {
        "ONE": host,
        "TWO": {**host, "description": "the same"},
        "POOL": {"conn_type": "jobdeploy", "extra": alone},
        "OTHER_PORT": {**host, "port": 2},
        "OTHER_LOGIN": {**host, "login": "bob"},
        "OTHER_HOST": {**host, "host": "127.0.0.2"},
        "OTHER_ROOT": {"conn_type": "jobdeploy", "extra": {**alone, "root": "/srv/jobdeploy"}},
    }
    for name, connection in connections.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(connection))


def test_a_place_is_account_host_port_and_root(names: None) -> None:
    assert endpoint("one", "one") == endpoint("two", "two") == endpoint("pool", "one")
    others = [endpoint("other_port", "other_port"), endpoint("other_login", "other_login")]
    others += [endpoint("other_host", "other_host"), endpoint("other_root", "one")]
    assert len({endpoint("one", "one"), *others}) == 5
    assert endpoint("nobody", "a") == ("nobody", "a")


def test_one_place_has_one_watcher_in_a_loop_and_each_loop_its_own(names: None) -> None:
    """The connection is one, and so is its thread."""

    async def found() -> list[Watcher]:
        watchers = Watchers()
        wanted = [("one", "one"), ("two", "two"), ("pool", "one"), ("other_port", "other_port")]
        await watchers.locate(wanted)
        return [watchers.get(pool, worker, None) for pool, worker in wanted]

    loops = [asyncio.new_event_loop() for _ in range(2)]  # both at once: an id is given anew once a loop is gone
    try:
        one, two, pool, other = loops[0].run_until_complete(found())
        assert one is two is pool
        assert other is not one
        assert loops[1].run_until_complete(found())[0] is not one
    finally:
        for loop in loops:
            loop.close()
