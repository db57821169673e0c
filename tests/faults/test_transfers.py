"""Trees over a line that breaks: what has arrived is not sent again, what is there costs next to nothing."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import IO

import pytest

from airflow_jobdeploy.backends.channel import Client, ParamikoClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.manifest import FILE, Entry, Manifest
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.service import Workers
from airflow_jobdeploy.service.sending import Sending
from tests.backends.clients import RecordingClient, host
from tests.contract.labs import HostedLab, opened
from tests.contract.trees import Tree, tree
from tests.faults.processes import MIB, descendants
from tests.servers.sshd import Sshd
from tests.servers.wire import Wire, wired

MANY = tree({f"part {number:02}/file {number}": os.urandom(200) for number in range(5000)})


@pytest.fixture
def here(tmp_path: Path) -> Iterator[HostedLab]:
    """This machine: the far process is a child of ours, to be looked at."""
    with opened(HostedLab("local", tmp_path / "root")) as lab:
        assert isinstance(lab, HostedLab)
        yield lab


class Patient(Workers):
    """Workers that reach one host, and do not wait long before they try again."""

    def pause(self, seconds: float) -> None:
        super().pause(min(seconds, 0.2))


def workers(root: Path, connect: Callable[[], Client]) -> Patient:
    backend = lambda worker: HostedBackend(worker="h", kind="ssh", connect=connect, root=str(root))  # noqa: E731
    return Patient(WorkerPool.local(), backend)


@pytest.fixture
def wire(sshd: Sshd) -> Iterator[Wire]:
    with wired("127.0.0.1", sshd.port) as found:
        yield found


def through(wire: Wire, sshd: Sshd) -> Callable[[], Client]:
    """Connects by way of the wire."""
    other = replace(sshd, port=wire.port)
    with other.known_hosts.open("a") as file:
        file.write(f"[127.0.0.1]:{wire.port} {other.host_key}\n")
    return lambda: ParamikoClient(other.connect, name="h")


@pytest.mark.sshd
@pytest.mark.parametrize("seed", range(3))
def test_a_line_that_breaks_at_any_byte(sshd: Sshd, wire: Wire, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    data = {"big": os.urandom(6 * MIB), **{f"d{number}/f": os.urandom(3000) for number in range(200)}}
    source = tree(data)
    root = tmp_path / "root"
    with workers(root, sshd.client) as direct:
        direct.backend("local").facts()
    moved = 0

    def progress(done: int, todo: int) -> None:
        nonlocal moved
        moved = max(moved, done)

    with workers(root, through(wire, sshd)) as used:
        for _ in range(3):
            wire.reset_after(chance.randrange(20_000, 3 * MIB), down=False)
            sending = Sending(used, "local", say=lambda line: None, progress=progress)
            report = sending.bring(source, "dataset")
            if wire.resets >= 3:
                break
        assert report.name == source.manifest.name
        assert wire.resets >= 1
        assert used.backend("local").has_tree(source.manifest.name)
    top = root / "store" / "trees" / source.manifest.name / "tree"
    assert {path: (top / path).read_bytes() for path in data} == data
    assert os.listdir(root / "store" / "incoming") == []


@pytest.mark.sshd
def test_what_is_there_costs_less_than_ten_kilobytes(sshd: Sshd, tmp_path: Path) -> None:
    """And one changed file of 5,000 costs that file, and the manifest."""
    made: list[ParamikoClient] = []

    def connect() -> Client:
        made.append(sshd.client())
        return made[-1]

    def cost(source: Tree) -> int:
        with workers(tmp_path / "root", connect) as used:
            used.backend("local").facts()
            before = _moved(made[-1])
            Sending(used, "local", say=lambda line: None).bring(source, "project")
            return _moved(made[-1]) - before

    first = cost(MANY)
    assert first > MANY.manifest.bytes
    assert cost(MANY) < 10_000
    changed = tree({**MANY.contents, "part 07/file 7": "changed"})
    compressed = 50 * 5000
    assert cost(changed) < compressed
    assert changed.opened == ["part 07/file 7"]


def _moved(client: ParamikoClient) -> int:
    """Bytes that the kernel has taken for this connection, and given from it."""
    sock = client._transport.sock
    info = sock.getsockopt(6, 11, 256)  # TCP_INFO: tcpi_bytes_acked, tcpi_bytes_received (linux/tcp.h)
    return int.from_bytes(info[120:128], sys.byteorder) + int.from_bytes(info[128:136], sys.byteorder)


@dataclass(frozen=True)
class Endless:
    """A file that is never anywhere as a whole."""

    size: int
    version: str = "1"
    opened: list[int] = field(default_factory=list)

    @property
    def manifest(self) -> Manifest:
        return Manifest.of([Entry("zeros", FILE, self.size, "")])

    def open(self, entry: Entry, offset: int = 0) -> IO[bytes]:
        self.opened.append(offset)
        return _Zeros()


class _Zeros(BytesIO):
    def read(self, size: int | None = -1) -> bytes:
        assert size is not None
        assert size > 0
        return bytes(size)


def _peaks(root: str) -> tuple[int, int]:
    """While a large file is sent: what is added to the memory of this process, what the far one takes, in bytes."""
    client, peak, done = RecordingClient(), 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while not done.wait(0.02):
            pids = [pid for channel in client.opened for pid in (channel.pid, *descendants(channel.pid))]
            peak = max([peak, *map(_resident, pids)])

    watcher = threading.Thread(target=look)
    with host(client, root, kind="local") as backend:
        backend.facts()
        watcher.start()
        before = _most()
        try:
            report = backend.send_tree(Endless(256 * MIB))
        finally:
            done.set()
            watcher.join()
    assert report.sent_bytes == 256 * MIB
    return _most() - before, peak


def _most() -> int:
    """The most memory that this process has held so far, proc(5)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def test_memory_is_bounded_on_both_sides(tmp_path: Path) -> None:
    # In a process of its own: threads that other tests have left take memory, too.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        added, far = processes.submit(_peaks, str(tmp_path / "root")).result(120)
    assert added < 64 * MIB
    assert 0 < far < 64 * MIB


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    except (OSError, IndexError):
        return 0


