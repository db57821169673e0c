"""A pool of four SSH hosts with two GPUs each: many more jobs than GPUs, of several that know nothing of each other."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import paramiko
import pytest

from airflow_jobdeploy.backends.channel import ParamikoClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.leases import Lease, Ticket, lease_of
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.core.status import JobStatus
from tests.faults.processes import eventually
from tests.servers.gpus import FakeGpus
from tests.servers.netns import UID, USER, Host, NewHost, new_host, swept

__all__ = ["new_host", "swept"]

pytestmark = pytest.mark.netns

HOSTS, GPUS, RIVALS = 4, 2, 3

#: mkdir succeeds for one only; a job that finds its GPU in use says so.
JOB = """\
mkdir "$HOME/in-use-$JOBDEPLOY_GPUS" || echo "$JOBDEPLOY_GPUS" >> "$HOME/shared"
sleep 0.05
rmdir "$HOME/in-use-$JOBDEPLOY_GPUS"
echo "$JOBDEPLOY_GPUS" >> "$HOME/ran"
"""


class Pool:
    """The hosts, and where their fake tools lie."""

    def __init__(self, new_host: NewHost) -> None:
        self.hosts = [new_host() for _ in range(HOSTS)]
        self.gpus = [self._equipped(host) for host in self.hosts]

    def _equipped(self, host: Host) -> FakeGpus:
        fake = FakeGpus(host.home / "tools", count=GPUS)
        for path in (fake.folder, *fake.folder.iterdir()):
            path.chmod(0o755)
            _give(path)
        return fake

    def backends(self) -> list[HostedBackend]:
        made = [self._backend(host) for host in self.hosts]
        for backend in made:
            eventually(lambda backend=backend: len(backend.room().capacity["gpus"]) == GPUS)  # they are looked for
        return made

    def _backend(self, host: Host) -> HostedBackend:
        def connected() -> paramiko.SSHClient:
            client = paramiko.SSHClient()
            client.get_host_keys().add(host.address, "ssh-ed25519", host.host_key())
            client.connect(host.address, username=USER, key_filename=str(host.user_key), allow_agent=False, timeout=20)
            return client

        path = f"/home/{USER}/tools:/usr/bin:/bin"
        return HostedBackend(
            worker=host.name, kind="ssh", connect=lambda: ParamikoClient(connected, name=host.name), path=path
        )

    def notes(self, name: str) -> list[str]:
        files = [host.home / name for host in self.hosts]
        return [line for file in files if file.exists() for line in file.read_text().split()]


def _give(path: Path) -> None:
    os.chown(path, UID, UID)


@pytest.fixture
def pool(new_host: NewHost) -> Pool:
    return Pool(new_host)


class Rival:
    """One deployment: all its jobs wait on all hosts at once, and go where they are granted something first."""

    def __init__(self, pool: Pool, count: int) -> None:
        self._backends = pool.backends()
        demand = {"gpus": [{"count": 1}]}
        self._waiting = {ticket.uid: ticket for ticket in (Ticket(uid=new_uid(), demand=demand) for _ in range(count))}
        self._running: dict[str, HostedBackend] = {}
        self.ended: list[JobStatus] = []
        self._sought = 0.0

    def run(self) -> None:
        try:
            while self._waiting or self._running:
                self._seek()
                for backend in self._backends:
                    for uid, answer in backend.granted(0.02).items():
                        if answer.lease:
                            self._start(backend, uid, answer.lease)
                    self._look(backend)
        finally:
            for backend in self._backends:
                backend.close()

    def _seek(self) -> None:
        if time.monotonic() - self._sought < 20:
            return
        self._sought = time.monotonic()
        for backend in self._backends:
            for uid, ticket in list(self._waiting.items()):
                answer = backend.seek(ticket)
                if answer.lease:
                    self._start(backend, uid, answer.lease)

    def _start(self, backend: HostedBackend, uid: str, lease: Lease) -> None:
        ticket = self._waiting.pop(uid, None)
        if ticket is None:  # another host was faster
            backend.release(lease.id)
            return
        for other in self._backends:
            if other is not backend:
                other.drop(uid)
        plan = Plan(uid=uid, steps=(Step(name="job", kind="shell", content=JOB),), lease=lease_of(ticket, lease))
        backend.claim(plan)
        backend.start(plan.job_id)
        self._running[plan.job_id] = backend

    def _look(self, backend: HostedBackend) -> None:
        mine = [job for job, at in self._running.items() if at is backend]
        for job, state in backend.poll(mine).items():
            if state.status.is_finished:
                self.ended.append(state.status)
                del self._running[job]


def compete(pool: Pool, count: int) -> list[Rival]:
    rivals = [Rival(pool, count // RIVALS) for _ in range(RIVALS)]
    with ThreadPoolExecutor(RIVALS) as threads:
        for done in [threads.submit(rival.run) for rival in rivals]:
            done.result()
    return rivals


def test_of_two_hundred_jobs_no_two_share_a_gpu(pool: Pool) -> None:
    count = 67 * RIVALS
    rivals = compete(pool, count)
    ended = [status for rival in rivals for status in rival.ended]
    assert ended == [JobStatus.SUCCEEDED] * count
    assert pool.notes("shared") == []
    ran = pool.notes("ran")
    assert len(ran) == count
    assert set(ran) == {uuid for gpus in pool.gpus for uuid in gpus.uuids}, "all GPUs were used"


def test_a_host_that_is_lost_takes_its_tickets_with_it_and_no_others(pool: Pool) -> None:
    """Who waits on several hosts, one of which falls silent, is served by the others; and by it when it is back."""
    backends = pool.backends()
    demand = {"gpus": [{"count": GPUS}]}
    held = [backend.seek(Ticket(uid=new_uid(), demand=demand)).lease for backend in backends]
    ticket = Ticket(uid=new_uid(), demand=demand)
    assert [backend.seek(ticket).position for backend in backends] == [1] * HOSTS
    pool.hosts[0].power_off()
    lease = held[1]
    assert lease
    assert backends[1].release(lease.id)
    until, told = time.monotonic() + 30, backends[1].granted(5.0)
    while ticket.uid not in told:
        assert time.monotonic() < until
        told = backends[1].granted(5.0)
    assert told[ticket.uid].lease
    pool.hosts[0].power_on()
    again = pool.backends()[0]
    assert again.seek(Ticket(uid=new_uid(), demand=demand)).lease, "leases end with the power"
    for backend in [*backends, again]:
        threading.Thread(target=backend.close, daemon=True).start()  # one of them waits for a host that is gone
