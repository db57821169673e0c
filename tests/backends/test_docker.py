"""What only Docker engines have: images, limits, containers that somebody removes, engines that go away."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine import watching
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.backends.engine.watching import LOOKS_PER_S
from airflow_jobdeploy.core.plan import JobKey, Limits, Step
from airflow_jobdeploy.core.pool import Tls, Worker, WorkerPool
from airflow_jobdeploy.core.status import JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from airflow_jobdeploy.hooks import engines
from airflow_jobdeploy.hostside import layout
from tests.backends.engines import BLOCK, backend_of, job, left, run
from tests.backends.engines import engine as engine
from tests.contract.steps import launch, log, outcome, wait_ready, wait_until
from tests.servers import sshd as ssh_servers
from tests.servers import tls
from tests.servers.dockerd import IMAGE, Dockerd

pytestmark = pytest.mark.docker

# -- images ---------------------------------------------------------------------------------------------------------


def test_a_missing_image_fails_the_job_and_leaves_no_container(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("echo hi", container={"image": "127.0.0.1:9/no/such:1"})
    said: list[str] = []
    backend.claim(plan)
    backend.prepare(plan.job_id, said.append)
    state = backend.start(plan.job_id)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert "'127.0.0.1:9/no/such:1' cannot be pulled" in state.message
    assert "127.0.0.1:9" in said[0]
    assert left(engine) == []
    assert backend_of(engine).poll([plan.job_id])[plan.job_id].message == state.message


def test_never_means_never(engine: Dockerd) -> None:
    state = run(backend_of(engine), job("echo hi", container={"image": "127.0.0.1:9/no/such:1", "pull": "never"}))
    assert "`pull: never` keeps it from being pulled" in state.message


def test_an_image_without_a_shell_is_told(engine: Dockerd) -> None:
    empty = engine.client().import_image_from_data(bytes(1024), repository="jobdeploy-test/empty", tag="1")
    assert "sha256" in empty
    state = run(backend_of(engine), job("echo hi", container={"image": "jobdeploy-test/empty:1"}))
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert "has no /bin/sh" in state.message
    assert left(engine) == []


def test_a_job_without_a_command_runs_that_of_its_image(engine: Dockerd) -> None:
    client = engine.client()
    made = client.create_container(IMAGE, command=["true"])
    client.commit(made, "jobdeploy-test/own", "1", conf={"Entrypoint": ["printf", "%s|"], "Cmd": ["a b", "c;d"]})
    backend = backend_of(engine)
    plan = job("", container={"image": "jobdeploy-test/own:1"})
    plan = replace(plan, steps=(Step(name="job", kind="argv"),))
    assert run(backend, plan).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"a b|c;d|"


# -- limits, and what a job is kept from ----------------------------------------------------------------------------


def test_limits_are_the_engines_own(engine: Dockerd) -> None:
    wanted = {"cpu_count": 0.5, "memory_bytes": 64 << 20, "shm_size_bytes": 8 << 20, "pids_limit": 50}
    backend = backend_of(engine)
    plan = job("df -k /dev/shm | tail -n 1", container=wanted)
    assert run(backend, plan).status is JobStatus.SUCCEEDED
    assert b" 8192 " in log(backend, plan.job_id)
    host = engine.client().inspect_container(plan.job_id)["HostConfig"]
    assert (host["NanoCpus"], host["Memory"], host["PidsLimit"]) == (500_000_000, 64 << 20, 50)
    assert host["MemorySwap"] == host["Memory"], "both together: there is no swap beside the memory"


@pytest.mark.usefixtures("memory_kills")
def test_out_of_memory_is_told_by_the_engine(engine: Dockerd) -> None:
    hungry = "tail /dev/zero"  # keeps what it reads, and no line ends
    state = run(backend_of(engine), job(hungry, container={"memory_bytes": 16 << 20}))
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.OUT_OF_MEMORY)


def test_secrets_and_the_engines_socket_are_not_to_be_found(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job('printf %s "$TOKEN" | wc -c\nls /jobdeploy/job/secrets /var/run 2>&1', secret_env={"TOKEN": "s3cret"})
    run(backend, plan)
    client = engine.client()
    assert b"6\n" in log(backend, plan.job_id)
    assert b"TOKEN" not in log(backend, plan.job_id)
    described = json.dumps([client.inspect_container(plan.job_id), client.volumes()])
    assert "s3cret" not in described
    assert "docker.sock" not in json.dumps(client.inspect_container(plan.job_id)["HostConfig"])
    kept = b"".join(client.get_archive(plan.job_id, "/jobdeploy/job")[0])
    assert b"s3cret" not in kept


def test_a_job_of_another_user_with_a_read_only_root(engine: Dockerd) -> None:
    security = Security(user="1000:1000", read_only=True)
    backend = backend_of(engine, security=security)
    text = "set -e\nid -u\ntouch /here 2>&1 || true\necho x > /tmp/x\necho c > $JOBDEPLOY_CHECKPOINT_DIR/c"
    text += """\necho '{"type": "progress", "done": 1, "total": 2}' >> "$JOBDEPLOY_MESSAGES_FILE\""""
    plan = job(f"{text}\necho out > $JOBDEPLOY_OUTPUT_DIR/f\ncat /proc/self/status | grep -E 'CapEff|NoNewPrivs'")
    state = run(backend, plan)
    told = log(backend, plan.job_id).decode()
    assert state.status is JobStatus.SUCCEEDED, told
    assert told.startswith("1000\n")
    assert "Read-only file system" in told
    assert "CapEff:\t0000000000000000" in told
    assert "NoNewPrivs:\t1" in told
    assert [file.path for file in backend.manifest(plan.job_id)] == ["f"]
    assert state.messages["progress"]