def test_two_jobs_at_once_send_it_once(lab: HostedLab) -> None:
    source = tree({"big": os.urandom(8 * MIB)})
    sources = [replace(source, opened=[]) for _ in range(4)]
    errors: list[BaseException] = []

    def bring(mine: Tree) -> None:
        try:
            with Patient(WorkerPool.local(), lambda worker: lab.connect()) as used:
                assert Sending(used, "local", say=lambda line: None).bring(mine, "dataset").bytes == 8 * MIB
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=bring, args=(mine,)) for mine in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sum(len(mine.opened) for mine in sources) == 1
    assert os.listdir(lab.root / "store" / "incoming") == []


def test_the_one_who_sends_is_killed_and_another_goes_on(here: HostedLab, tmp_path: Path) -> None:
    """A task is killed -9 in the middle; its line closes, and who waited takes over with what had come."""
    backend = here.backend()
    backend.facts()
    (tmp_path / "data").write_bytes(bytes(64 * MIB))
    digest = hashlib.sha256(bytes(64 * MIB)).hexdigest()
    child = subprocess.Popen(
        [sys.executable, "-c", _SENDER, str(here.root), str(tmp_path / "data"), digest], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"half\n"
    child.kill()
    child.wait()
    manifest = Manifest.of([Entry("data", FILE, 64 * MIB, digest)])
    source = Tree(contents={"data": bytes(64 * MIB)}, manifest=manifest)
    with Patient(WorkerPool.local(), lambda worker: here.connect()) as used:
        report = Sending(used, "local", say=lambda line: None).bring(source, "dataset")
    assert 0 < report.sent_bytes < 40 * MIB


_SENDER = """
import sys, time
from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.manifest import FILE, Entry, Manifest
class Source:
    manifest = Manifest.of([Entry("data", FILE, 64 << 20, sys.argv[3])])
    version = ""
    def open(self, entry, offset=0):
        return open(sys.argv[2], "rb")
def progress(done, todo):
    if done >= 32 << 20:
        print("half", flush=True)
        time.sleep(60)
local_backend(root=sys.argv[1]).send_tree(Source(), progress)
"""
