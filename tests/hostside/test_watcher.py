"""A watch is told of changes at once, costs nothing in between, and works the same where no bell is to be had."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.hostside import files, kernel
from airflow_jobdeploy.hostside.bell import Bell
from airflow_jobdeploy.hostside.judge import Judge
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.watcher import Watcher
from tests.hostside.client import Serve, shell

needs_inotify = pytest.mark.skipif(kernel.inotify() is None, reason="no inotify here")


@pytest.fixture
def bell() -> Iterator[Bell]:
    made = Bell()
    yield made
    made.close()


@needs_inotify
@pytest.mark.parametrize("name", ["plain", "it's ü;", "new\nline"])
def test_a_bell_rings_for_what_changes_inside(bell: Bell, tmp_path: Path, name: str) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        assert bell.add(folder, str(tmp_path / folder))
    assert bell.rung() == set()
    (tmp_path / "two" / name).write_text("x")
    assert bell.rung() == {"two"}
    (tmp_path / "two" / name).rename(tmp_path / "one" / name)
    assert bell.rung() == {"one"}
    (tmp_path / "one").rename(tmp_path / "gone")
    assert bell.rung() == {"one"}


@needs_inotify
def test_a_bell_that_lost_count_rings_for_all(bell: Bell, tmp_path: Path) -> None:
    (tmp_path / "quiet").mkdir()
    (tmp_path / "loud").mkdir()
    bell.add("quiet", str(tmp_path / "quiet"))
    bell.add("loud", str(tmp_path / "loud"))
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    names = [str(tmp_path / "loud" / str(number)) for number in range(2)]
    for number in range(limit + 10):  # neighbours that are equal count once
        os.close(os.open(names[number % 2], os.O_WRONLY | os.O_CREAT))
    assert bell.rung() == {"quiet", "loud"}


@needs_inotify
def test_reading_rings_no_bell(bell: Bell, tmp_path: Path) -> None:
    lock = files.Lock(str(tmp_path / "lock"))
    assert lock.take()
    bell.add("job", str(tmp_path))
    assert files.is_locked(lock.path) is True
    assert bell.rung() == set()
    lock.release()
    assert bell.rung() == {"job"}


def test_no_such_directory(bell: Bell, tmp_path: Path) -> None:
    assert not bell.add("job", str(tmp_path / "none"))


class Watch:
    """A watcher in this process, of a job on a real host; with a bell, or without: it must look."""

    def __init__(self, host: HostPaths, names: list[str], *, looking: bool) -> None:
        self.judge = Judge(host)
        bell = Bell()
        if looking:
            bell.close()
        self.watcher = Watcher(self.judge, names, bell)
        self.states = dict(self.watcher.first)
        self.looks = 0

    def until(self, holds: Callable[[dict[str, dict[str, Any] | None]], bool], limit_s: float = 60.0) -> float:
        """Wait as a session does; the seconds that it took."""
        begun = time.monotonic()
        while not holds(self.states):
            assert time.monotonic() - begun < limit_s, self.states
            fds = [] if self.watcher.fd is None else [self.watcher.fd]
            select.select(fds, [], [], min(1.0, self.watcher.patience_s()))
            self.judge.reap()
            self.looks += 1
            self.states.update(self.watcher.changes())
        return time.monotonic() - begun


@pytest.fixture(params=["bell", "looking"])
def watch(request: pytest.FixtureRequest, host: HostPaths) -> Iterator[Callable[..., Watch]]:
    made: list[Watch] = []

    def begin(*names: str) -> Watch:
        made.append(Watch(host, list(names), looking=request.param == "looking"))
        return made[-1]

    yield begin
    for one in made:
        one.watcher.close()


def _phase(states: dict[str, dict[str, Any] | None], name: str) -> str | None:
    state = states[name]
    return state and state["phase"]


def test_a_job_that_is_not_there_yet(serve: Serve, watch: Callable[..., Watch]) -> None:
    plan = shell("echo hello")
    seen = watch(plan.job_id)
    assert seen.states == {plan.job_id: None}
    serve.launch(plan)
    seen.until(lambda states: _phase(states, plan.job_id) == "ended")


def test_a_log_that_grows_and_an_end(serve: Serve, watch: Callable[..., Watch], tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    plan = shell(f"echo one; cat '{gate}'; exit 3")
    serve.launch(plan)
    seen = watch(plan.job_id)
    seen.until(lambda states: (states[plan.job_id] or {})["log_bytes"] == 4)
    gate.write_text("and two\n")
    seen.until(lambda states: _phase(states, plan.job_id) == "ended")
    assert (seen.states[plan.job_id] or {})["exit_code"] == 3


def test_a_killed_supervisor(serve: Serve, watch: Callable[..., Watch], host: HostPaths) -> None:
    plan = shell("exec sleep 300")
    serve.launch(plan)
    seen = watch(plan.job_id)
    seen.until(lambda states: _phase(states, plan.job_id) == "running")
    state = Path(host.job(plan.job_id).state).read_text()
    os.kill(json.loads(state)["pid"], signal.SIGKILL)
    seen.until(lambda states: _phase(states, plan.job_id) == "ended")
    assert (seen.states[plan.job_id] or {})["reason"] == "ProcessLost"


def test_a_job_that_is_forgotten_and_claimed_again(serve: Serve, watch: Callable[..., Watch]) -> None:
    plan = shell("true")
    serve.run(plan)
    seen = watch(plan.job_id)
    serve.ask("forget", job=plan.job_id)
    seen.until(lambda states: states[plan.job_id] is None)
    serve.claim(plan)
    seen.until(lambda states: _phase(states, plan.job_id) == "claimed")


def test_nothing_is_looked_at_while_nothing_happens(serve: Serve, host: HostPaths) -> None:
    plan = shell("exec sleep 300")
    serve.launch(plan)
    seen = Watch(host, [plan.job_id], looking=False)
    seen.until(lambda states: _phase(states, plan.job_id) == "running")
    while select.select([seen.watcher.fd], [], [], 1.0)[0] if seen.watcher.fd is not None else True:
        seen.watcher.changes()  # what the start has left to tell
    assert seen.watcher.patience_s() > 30
    seen.watcher.close()
    serve.stop(plan.job_id, grace_s=0)
