"""A client of Apolo's jobs and workers that come and go: two hosts in memory, which pass the contract of real ones."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import cached_property

import pytest

from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import JobDeployError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.hooks.apolo import Container, JobDescription
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.service import Workers
from airflow_jobdeploy.testing import MemoryHost, Run
from tests.airflow.test_apolo import until

pytestmark = pytest.mark.airflow


class MemoryHook(JobDeployHook):
    """The hook of a pool of hosts in memory."""

    def __init__(self, hosts: dict[str, MemoryHost]) -> None:
        super().__init__("lab")
        self.hosts = hosts

    @cached_property
    def pool(self) -> WorkerPool:
        return WorkerPool(name="lab", kind="memory", workers=tuple(Worker(conn_id=name) for name in self.hosts))

    def get_conn(self) -> Workers:
        return Workers(self.pool, lambda worker: self.hosts[worker.name].backend())


def train(run: Run) -> int:
    run.wait()
    return 0


@pytest.fixture
def client() -> Iterator[MemoryHook]:
    hosts = {name: MemoryHost(name=name, programs={"train": train}) for name in ("a", "b")}
    hook = MemoryHook(hosts)
    with hook.jobs:
        yield hook
    for host in hosts.values():
        host.plug_in()
        backend = host.backend()
        for row in backend.jobs(live_only=True):
            backend.stop(row["plan"]["job_id"], reason="the test is over", grace_s=0)
        host.settle()


def is_running(job: JobDescription) -> bool:
    return job.status.is_running


def test_a_job_whose_worker_is_silent_is_unknown_and_that_is_no_end(client: MemoryHook) -> None:
    job = until(client, client.jobs.start(command="train"), is_running)
    host = client.hosts[str(job.handle["worker"])]
    host.unplug()
    silent = client.jobs.status(job.id)
    assert (silent.status, silent.reason, silent.id) == (JobStatus.UNKNOWN, "Unreachable", job.id)
    assert "What runs there goes on" in silent.history.description
    assert silent.history.started_at is not None
    with pytest.raises(WorkerUnreachable):
        client.jobs.kill(job.id)
    with pytest.raises(WorkerUnreachable):
        client.jobs.bump_life_span(job.id, 60)
    host.plug_in()
    assert client.jobs.status(job.id).status is JobStatus.RUNNING
    client.jobs.kill(job.id)


def test_what_others_have_is_listed_while_a_worker_is_silent(client: MemoryHook) -> None:
    job = client.jobs.start(command="train")
    client.hosts["b"].unplug()
    assert [each.id for each in client.jobs.list()] == [job.id]
    with pytest.raises(JobDeployError, match=r"'jnothing' is not in pool 'lab'; b cannot be asked: "):
        client.jobs.status("jnothing")
    named = client.jobs.start(command="train", name="train")  # nobody knows whether b has one of that name
    assert named.handle["worker"] == "a"
    client.hosts["a"].unplug()
    with pytest.raises(WorkerError, match=r"worker a cannot be asked.*worker b cannot be asked"):
        client.jobs.list()


def test_a_preemptible_job_is_resumed_by_the_client_that_started_it(client: MemoryHook) -> None:
    job = client.jobs.run(Container(command="train"), preemptible_node=True)
    job = until(client, job, is_running)
    client.preempt(dict(job.handle), reason="room for ann", grace_s=0, wait_s=60)
    resumed = until(client, client.jobs.status(job.id), is_running)
    assert (resumed.id, resumed.history.restarts) == (job.id, 1)
    assert [item.status.value for item in resumed.history.transitions].count("SUSPENDED") == 1
    stranger = MemoryHook(client.hosts)
    assert stranger.jobs.status(job.id).history.restarts == 1
    client.jobs.kill(job.id)


def test_nobody_else_restarts_it(client: MemoryHook) -> None:
    failing = threading.Event()
    host = client.hosts["a"]
    host.programs["fail"] = lambda run: 3 * failing.wait()
    job = client.jobs.start(command="fail", restart_policy="always")
    failing.set()
    host.settle()
    stranger = MemoryHook(client.hosts)
    assert stranger.jobs.status(job.id).status is JobStatus.FAILED
    assert len(host.jobs) == 1
    assert client.jobs.status(job.id).history.restarts == 1
    host.settle()
    assert len(host.jobs) == 2
