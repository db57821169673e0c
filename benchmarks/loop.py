"""An event loop like the triggerer's, with many triggers in it: what it costs, and how late it is. Runs apart."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.lab import ENGINE
from benchmarks.measure import cpu_between, cpu_s, host_pids, percentile, rss_bytes

_PROBE_S = 0.01
_RAMP_S = 180


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Follow all `jobs` for `window_s` seconds, as `kind` ("ours" or "stock") does it."""
    _log_as_a_triggerer(Path(question["log"]))
    triggers = {"ours": _ours, "stock": _stock, "inspect": _inspect}[question["kind"]](question["jobs"])
    before = rss_bytes()  # modules and arguments are there; connections, threads and states are not
    # Not asyncio.run: it cancels what is left and waits for it, and SSHRemoteJobTrigger may miss a cancellation.
    loop = asyncio.new_event_loop()
    return loop.run_until_complete(_watched(triggers, question, before))


def _log_as_a_triggerer(path: Path) -> None:
    """JSON lines, as the triggerer's process writes them for its parent."""
    from airflow.sdk.log import configure_logging, reset_logging

    reset_logging()
    configure_logging(json_output=True, output=path.open("wb", buffering=0), sending_to_supervisor=True)


class _Seen:
    """How many of the triggers have heard of their job."""

    def __init__(self, wanted: int) -> None:
        self.names: set[int] = set()
        self._wanted = wanted
        self.all = asyncio.Event()

    def add(self, name: int) -> None:
        self.names.add(name)
        if len(self.names) >= self._wanted:
            self.all.set()


def _ours(jobs: Sequence[dict[str, Any]]) -> list[Any]:
    import airflow.providers.ssh.hooks.ssh  # noqa: F401 - what SSHRemoteJobTrigger has imported by now, too

    from airflow_jobdeploy.triggers.job import JobTrigger

    class Told(JobTrigger):
        seen: _Seen

        def _take(self, update: Any) -> None:
            super()._take(update)
            self.seen.add(id(self))

    return [Told(jobs=[job], offset=0, poll_interval=1.0) for job in jobs]


def _stock(jobs: Sequence[dict[str, Any]]) -> list[Any]:
    from airflow.providers.ssh.triggers.ssh_remote_job import SSHRemoteJobTrigger

    class Polled(SSHRemoteJobTrigger):
        seen: _Seen

        async def _read_log_chunk(self, conn: Any) -> tuple[str, int]:
            found = await super()._read_log_chunk(conn)
            self.seen.add(id(self))
            return found

    return [Polled(**job) for job in jobs]


def _inspect(jobs: Sequence[dict[str, Any]]) -> list[Any]:
    """What who waits for a container can do without us: ask for it, each second, by a client of its own."""
    import docker

    class Inspected:
        seen: _Seen

        def __init__(self, container: str, url: str) -> None:
            self._container = container
            self._client = docker.APIClient(base_url=url, version="1.41")

        async def run(self) -> AsyncIterator[Any]:
            while (await asyncio.to_thread(self._client.inspect_container, self._container))["State"]["Running"]:
                self.seen.add(id(self))
                await asyncio.sleep(1.0)
            yield "it has ended"

    url = json.loads(os.environ[f"AIRFLOW_CONN_{ENGINE.upper()}"])["host"]
    return [Inspected(job["job_id"], url) for job in jobs]


async def _watched(triggers: list[Any], question: dict[str, Any], rss_before: int) -> dict[str, Any]:
    seen = _Seen(len(triggers))
    for trigger in triggers:
        trigger.task_instance = None
        trigger.seen = seen
    begun = time.monotonic()
    tasks = [asyncio.create_task(_first(trigger)) for trigger in triggers]
    await asyncio.wait_for(seen.all.wait(), _RAMP_S)
    ramp_s = time.monotonic() - begun
    found = await _window(question)
    assert not any(task.done() for task in tasks), "a trigger ended while its job was quiet"
    return {**found, "ramp_s": ramp_s, "rss": rss_bytes() - rss_before}


async def _first(trigger: Any) -> None:
    async for event in trigger.run():
        raise AssertionError(f"a quiet job ended: {event}")


async def _window(question: dict[str, Any]) -> dict[str, Any]:
    """CPU here and on the host while nothing but the triggers runs; then how late the loop is."""
    await asyncio.sleep(1.0)  # what the start has left to do
    host_before = cpu_s(host_pids(question["sshd"], question["mark"]))
    begun, own_before = time.monotonic(), _own_cpu_s()
    await asyncio.sleep(question["window_s"])
    own, taken = _own_cpu_s() - own_before, time.monotonic() - begun
    host_after = cpu_s(host_pids(question["sshd"], question["mark"]))
    return {
        "connections": await _mostly_held(question["socket"]) - question["held"] if "socket" in question else None,
        "cpu_here": own * 60 / taken,
        "cpu_host": cpu_between(host_before, host_after) * 60 / taken,
        "lag_ms": await _lag_s(question["window_s"] / 2) * 1000,
    }


async def _mostly_held(url: str) -> int:
    """The median of what is held during six seconds: two rounds of looks."""
    seen = []
    for _ in range(60):
        seen.append(held(url))
        await asyncio.sleep(0.1)
    return int(statistics.median(seen))


def held(url: str) -> int:
    """The connections at an engine's socket, proc(5)."""
    path = url.removeprefix("unix://")
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {path}") and line.split()[5] == "03" for line in lines)


async def _lag_s(window_s: float) -> float:
    """How much later than asked for the loop wakes who sleeps in it: 99 of 100 times not more."""
    late, begun = [], time.monotonic()
    while time.monotonic() - begun < window_s:
        asked = time.monotonic()
        await asyncio.sleep(_PROBE_S)
        late.append(time.monotonic() - asked - _PROBE_S)
    return percentile(late, 0.99)


def _own_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
