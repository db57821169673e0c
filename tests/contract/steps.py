"""What nearly every test does with a backend: launch, wait, read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobState

States = Mapping[str, JobState]


def launch(backend: Backend, plan: Plan) -> str:
    """Claim and start it; its job id."""
    backend.claim(plan)
    backend.start(plan.job_id)
    return plan.job_id


def wait_until(
    backend: Backend, job_ids: Sequence[str], done: Callable[[States], bool], timeout_s: float = 60.0
) -> dict[str, JobState]:
    """Watch until `done(states)`; the states."""
    until = time.monotonic() + timeout_s
    states = backend.poll(job_ids)
    while job_ids and not done(states):
        assert time.monotonic() < until, f"not within {timeout_s} s: {states}"
        states.update(backend.watch(job_ids, 1.0))
    return states


def outcome(backend: Backend, job_id: str, timeout_s: float = 60.0) -> JobState:
    """Wait for its end; how it ended."""
    return wait_until(backend, [job_id], lambda s: s[job_id].status.is_finished, timeout_s)[job_id]


def wait_ready(backend: Backend, job_id: str) -> None:
    """Wait until a job of the word `block` says so."""
    wait_until(backend, [job_id], lambda s: s[job_id].log_bytes > 0)


def log(backend: Backend, job_id: str, turn: int = 4 * 1024 * 1024) -> bytes:
    """All of the log, in turns of so many bytes."""
    pieces, offset = [], 0
    while (chunk := backend.read_log(job_id, offset, turn)).data:
        assert chunk.offset == offset
        pieces.append(chunk.data)
        offset = chunk.next_offset
    return b"".join(pieces)


class Renewals:
    """Says that somebody still wants jobs, and knows how long it has not: this machine may stand still meanwhile."""

    def __init__(self, backend: Backend, *job_ids: str) -> None:
        self._backend, self._job_ids = backend, job_ids
        self._sent, self._longest_s = time.monotonic(), 0.0

    def renew(self) -> None:
        sent, before = time.monotonic(), self._sent
        self._backend.renew(self._job_ids)
        self._longest_s, self._sent = max(self._longest_s, time.monotonic() - before), sent

    @property
    def longest_s(self) -> float:
        """At the most so long the worker has heard nothing."""
        return max(self._longest_s, time.monotonic() - self._sent)


def at_once(*actions: Callable[[], object]) -> None:
    """Run them in threads that start together; an error of theirs is raised here."""
    barrier = threading.Barrier(len(actions))

    def body(action: Callable[[], object]) -> None:
        barrier.wait()
        action()

    with ThreadPoolExecutor(len(actions)) as pool:
        for done in [pool.submit(body, action) for action in actions]:
            done.result()
