"""Many sessions want few GPUs while everything is killed at random: no GPU is ever shared, none is held by nobody."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults.processes import eventually
from tests.hostside.client import Refused, Serve
from tests.hostside.strangers import Network, network
from tests.hostside.test_leases import Host, keepers, seek
from tests.servers.gpus import FakeGpus

pytestmark = pytest.mark.netns

#: The lock goes with the process, as a GPU's memory does.
JOB = """\
exec 9>>"{notes}/$JOBDEPLOY_GPUS"
flock -n 9 || echo "$JOBDEPLOY_GPUS $JOBDEPLOY_JOB_ID" >> "{notes}/shared"
echo x >> "{notes}/runs"
sleep 0.{length}
"""
#: How long it lasts, and on a busy machine at the most, in seconds.
_STORM_S, _PATIENCE_S = 6.0, 60.0


@pytest.fixture
def here() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def host(connect: Callable[..., Serve], here: Network, root: Path, tmp_path: Path) -> Host:
    return Host(connect, here, root, FakeGpus(tmp_path / "tools", count=2))


def _user(host: Host, notes: Path, over: threading.Event, chance: random.Random, serves: list[Serve]) -> None:
    """Somebody who wants one GPU after the other; whose session may be gone at any moment."""
    serve: Serve | None = None
    while not over.is_set():
        try:
            if serve is None:
                serve = host.serve()
                serves.append(serve)
            ticket = host.ticket()
            answer = seek(serve, ticket)
            lease: dict[str, Any] | None = answer["lease"] or _told(serve, 1.0)
            if chance.random() < 0.2:
                serve.ask("drop", uid=ticket.uid)
                continue
            text = JOB.format(notes=notes, length=chance.randrange(1, 4))
            serve.launch(host.plan(ticket, lease, text))
        except Refused as error:
            if "did not start" not in str(error):  # its supervisor was killed before its first word
                raise
        except (EOFError, OSError, ValueError):
            serve = None  # it was killed


def _told(serve: Serve, timeout_s: float) -> dict[str, Any] | None:
    told = serve.place(timeout_s)
    return told["lease"] if told else None


def _supervisors(root: Path) -> list[int]:
    mark = str(root).encode()
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"supervise" in words and mark in words:
            found.append(int(path.name))
    return found


def _kill_some(host: Host, root: Path, chance: random.Random, serves: list[Serve]) -> None:
    victims = [*keepers(host), *_supervisors(root)]
    if serves and chance.random() < 0.3:
        victims.append(chance.choice(serves).process.pid)
    if victims:
        try:
            os.kill(chance.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has just ended


def _runs(notes: Path) -> int:
    """How many jobs have begun."""
    return len((notes / "runs").read_text().split()) if (notes / "runs").exists() else 0


def test_whatever_is_killed_no_gpu_is_shared_and_none_is_lost(host: Host, root: Path, tmp_path: Path) -> None:
    chance, begun, notes, over = random.Random(7), time.monotonic(), tmp_path / "notes", threading.Event()
    notes.mkdir()
    serves: list[Serve] = []
    users = [
        threading.Thread(target=_user, args=(host, notes, over, random.Random(n), serves), daemon=True)
        for n in range(4)
    ]
    for user in users:
        user.start()
    while (lasted_s := time.monotonic() - begun) < _STORM_S or (_runs(notes) <= 2 and lasted_s < _PATIENCE_S):
        time.sleep(chance.random() * 0.3)
        _kill_some(host, root, chance, serves)
    over.set()
    for user in users:
        user.join(30)
    for serve in list(serves):
        serve.process.kill()

    def is_over() -> bool:
        """Who was just being started has to be killed, too."""
        for pid in (*_supervisors(root), *keepers(host)):
            subprocess.run(["kill", "-9", str(pid)], check=False, stderr=subprocess.DEVNULL)
        return host.network.names() == []

    assert not (notes / "shared").exists(), (notes / "shared").read_text()
    assert _runs(notes) > 2
    eventually(is_over, 20)  # nothing is held by nobody
