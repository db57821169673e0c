"""A quota over several hosts: of jobs that are granted GPUs on two at the same moment none holds more than it may."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.channel import LocalChannel, LocalClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.capacity import Quota
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.service import Payer
from tests.hostside.strangers import Network
from tests.servers.gpus import FakeGpus
from tests.service.conftest import Desk, Notebook

pytestmark = pytest.mark.netns

#: Says how many of them run beside each other.
JOB = """\
cd "{0}" && touch "on-$JOBDEPLOY_JOB_ID" && ls | grep -c ^on- >> counts
sleep 0.3
rm "on-$JOBDEPLOY_JOB_ID"
"""


class Host(LocalClient):
    """This machine with a network, and so a line, of its own; and its own GPUs."""

    def __init__(self, name: str, enter: Sequence[str], tools: Path) -> None:
        super().__init__(name)
        self._before = [*enter, "env", f"PATH={tools}:{os.environ['PATH']}"]

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return super().open([*self._before, *argv])


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Two hosts with two GPUs each; an owner may have two of them, a team three."""
    networks = {name: Network() for name in ("a", "b")}
    tools = {name: FakeGpus(tmp_path / f"tools-{name}").folder for name in networks}

    def connect(worker: Worker) -> HostedBackend:
        name = worker.name
        client = lambda: Host(name, networks[name].enter, tools[name])  # noqa: E731
        return HostedBackend(worker=name, kind="local", connect=client, root=str(tmp_path / name))

    workers = tuple(Worker(conn_id=name) for name in networks)
    quotas = {"*": Quota(max_gpus=2), "vision": Quota(max_gpus=3)}
    yield Desk(pool=WorkerPool(name="lab", kind="ssh", workers=workers, quotas=quotas), connect=connect)
    for network in networks.values():
        network.close()


def ended(desk: Desk, folder: Path, payer: Payer) -> JobStatus:
    """One task's job."""
    mine = Desk(pool=desk.pool, connect=desk.connect, notebook=Notebook())
    work = mine.run_spec({"command": JOB.format(folder), "gpu_types": [{"type": "any", "count": 1}]}, payer=payer)
    handle = mine.submit(work).handle
    state = mine.follow(handle, timeout_s=60).state
    assert state.exit_code == 0, mine.log
    return JobStatus(state.status)


@pytest.mark.parametrize(("payer", "most"), [(Payer(user="ada"), 2), (Payer(user="ada", team="vision"), 3)])
def test_no_more_than_the_quota_run_at_once_on_two_hosts(desk: Desk, tmp_path: Path, payer: Payer, most: int) -> None:
    folder = tmp_path / "notes"
    folder.mkdir()
    with ThreadPoolExecutor(6) as threads:
        found = [threads.submit(ended, desk, folder, payer) for _ in range(6)]
        assert [each.result() for each in found] == [JobStatus.SUCCEEDED] * 6
    counts = [int(line) for line in (folder / "counts").read_text().split()]
    assert max(counts) <= most
    assert len(counts) == 6
    with desk.workers() as workers:
        rooms = [workers.backend(name).room() for name in ("a", "b")]
    assert not [each for room in rooms for each in (*room.leases, *room.tickets)], "nothing is left behind"
