"""A pool of two engines with GPUs: more jobs than GPUs, of deployments that know nothing of each other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.leases import Lease, Ticket, lease_of
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.core.status import JobStatus
from tests.backends.engines import job, left
from tests.servers.dockerd import IMAGE, Dockerd
from tests.servers.nvidia import EngineGpus, equipped

pytestmark = pytest.mark.docker

RIVALS = 2

#: mkdir succeeds for one only; a job that finds its GPU in use says so. The GPUs are what the container was given.
JOB = """\
cd "$SHARED"
gpu=$(nvidia-smi --query-gpu=index,uuid,memory.total,driver_version,mig.mode.current,name \
    --format=csv,noheader,nounits | cut -d' ' -f2 | tr -d ,)
[ "$gpu" = "$CUDA_VISIBLE_DEVICES" ] || echo "$gpu, told $CUDA_VISIBLE_DEVICES" >> odd
mkdir "in-use-$gpu" || echo "$gpu" >> shared
sleep 0.05
rmdir "in-use-$gpu"
echo "$gpu" >> ran
"""


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[tuple[Dockerd, EngineGpus]]]:
    folder = tmp_path_factory.mktemp("gpus")
    with equipped(folder / "a") as first, equipped(folder / "b") as second:
        yield [first, second]


@pytest.fixture
def engines(both: list[tuple[Dockerd, EngineGpus]]) -> Iterator[list[tuple[Dockerd, EngineGpus]]]:
    yield both
    for engine, _ in both:
        engine.wipe()


class Rival:
    """One deployment: all its jobs wait on both engines at once, and go where they are granted something first."""

    def __init__(self, engines: list[tuple[Dockerd, EngineGpus]], shared: Path, count: int) -> None:
        settings = Settings(image=IMAGE, shared=str(shared))
        self._backends = [DockerBackend(worker="e", connect=engine.client, settings=settings) for engine, _ in engines]
        self._shared = str(shared)
        demand = {"gpus": [{"count": 1}]}
        self._waiting = {ticket.uid: ticket for ticket in (Ticket(uid=new_uid(), demand=demand) for _ in range(count))}
        self._running: dict[str, DockerBackend] = {}
        self.ended: list[JobStatus] = []

    def run(self) -> None:
        sought = -100.0
        try:
            while self._waiting or self._running:
                if time.monotonic() - sought > 20:
                    sought = time.monotonic()
                    self._seek()
                for backend in self._backends:
                    for uid, answer in backend.granted(0.05).items():
                        if answer.lease:
                            self._start(backend, uid, answer.lease)
                    self._look(backend)
        finally:
            for backend in self._backends:
                backend.close()

    def _seek(self) -> None:
        for backend in self._backends:
            for uid, ticket in list(self._waiting.items()):
                lease = backend.seek(ticket).lease
                if lease:
                    self._start(backend, uid, lease)

    def _start(self, backend: DockerBackend, uid: str, lease: Lease) -> None:
        ticket = self._waiting.pop(uid, None)
        if ticket is None:  # the other engine was faster
            backend.release(lease.id)
            return
        for other in self._backends:
            if other is not backend:
                other.drop(uid)
        plan = job(JOB, uid=uid, lease=lease_of(ticket, lease), env={"SHARED": self._shared})
        backend.claim(plan)
        backend.start(plan.job_id)
        self._running[plan.job_id] = backend

    def _look(self, backend: DockerBackend) -> None:
        mine = [job_id for job_id, at in self._running.items() if at is backend]
        for job_id, state in backend.watch(mine, 0.05).items() if mine else ():
            if state.status.is_finished:
                self.ended.append(state.status)
                del self._running[job_id]


def compete(engines: list[tuple[Dockerd, EngineGpus]], shared: Path, count: int) -> None:
    """So many jobs of each of the rivals: all succeed, no two share a GPU, all GPUs are used, none stays held."""
    shared.mkdir()
    rivals = [Rival(engines, shared, count) for _ in range(RIVALS)]
    with ThreadPoolExecutor(RIVALS) as threads:
        for done in [threads.submit(rival.run) for rival in rivals]:
            done.result()
    assert [status for rival in rivals for status in rival.ended] == [JobStatus.SUCCEEDED] * count * RIVALS
    assert not (shared / "shared").exists()
    assert not (shared / "odd").exists()
    ran = (shared / "ran").read_text().split()
    assert len(ran) == count * RIVALS
    assert set(ran) == {uuid for _, gpus in engines for uuid in gpus.uuids}, "all GPUs were used"
    for engine, _ in engines:
        backend = DockerBackend(worker="e", connect=engine.client, settings=Settings(image=IMAGE))
        assert not backend.room().leases  # whoever looks removes what is left of a job that ended when all had gone
        backend.close()
        assert not [name for name in left(engine) if "gpu" in name]


def test_of_forty_jobs_no_two_share_a_gpu(engines: list[tuple[Dockerd, EngineGpus]], tmp_path: Path) -> None:
    compete(engines, tmp_path / "shared", 20)


@pytest.mark.slow
def test_of_two_hundred_jobs_no_two_share_one_of_eight_gpus(tmp_path: Path) -> None:
    with equipped(tmp_path / "a", 4) as first, equipped(tmp_path / "b", 4) as second:
        compete([first, second], tmp_path / "shared", 100)


def test_leases_outlive_the_engines_process(engines: list[tuple[Dockerd, EngineGpus]]) -> None:
    """Killed and started again it has the same leases, and the same jobs in line."""
    engine, gpus = engines[0]
    settings = Settings(image=IMAGE)
    backend = DockerBackend(worker="e", connect=engine.client, settings=settings)
    both = Ticket(uid=new_uid(), demand={"gpus": [{"count": 2}]})
    lease, until = backend.seek(both).lease, time.monotonic() + 60
    while lease is None:  # its GPUs are looked for first
        assert time.monotonic() < until
        told = backend.granted(5.0).get(both.uid)
        lease = told.lease if told else None
    waiting = Ticket(uid=new_uid(), demand={"gpus": [{"count": 1}]})
    plan = job('echo "$CUDA_VISIBLE_DEVICES"', uid=waiting.uid, lease=lease_of(waiting, None))
    backend.claim(plan)
    backend.start(plan.job_id)
    engine.kill()
    engine.start()
    again = DockerBackend(worker="e", connect=engine.client, settings=settings)
    assert again.seek(Ticket(uid=new_uid(), demand={"gpus": [{"count": 1}]})).lease is None
    assert again.poll([plan.job_id])[plan.job_id].reason == "Queued"
    assert again.release(lease.id)
    until = time.monotonic() + 20
    while not (state := again.poll([plan.job_id])[plan.job_id]).status.is_finished:
        assert time.monotonic() < until, state
        again.watch([plan.job_id], 1.0)
    assert state.status is JobStatus.SUCCEEDED, state.message
    assert state.facts["gpus"][0] in gpus.uuids
    again.close()