def test_root_has_no_capability_by_default(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("grep CapEff /proc/self/status")
    run(backend, plan)
    assert log(backend, plan.job_id) == b"CapEff:\t0000000000000000\n"


# -- what befalls containers and engines ----------------------------------------------------------------------------


def test_a_container_that_somebody_removes_is_a_lost_job(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job(BLOCK)
    launch(backend, plan)
    wait_ready(backend, plan.job_id)
    engine.client().remove_container(plan.job_id, force=True)
    state = outcome(backend, plan.job_id)
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.PROCESS_LOST)
    assert "container was removed" in state.message
    assert backend.stop(plan.job_id, reason="late").reason == Reason.PROCESS_LOST
    assert backend.start(plan.job_id).reason == Reason.PROCESS_LOST
    assert backend.claim(plan).reason == Reason.PROCESS_LOST
    backend.forget(plan.job_id)
    assert backend.poll([plan.job_id])[plan.job_id].reason == Reason.RECORD_MISSING


def test_a_container_that_somebody_kills_or_stops_is_a_lost_job(engine: Dockerd) -> None:
    backend = backend_of(engine)
    killed, stopped = (job(BLOCK, limits=Limits(grace_s=1)) for _ in range(2))
    for plan in (killed, stopped):
        launch(backend, plan)
        wait_ready(backend, plan.job_id)
    engine.client().kill(killed.job_id)
    engine.client().stop(stopped.job_id, timeout=10)
    assert outcome(backend, killed.job_id).reason == Reason.PROCESS_LOST
    state = outcome(backend, stopped.job_id)
    assert state.reason == Reason.PROCESS_LOST
    assert "stopped (SIGTERM)" in state.message


def test_a_container_that_is_started_again_by_hand_runs_nothing_again(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("echo once >> $JOBDEPLOY_CHECKPOINT_DIR/f; cat $JOBDEPLOY_CHECKPOINT_DIR/f; exit 3")
    assert run(backend, plan).exit_code == 3
    client = engine.client()
    client.start(plan.job_id)
    client.wait(plan.job_id)
    again = backend_of(engine)
    assert again.poll([plan.job_id])[plan.job_id].exit_code == 3
    assert log(again, plan.job_id) == b"once\n"


# -- how engines are reached ----------------------------------------------------------------------------------------


def test_tls_is_the_pools_whatever_the_environment_says(
    engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    known = tls.certificates(tmp_path)
    ours = Tls(
        ca_cert=known.path("ca.pem"), client_cert=known.path("client.pem"), client_key=known.path("client-key.pem")
    )
    with tls.listening(known, engine.socket) as port:
        url = f"tcp://127.0.0.1:{port}"
        worker = Worker(url=url, tls=ours)
        backend = engines.backend(WorkerPool(kind="docker", workers=(worker,), image=IMAGE), worker)
        plan = job("echo over TLS")
        assert run(backend, plan).status is JobStatus.SUCCEEDED
        assert log(backend, plan.job_id) == b"over TLS\n"
        backend.close()
        stranger = Worker(url=url, tls=replace(ours, client_cert=None, client_key=None))
        with pytest.raises(WorkerUnreachable, match="client_cert"):
            engines.client(stranger)
        other = tls.certificates(tmp_path / "other")
        theirs = {"client_cert": other.path("client.pem"), "client_key": other.path("client-key.pem")}
        for wrong, said in [
            (replace(ours, ca_cert=None), "Check `tls: {ca_cert}`"),
            (replace(ours, **theirs), "does not trust our certificate"),
            (replace(ours, client_key=theirs["client_key"]), "is not the key of `client_cert`"),
            (replace(ours, ca_cert="/nope.pem"), "tls.ca_cert: there is no file /nope.pem"),
            (None, "Does it want TLS"),
        ]:
            with pytest.raises(WorkerUnreachable, match=said):
                engines.client(Worker(url=url, tls=wrong))


@pytest.mark.sshd
def test_ssh_takes_its_port_from_the_url(engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = ssh_servers.start(tmp_path / "sshd", env={"DOCKER_HOST": engine.url})
    try:
        home = tmp_path / "home"
        (home / ".ssh").mkdir(parents=True)
        (home / ".ssh" / "known_hosts").write_text(server.known_hosts.read_text())
        (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  IdentityFile {server.key_file}\n")
        monkeypatch.setenv("HOME", str(home))
        worker = Worker(url=f"ssh://{server.user}@127.0.0.1:{server.port}")
        backend = engines.backend(WorkerPool(kind="docker", workers=(worker,), image=IMAGE), worker)
        plan = job("echo by ssh")
        assert run(backend, plan).status is JobStatus.SUCCEEDED
        assert log(backend, plan.job_id) == b"by ssh\n"
        backend.close()
    finally:
        server.stop()


@pytest.mark.parametrize(("url", "anywhere"), [("unix:///x", False), ("tcp://a:2376", True), ("ssh://a", True)])
def test_a_socket_is_of_one_machine(url: str, anywhere: bool) -> None:
    worker = Worker(url=url)
    backend = engines.backend(WorkerPool(kind="docker", workers=(worker,)), worker)
    assert backend.capabilities.reachable_from_anywhere is anywhere


def test_nobody_there_is_told(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/none.sock"
    said = "No such file or directory. There is no such socket or file on this machine: does dockerd run?"
    with pytest.raises(WorkerUnreachable, match=f"^{re.escape(f'cannot connect to {url}: {said}')}$"):
        engines.client(Worker(url=url))


def test_an_engine_that_hangs_is_given_up_and_its_jobs_go_on(engine: Dockerd) -> None:
    backend = backend_of(engine)
    plan = job("echo ready; sleep 2; echo done")
    launch(backend, plan)
    wait_ready(backend, plan.job_id)
    os.kill(engine.pid, signal.SIGSTOP)  # it still accepts connections, and answers nothing
    try:
        begun = time.monotonic()
        with pytest.raises(WorkerUnreachable, match="What runs there goes on"):
            while True:
                backend.watch([plan.job_id], 60.0)
        assert time.monotonic() - begun < 40, "long before what was asked for is over"
    finally:
        os.kill(engine.pid, signal.SIGCONT)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"ready\ndone\n"


def test_a_container_that_somebody_has_paused_can_be_stopped(engine: Dockerd) -> None:
    backend, plan = backend_of(engine), job(BLOCK)
    wait_ready(backend, launch(backend, plan))
    engine.client().pause(plan.job_id)
    assert backend.poll([plan.job_id])[plan.job_id].status is JobStatus.RUNNING
    backend.stop(plan.job_id, reason="enough", grace_s=0.5)
    assert outcome(backend, plan.job_id).status is JobStatus.CANCELLED


def test_a_container_and_its_volume_say_whose_they_are(engine: Dockerd) -> None:
    backend, client = backend_of(engine), engine.client()
    key = JobKey(deployment="prod", dag_id="d", run_id="r 1", task_id="t", map_index=3)
    plan = job("true", attempt=2, key=key, worker_pool="lab")
    run(backend, plan)
    told = {
        "uid": plan.uid,
        "attempt": "2",
        "key": str(key),
        "pool": "lab",
        "deployment": "prod",
        "layout": str(layout.LAYOUT),
    }
    container = client.inspect_container(plan.job_id)["Config"]["Labels"]
    for labels in (container, client.inspect_volume(plan.job_id)["Labels"]):
        assert {name: labels[f"jobdeploy.{name}"] for name in told} == told


def test_a_newer_layout_is_reported_and_not_touched(engine: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    client, plan = engine.client(), job("echo done", limits=Limits(keep_for_s=0))
    waits = job("echo never", slots=1, worker_pool="p")
    monkeypatch.setattr(layout, "LAYOUT", layout.LAYOUT + 1)
    newer = backend_of(engine)
    run(newer, plan)
    blocker = job(BLOCK, slots=1, worker_pool="p")
    wait_ready(newer, launch(newer, blocker))
    launch(newer, waits)
    monkeypatch.undo()
    backend = backend_of(engine)
    client.kill(blocker.job_id)  # there is room for the one that waits
    before = sorted(left(engine)), sorted(volume["Name"] for volume in client.volumes()["Volumes"])
    for found in backend.poll([plan.job_id, waits.job_id]).values():
        assert (found.status, found.reason, found.uid != "") == (JobStatus.UNKNOWN, Reason.NEWER_LAYOUT, True)
        assert "layout 2" in found.message
    assert {row["state"]["status"] for row in backend.jobs()} == {"UNKNOWN"}
    assert not backend.room(gpus=False).ends
    assert backend.start(waits.job_id).reason == Reason.NEWER_LAYOUT
    for change in (
        lambda: backend.stop(waits.job_id, reason="no"),
        lambda: backend.forget(plan.job_id),
        lambda: backend.set_owner(waits.job_id, "none"),
    ):
        with pytest.raises(WorkerError, match="layout 2, of a newer release"):
            change()
    assert backend.collect(dry_run=False) == []
    assert before == (sorted(left(engine)), sorted(volume["Name"] for volume in client.volumes()["Volumes"]))
    assert log(newer, waits.job_id) == b""


def test_what_the_engine_has_not_told_is_found_by_comparing(engine: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream of events is open, and says nothing of us."""

    def connect() -> Any:
        client = engine.client()
        plain = client.request

        def request(method: str, url: str, **options: Any) -> Any:
            if url.endswith("/events"):
                options["params"] = {**options["params"], "filters": json.dumps({"label": ["nobody's"]})}
            return plain(method, url, **options)

        client.request = request
        return client

    monkeypatch.setattr(watching, "_COMPARE_S", 1.0)
    backend = DockerBackend(worker="engine", connect=connect, settings=Settings(image=IMAGE))
    plan = job(BLOCK)
    wait_ready(backend, launch(backend, plan))
    backend.watch([plan.job_id], 0.5)  # it is known to run
    engine.client().kill(plan.job_id)
    until, news = time.monotonic() + 20, {}
    while not (news and news[plan.job_id].status.is_finished):
        assert time.monotonic() < until, "nobody has asked"
        news = backend.watch([plan.job_id], 5.0)
    assert news[plan.job_id].reason == Reason.PROCESS_LOST
    backend.close()


def test_what_is_watched_costs_the_same_for_one_job_and_for_many(engine: Dockerd) -> None:
    asked: list[str] = []
    sessions: list[Any] = []

    def connect() -> Any:
        client = engine.client()
        plain = client.request
        client.request = lambda method, url, **options: (asked.append(url), plain(method, url, **options))[1]
        sessions.append(client)
        return client

    held = _held(engine)
    backend = DockerBackend(worker="engine", connect=connect, settings=Settings(image=IMAGE))
    ids = [launch(backend, job(BLOCK)) for _ in range(12)]
    wait_until(backend, ids, lambda states: all(state.log_bytes for state in states.values()))
    begun = time.monotonic()
    while (passed_s := time.monotonic() - begun) < 7 or (passed_s < 30 and _held(engine) - held > 1):
        backend.watch(ids, 0.5)  # looks become seldom when nothing happens
    asked.clear()
    turns = alone = 0
    until = time.monotonic() + 3
    while time.monotonic() < until:
        assert backend.watch(ids, 0.1) == {}
        turns, alone = turns + 1, alone + (_held(engine) - held <= 1)  # those of earlier tests may go meanwhile
    # Each look at a log is two requests, in rounds 3 s apart; listings and signs of life are less than two a second.
    assert len(asked) <= (3 + 3) * (2 * LOOKS_PER_S + 2)
    assert len(sessions) == 2, "one for questions, one for the engine's events"
    assert alone > turns / 2, "questions come in rounds, and hold no connection between them"
    backend.close()


def _held(engine: Dockerd) -> int:
    """The connections at an engine's socket, proc(5)."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(line.endswith(f" {engine.socket}") and line.split()[5] == "03" for line in lines)
