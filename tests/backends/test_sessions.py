"""Sessions that break, hang, or have to do everything; what is kept open, and what is not."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest

from airflow_jobdeploy.backends import hosted, session
from airflow_jobdeploy.backends.channel import LocalClient, ParamikoClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.manifest import Entry
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.errors import StagingError, WorkerError, WorkerUnreachable
from tests.backends.clients import RecordingClient
from tests.contract.labs import ShellWords
from tests.contract.steps import launch, outcome, wait_ready, wait_until
from tests.contract.trees import tree
from tests.servers import sshd as servers
from tests.servers.ports import free_port

WORDS = ShellWords()


class Reconnecting:
    """`connect` of a backend; its clients are known."""

    def __init__(self) -> None:
        self.clients: list[RecordingClient] = []

    def __call__(self) -> RecordingClient:
        self.clients.append(RecordingClient())
        return self.clients[-1]

    def signal(self, number: int) -> None:
        """Send a signal to every session of the last connection."""
        for channel in self.clients[-1].opened:
            os.kill(channel.pid, number)


@pytest.fixture
def connect() -> Reconnecting:
    return Reconnecting()


@pytest.fixture
def backend(connect: Reconnecting, tmp_path: Path) -> Iterator[HostedBackend]:
    made = HostedBackend(worker="h", kind="local", connect=connect, root=str(tmp_path / "root"))
    yield made
    live = [job["state"]["job_id"] for job in made.jobs(live_only=True)]
    for job_id in live:
        made.stop(job_id, reason="the test is over", grace_s=0.1)
    wait_until(made, live, lambda states: all(state.status.is_finished for state in states.values()))
    made.close()


def begin(backend: HostedBackend, *steps: Step) -> str:
    return launch(backend, Plan(uid=new_uid(), steps=steps))


def test_a_killed_session_is_replaced_and_the_job_goes_on(backend: HostedBackend, connect: Reconnecting) -> None:
    job_id = begin(backend, WORDS.block())
    wait_ready(backend, job_id)
    connect.signal(signal.SIGKILL)
    with pytest.raises(WorkerUnreachable, match=r"this host cannot be asked: .*What runs there goes on"):
        backend.poll([job_id])
    assert backend.poll([job_id])[job_id].status.value == "RUNNING"
    assert len(connect.clients) == 2


def test_a_watch_goes_on_over_a_reconnect_without_telling_twice(backend: HostedBackend, connect: Reconnecting) -> None:
    job_id = begin(backend, WORDS.block())
    wait_ready(backend, job_id)
    while backend.watch([job_id], 0.5):
        continue
    connect.signal(signal.SIGKILL)
    with pytest.raises(WorkerUnreachable):
        backend.watch([job_id], 5)
    assert backend.watch([job_id], 0.5) == {}
    backend.stop(job_id, reason="x", grace_s=1)
    assert job_id in backend.watch([job_id], 10)


def test_a_hung_worker_is_unreachable(
    backend: HostedBackend, connect: Reconnecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.facts()
    monkeypatch.setattr(session, "REPLY_TIMEOUT_S", 0.5)
    connect.signal(signal.SIGSTOP)
    with pytest.raises(WorkerUnreachable, match="no answer within"):
        backend.poll(["jx"])
    monkeypatch.undo()
    assert backend.poll(["jx"])["jx"].reason == "RecordMissing"


def test_a_silent_session_is_asked_whether_it_lives(
    backend: HostedBackend, connect: Reconnecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = begin(backend, WORDS.block())
    while backend.watch([job_id], 0.7):
        continue
    monkeypatch.setattr(hosted, "SILENCE_S", 0.0)
    monkeypatch.setattr(hosted, "ANSWER_S", 0.5)
    connect.signal(signal.SIGSTOP)
    with pytest.raises(WorkerUnreachable, match="no answer within"):
        backend.watch([job_id], 30)


def test_a_session_that_nobody_used_for_long_is_not_relied_on(
    backend: HostedBackend, connect: Reconnecting, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = begin(backend, WORDS.say("hello"))
    outcome(backend, job_id)
    backend.read_log(job_id, 0, 10)
    monkeypatch.setattr(session, "IDLE_S", 0.0)
    assert backend.poll([job_id])[job_id].exit_code == 0
    assert backend.read_log(job_id, 0, 10).data == b"hello"
    assert len(connect.clients) == 1
    assert len(connect.clients[0].opened) > 2


def test_logs_and_transfers_have_sessions_of_their_own(backend: HostedBackend, connect: Reconnecting) -> None:
    job_id = begin(backend, WORDS.output({"a": "1", "b": "2"}))
    outcome(backend, job_id)
    for _ in range(3):
        backend.read_log(job_id, 0, 10)
        list(backend.fetch(job_id, ["a", "b"]))
    assert len(connect.clients[0].opened) == 3
    half = backend.fetch(job_id, ["a", "b"])
    next(half)
    assert [file.path for file, _ in backend.fetch(job_id, ["b"])] == ["b"]
    assert backend.poll([job_id])[job_id].exit_code == 0
    half.close()  # type: ignore[attr-defined]
    list(backend.fetch(job_id, ["a"]))
    assert len(connect.clients[0].opened) <= 5


def _used(server: servers.Sshd | None, root: str) -> None:
    """One job by a backend of its own, with everything that opens a session."""
    connect, kind = (LocalClient, "local") if server is None else (server.client, "ssh")
    backend = HostedBackend(worker="h", kind=kind, connect=connect, root=root)
    job_id = begin(backend, WORDS.output({"a": "1"}))
    outcome(backend, job_id)
    backend.read_log(job_id, 0, 10)
    list(backend.fetch(job_id, ["a"]))
    backend.close()
    until = time.monotonic() + 30
    while threading.active_count() > 1 and time.monotonic() < until:
        time.sleep(0.02)  # a transport's own thread closes its socket


def _left_open(server: servers.Sshd | None, root: str) -> list[int]:
    """Descriptors and threads after the first use and after the second."""
    counts = []
    for _ in range(2):
        _used(server, root)
        counts += [len(os.listdir("/proc/self/fd")), threading.active_count()]
    return counts


@pytest.mark.parametrize("way", ["local", pytest.param("ssh", marks=pytest.mark.sshd)])
def test_nothing_stays_open(way: str, sshd: servers.Sshd, tmp_path: Path) -> None:
    # In a process of its own: what other tests have left to their threads opens and closes at any time in this one.
    server = replace(sshd, process=None) if way == "ssh" else None  # type: ignore[arg-type]  # cannot be pickled
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        descriptors, threads, *after = processes.submit(_left_open, server, str(tmp_path / "root")).result(200)
    assert after == [descriptors, threads]


# -- channels -------------------------------------------------------------------------------------------------------


def test_a_command_that_writes_while_it_is_written_to() -> None:
    client = LocalClient()
    channel = client.open(["sh", "-c", "cat; echo done >&2; exit 4"])
    data = os.urandom(1_500_000)
    channel.write(data, 10)
    got = b""
    while len(got) < len(data):
        assert channel.wait(10)
        got += channel.read()
    assert got == data
    client.close()


def test_a_command_that_takes_no_input_is_a_timeout() -> None:
    client = LocalClient()
    channel = client.open(["sleep", "2"])
    with pytest.raises(TimeoutError, match="took no input for 0 s"):
        channel.write(b"x" * 10_000_000, 0.2)
    client.close()


def test_a_command_that_is_gone() -> None:
    client = LocalClient()
    channel = client.open(["sh", "-c", "exec >&- 2>/dev/null; exit 3"])
    assert channel.wait(5)
    assert channel.read() == b""
    assert channel.ending(5) == (3, "")
    with pytest.raises(OSError, match="Broken pipe"):
        channel.write(b"x" * 1_000_000, 5)
    client.close()


def test_a_channel_survives_the_signals_of_our_terminal() -> None:
    client = LocalClient()
    channel = client.open(["cat"])
    assert os.getsid(channel.pid) == channel.pid
    client.close()
    with pytest.raises(ProcessLookupError):
        os.kill(channel.pid, 0)


# -- sshds of all kinds ---------------------------------------------------------------------------------------------


@pytest.mark.sshd
def test_a_host_that_allows_one_session_does_all_on_it(tmp_path: Path) -> None:
    with servers.running(tmp_path / "sshd", MaxSessions=1) as server:
        backend = HostedBackend(worker="h", kind="ssh", connect=server.client, root=str(tmp_path / "root"))
        plan = Plan(uid=new_uid(), steps=(WORDS.output({"a": "1" * 100_000, "b": "2"}),), ships_project=True)
        backend.claim(plan)
        backend.use_tree(plan.job_id, "work", backend.send_tree(tree({"f": "of the project"})).name)
        assert plan.job_id in backend.watch([plan.job_id], 5)
        backend.start(plan.job_id)
        wait_until(backend, [plan.job_id], lambda s: s[plan.job_id].status.is_finished)
        assert backend.read_log(plan.job_id, 0, 100).data == b""
        got = {file.path: content.read() for file, content in backend.fetch(plan.job_id, ["a", "b"])}
        assert got == {"a": b"1" * 100_000, "b": b"2"}
        half = backend.fetch(plan.job_id, ["a", "b"])
        next(half)
        with pytest.raises(WorkerError, match="while a transfer is under way on its one session"):
            backend.poll([plan.job_id])
        assert [file.path for file, _ in half] == ["b"]
        half = backend.fetch(plan.job_id, ["a", "b"])
        next(half)
        half.close()  # type: ignore[attr-defined]
        assert backend.poll([plan.job_id])[plan.job_id].exit_code == 0
        with pytest.raises(StagingError, match="it shrank"):
            backend.send_tree(replace(tree({"g": "of another"}), on_open=_shrinking))
        assert backend.poll([plan.job_id])[plan.job_id].exit_code == 0
        backend.close()


def _shrinking(entry: Entry) -> None:
    raise StagingError("it shrank")


@pytest.mark.sshd
def test_many_at_once_connect_to_a_stock_sshd(tmp_path: Path) -> None:
    with servers.running(tmp_path / "sshd") as server:
        with ThreadPoolExecutor(40) as pool:
            # Without the gate it drops about a third of them; what it still drops is tried again.
            list(pool.map(lambda _: server.client().close(), range(40)))


@pytest.mark.sshd
def test_a_jump_host(sshd: servers.Sshd, tmp_path: Path) -> None:
    with servers.running(tmp_path / "inner") as inner:
        known = f"-o UserKnownHostsFile={sshd.known_hosts}"
        jump = f"ssh -F none {known} -i {sshd.key_file} -p {sshd.port} -W 127.0.0.1:{inner.port} {sshd.user}@127.0.0.1"

        def through() -> ParamikoClient:
            return ParamikoClient(lambda: inner.connect(sock=paramiko.ProxyCommand(jump)), name="behind the jump host")

        backend = HostedBackend(worker="h", kind="ssh", connect=through, root=str(tmp_path / "root"))
        job_id = begin(backend, WORDS.emit(300_000))
        outcome(backend, job_id)
        assert len(backend.read_log(job_id, 0, 1_000_000).data) == 300_000
        backend.close()


@pytest.mark.sshd
def test_who_cannot_connect_is_told_what_to_do(sshd: servers.Sshd, tmp_path: Path) -> None:
    def trouble(server: servers.Sshd, **options: object) -> str:
        with pytest.raises(WorkerUnreachable) as caught:
            server.client(**options)
        return str(caught.value)

    assert "Nothing listens there" in trouble(replace(sshd, port=free_port()))
    with servers.running(tmp_path / "other") as other:
        assert "Check the connection's login, key_file" in trouble(sshd, key_filename=str(other.key_file))
        stranger = tmp_path / "stranger"
        stranger.mkdir()
        (stranger / "user_key").write_bytes(other.key_file.read_bytes())
        (stranger / "known_hosts").write_text("")
        assert "`host_key`" in trouble(replace(other, dir=stranger))
        (stranger / "known_hosts").write_text(f"[127.0.0.1]:{other.port} {sshd.host_key}\n")
        assert "somebody stands between" in trouble(replace(other, dir=stranger))
