"""Leases of Docker engines: whoever is killed, stopped or tidies up, no GPU is in two hands, and none is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine import holders, ledger, line, names, picture, watching
from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.backends.engine.ledger import Ledger
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.leases import Lease, Ticket, hashed, lease_of
from airflow_jobdeploy.core.plan import Plan, new_uid
from airflow_jobdeploy.core.status import JobStatus, Reason
from tests.backends.engines import BLOCK, job, left
from tests.backends.engines import engine as engine
from tests.contract.steps import launch, log, outcome, wait_ready, wait_until
from tests.servers.dockerd import IMAGE, Dockerd

pytestmark = pytest.mark.docker


def gpus(count: int, model: str = "H200") -> tuple[dict[str, Any], ...]:
    """GPUs that are declared: on the engine they are what every machine has."""
    return tuple(
        {
            "index": index,
            "uuid": f"GPU-{model}-{index}",
            "model": model,
            "memory_bytes": 80 << 30,
            "mig": False,
            "devices": [f"/dev/null:/dev/nvidia{index}"],
        }
        for index in range(count)
    )


@pytest.fixture
def connect(engine: Dockerd) -> Iterator[Callable[..., DockerBackend]]:
    """Makes backends of an engine with so many GPUs."""
    made: list[DockerBackend] = []

    def connected(count: int = 1, **settings: Any) -> DockerBackend:
        given = {"image": IMAGE, "gpus": gpus(count), **settings}
        made.append(DockerBackend(worker="engine", connect=engine.client, settings=Settings(**given)))
        return made[-1]

    yield connected
    for backend in made:
        backend.close()


def ticket(count: int = 1, **options: Any) -> Ticket:
    return Ticket(**{"uid": new_uid(), "demand": {"gpus": [{"count": count}]}, **options})


def leased(wanted: Ticket, lease: Lease | None, content: str = BLOCK, **options: Any) -> Plan:
    return job(content, uid=wanted.uid, lease=lease_of(wanted, lease), **options)


def granted(backend: Backend, wanted: Ticket, timeout_s: float = 30.0) -> Lease:
    """Wait until it is told of a lease."""
    until = time.monotonic() + timeout_s
    lease = backend.seek(wanted).lease
    while lease is None:
        assert time.monotonic() < until, f"not granted within {timeout_s} s: {backend.room()}"
        answer = backend.granted(until - time.monotonic()).get(wanted.uid)
        lease = answer.lease if answer else None
    return lease


def lines(engine: Dockerd, kind: str) -> list[str]:
    found = engine.client().volumes(filters={"label": [f"{names.KIND}={kind}"]})["Volumes"] or ()
    return [volume["Name"] for volume in found]


def leftovers(engine: Dockerd) -> list[str]:
    """What is there of the line and its leases."""
    volumes = [name for kind in names.LINE_KINDS for name in lines(engine, kind)]
    prefixes = ("jobdeploy-gpu-", "jobdeploy-fit-", "jobdeploy-line")
    return [*volumes, *(name for name in left(engine) if name.startswith(prefixes))]


# -- the names --------------------------------------------------------------------------------------------------------


@pytest.fixture
def books(engine: Dockerd) -> Ledger:
    asked = Engine(worker="engine", connect=engine.client)
    return Ledger(asked, Places(asked))


RECORD = {"who": "a", "deployment": "", "owner": "", "team": "", "user": "", "past": "", "gpus": ["GPU-1", "GPU-2"]}


def test_a_gpu_has_one_name(engine: Dockerd, books: Ledger) -> None:
    first = books.grant({**RECORD, "gpus": ["GPU-2"]}, lambda: True)
    assert first
    assert books.grant(RECORD, lambda: True) is None
    assert sorted(left(engine)) == ["jobdeploy-gpu-GPU-2"]
    assert lines(engine, names.LEASE_KIND) == [names.lease_volume(first.id)]


def test_who_was_stopped_while_deciding_and_comes_back_gives_out_nothing(
    engine: Dockerd, books: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with books.deciding() as is_ours:
        assert is_ours is not None
        assert is_ours()
        with books.deciding() as another:
            assert another is None
        monkeypatch.setattr(ledger, "HELD_S", -1.0)
        with books.deciding() as another:
            assert another is not None
            assert another()
            assert not is_ours()
            assert books.grant({**RECORD, "gpus": []}, is_ours) is None
            assert books.grant(RECORD, is_ours) is None
            assert books.grant(RECORD, another)
    assert sorted(left(engine)) == ["jobdeploy-gpu-GPU-1", "jobdeploy-gpu-GPU-2"]
    assert len(lines(engine, names.LEASE_KIND)) == 1


def test_whose_a_lease_is_is_said_once(engine: Dockerd, books: Ledger) -> None:
    held = books.grant(RECORD, lambda: True)
    assert held
    assert books.take(held.id, "another job's", "j1") is None
    assert books.take(held.id, "a", "j1")
    assert books.take(held.id, "a", "j1"), "it is said again"
    assert books.take(held.id, "a", "j2") is None
    assert not books.release(held.id)
    assert not books.clear(held), "a job has it"
    other = books.grant({**RECORD, "gpus": ["GPU-3"]}, lambda: True)
    assert other
    assert books.release(other.id)
    assert not books.release(other.id)
    assert books.take(other.id, "a", "j3") is None
    assert lines(engine, names.FATE_KIND) == [names.fate_volume(held.id)], "nothing is left of the other"


@pytest.mark.parametrize("lease", ["", "x" * 65, "../machine", "a b", "é"])
def test_odd_names_of_leases_are_no_leases(books: Ledger, lease: str) -> None:
    assert not books.release(lease)
    assert books.take(lease, "a", "j1") is None


# -- who is killed ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing of a process is done after this, as after a kill -9."""


class Mortal:
    """A client of the engine that dies with its `lives`-th request, before or after the engine has heard it."""

    def __init__(self, client: Any, lives: int, *, is_heard: bool) -> None:
        self._client, self._lives, self._is_heard = client, lives, is_heard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def request(self, *args: Any, **options: Any) -> Any:
        self._lives -= 1
        if self._lives < 0 or (self._lives == 0 and not self._is_heard):
            raise Killed
        answer = self._client.request(*args, **options)
        if self._lives == 0:
            assert answer.content is not None
            raise Killed
        return answer


def mortal(engine: Dockerd, lives: int, *, is_heard: bool) -> Callable[[], Any]:
    """Of the clients that it connects the first dies: the others are beside."""
    clients = [Mortal(engine.client(), lives, is_heard=is_heard)]
    return lambda: clients.pop() if clients else engine.client()


def submit_until_killed(engine: Dockerd, wanted: Ticket, settings: Settings, lives: int, *, is_heard: bool) -> bool:
    """Wait in line, claim, start. Is the process alive after that?"""
    backend = DockerBackend(worker="engine", connect=mortal(engine, lives, is_heard=is_heard), settings=settings)
    try:
        lease = backend.seek(wanted).lease
        launch(backend, leased(wanted, lease, "sleep 0.1"))
    except Killed:
        return False
    return True


def test_a_submitter_is_killed_at_every_step(engine: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each on a GPU of its own. Of some the job runs, of others it does not: no GPU is held for long."""
    monkeypatch.setattr(picture, "PROVISIONAL_S", 3.0)
    monkeypatch.setattr(holders, "PROVISIONAL_S", 3.0)
    monkeypatch.setattr(ledger, "HELD_S", 1.0)
    steps = range(1, 141, 5)
    every = tuple({**gpus(1, f"T{number}")[0], "index": number} for number in steps)
    settings = Settings(image=IMAGE, gpus=every)
    tickets = {number: ticket(demand={"gpus": [{"type": f"T{number}"}]}) for number in steps}
    deaths = []
    for number in steps:
        deaths.append(number)
        if submit_until_killed(engine, tickets[number], settings, number, is_heard=bool(number % 2)):
            break
    assert 20 < deaths[-1] < steps[-1], "a few requests more each time"
    survivor = DockerBackend(worker="engine", connect=engine.client, settings=settings)
    begun = time.monotonic()
    for number in deaths:
        lease = granted(survivor, ticket(demand=tickets[number].demand), 60.0)
        assert lease.gpus == (f"GPU-T{number}-0",)
    assert time.monotonic() - begun < 60, "half of what a lease is kept that nobody takes"
    states = [row["state"] for row in survivor.jobs()]
    assert all(state["status"] in ("SUCCEEDED", "PENDING") for state in states), states
    survivor.close()


def test_a_job_goes_on_with_its_lease_when_its_submitter_is_killed(
    engine: Dockerd, connect: Callable[..., DockerBackend]
) -> None:
    """Any process that retries it may: it finds what has been done."""
    wanted, every = ticket(), Settings(image=IMAGE, gpus=gpus(1))
    plan = None
    for lives in range(10, 60, 7):
        connect_mortal = mortal(engine, lives, is_heard=True)
        try:
            backend = DockerBackend(worker="engine", connect=connect_mortal, settings=every)
            plan = plan or leased(wanted, backend.seek(wanted).lease, "echo done")
            launch(backend, plan)
        except Killed:
            continue
    assert plan is not None
    backend = connect()
    state = outcome(backend, launch(backend, plan))
    assert state.status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"done\n"


# -- who tidies up by hand --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["volumes", "containers"])
def test_what_somebody_prunes_gives_no_gpu_away(
    engine: Dockerd, connect: Callable[..., DockerBackend], what: str
) -> None:
    backend = connect()
    wanted = ticket()
    plan = leased(wanted, granted(backend, wanted))
    wait_ready(backend, launch(backend, plan))
    client = engine.client()
    if what == "containers":
        client.prune_containers()
    for name in [name for kind in names.LINE_KINDS for name in lines(engine, kind)] if what == "volumes" else ():
        client.remove_volume(name)
    waiting, other = ticket(), connect()
    assert other.seek(waiting).lease is None
    backend.stop(plan.job_id, reason="over", grace_s=0.1)
    outcome(backend, plan.job_id)
    assert granted(other, waiting).gpus == ("GPU-H200-0",)


def test_garbage_is_what_nobody_holds(
    engine: Dockerd, connect: Callable[..., DockerBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connect(3)
    running, lost, waits = ticket(), ticket(), ticket(2)
    plan = leased(running, granted(backend, running))
    wait_ready(backend, launch(backend, plan))
    granted(backend, lost)
    assert backend.seek(waits).position == 1
    assert [item.kind for item in connect(3).collect(dry_run=False)] == []
    monkeypatch.setattr(picture, "PROVISIONAL_S", -1.0)
    monkeypatch.setattr(picture, "LONGEST_S", -1.0)
    found = connect(3).collect(dry_run=True)
    assert sorted(item.kind for item in found) == ["lease", "volume"]
    assert connect(3).collect(dry_run=False)
    assert [name for name in left(engine) if name.startswith("jobdeploy-gpu-")] == ["jobdeploy-gpu-GPU-H200-0"]
    backend.drop(waits.uid)
    backend.stop(plan.job_id, reason="over", grace_s=0.1)
    outcome(backend, plan.job_id)
    assert leftovers(engine) == []


# -- jobs that wait on the engine -------------------------------------------------------------------------------------


def test_secrets_wait_in_the_container_and_learn_which_gpu_they_get(
    engine: Dockerd, connect: Callable[..., DockerBackend]
) -> None:
    backend, holder, wanted = connect(2), ticket(2), ticket()
    held = granted(backend, holder)
    content = 'echo "$TOKEN" | wc -c; echo "$CUDA_VISIBLE_DEVICES $JOBDEPLOY_GPUS"; ls /dev | grep nvidia'
    plan = leased(wanted, None, content, secret_env={"TOKEN": "s3cret"})
    launch(backend, plan)
    states = wait_until(backend, [plan.job_id], lambda s: s[plan.job_id].reason == Reason.QUEUED)
    assert states[plan.job_id].status is JobStatus.PENDING
    assert backend.release(held.id)
    state = outcome(connect(2), plan.job_id)
    assert state.status is JobStatus.SUCCEEDED, state.message
    [gpu] = state.facts["gpus"]
    told = log(backend, plan.job_id).decode().split("\n")
    assert told[:2] == ["7", f"{gpu} {gpu}"]
    assert told[2:4] == ["nvidia0", "nvidia1"], "what it may get was not known when its container was made"


def test_secrets_of_who_has_a_lease_see_its_gpu_alone(connect: Callable[..., DockerBackend]) -> None:
    backend, wanted = connect(2), ticket()
    plan = leased(wanted, granted(backend, wanted), "ls /dev | grep nvidia", secret_env={"TOKEN": "s3cret"})
    state = outcome(backend, launch(backend, plan))
    assert state.status is JobStatus.SUCCEEDED, state.message
    assert log(backend, plan.job_id) == b"nvidia0\n"


def test_a_job_is_given_the_devices_that_it_was_granted(connect: Callable[..., DockerBackend]) -> None:
    """Other ones than it was made with: its lease had become void."""
    backend, wanted = connect(3), ticket(2)
    lost, kept = granted(backend, ticket(2)), granted(backend, ticket())
    launch(backend, plan := leased(wanted, lost, 'ls /dev | grep nvidia; echo "$CUDA_VISIBLE_DEVICES"'))
    assert backend.poll([plan.job_id])[plan.job_id].reason == Reason.QUEUED
    backend.release(kept.id)
    assert backend.poll([plan.job_id])[plan.job_id].reason == Reason.QUEUED
    first = granted(backend, ticket(waited_s=1e5))
    assert first.gpus == ("GPU-H200-2",)
    backend.release(first.id)
    blocker = granted(backend, ticket(waited_s=1e5))
    backend.release(lost.id)
    state = outcome(backend, plan.job_id)
    assert log(backend, plan.job_id).decode().split() == ["nvidia0", "nvidia1", "GPU-H200-0,GPU-H200-1"]
    assert state.facts["gpus"] == ["GPU-H200-0", "GPU-H200-1"]
    backend.release(blocker.id)


def test_a_job_that_nobody_watches_is_started_by_who_waits_behind_it(connect: Callable[..., DockerBackend]) -> None:
    backend, other = connect(), connect()
    held = granted(backend, ticket())
    wanted, behind = ticket(waited_s=100.0), ticket()
    plan = leased(wanted, None, "echo served")
    launch(backend, plan)
    backend.release(held.id)
    backend.close()
    assert granted(other, behind, 20.0)
    assert outcome(other, plan.job_id).status is JobStatus.SUCCEEDED


def test_a_job_that_needs_the_storage_of_its_pool_is_started_by_who_knows_it(
    connect: Callable[..., DockerBackend], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders in the storage become those of the pool's `user`: another pool would make them somebody else's."""
    monkeypatch.setattr(line, "_HELP_S", 0.2)
    monkeypatch.setattr(line, "_STALLED_S", 2.0)
    backend, other = connect(), connect()
    held = granted(backend, ticket())
    storage: dict[str, Any] = {
        "storage": {"root": str(tmp_path), "shared": True},
        "volumes": [{"path": "new", "link": "data", "read_only": False}],
    }
    plan = leased(ticket(waited_s=100.0), None, "echo served", **storage)
    launch(backend, plan)
    backend.release(held.id)
    backend.close()
    behind = granted(other, ticket(), 20.0)
    assert other.room().tickets[0]["position"] == 1, "it still waits"
    assert list(tmp_path.iterdir()) == []
    other.release(behind.id)
    assert outcome(connect(), plan.job_id).status is JobStatus.SUCCEEDED
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_a_slot_is_waited_for_with_the_lease_in_hand(connect: Callable[..., DockerBackend]) -> None:
    backend, first, second = connect(2), ticket(), ticket()
    blocks = leased(first, granted(backend, first), slots=1, worker_pool="p")
    wait_ready(backend, launch(backend, blocks))
    waits = leased(second, granted(backend, second), "echo two", slots=1, worker_pool="p")
    launch(backend, waits)
    assert backend.poll([waits.job_id])[waits.job_id].reason == Reason.QUEUED
    assert sorted(each["job"] for each in backend.room().leases) == sorted([blocks.job_id, waits.job_id])
    backend.stop(blocks.job_id, reason="over", grace_s=0.1)
    assert outcome(backend, waits.job_id).status is JobStatus.SUCCEEDED


def test_an_attempt_that_was_given_up_is_not_started(connect: Callable[..., DockerBackend]) -> None:
    backend = connect()
    held = granted(backend, ticket())
    plan = leased(ticket(), None, "echo never")
    launch(backend, plan)
    backend.set_moved(plan.job_id, plan.next_attempt(2))
    backend.release(held.id)
    assert backend.poll([plan.job_id])[plan.job_id].reason == Reason.QUEUED
    assert granted(backend, ticket())


def test_an_attempt_that_was_given_up_with_its_lease_in_hand_is_not_started(
    connect: Callable[..., DockerBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "_STALLED_S", 0.1)
    backend, first, second = connect(2), ticket(), ticket()
    blocks = leased(first, granted(backend, first), slots=1, worker_pool="p")
    wait_ready(backend, launch(backend, blocks))
    waits = leased(second, granted(backend, second), "echo never", slots=1, worker_pool="p")
    launch(backend, waits)
    assert backend.poll([waits.job_id])[waits.job_id].reason == Reason.QUEUED
    backend.set_moved(waits.job_id, waits.next_attempt(2))
    backend.stop(blocks.job_id, reason="over", grace_s=0.1)
    outcome(backend, blocks.job_id)
    time.sleep(0.2)
    assert connect(2).seek(ticket(2)).lease is None, "who waits helps jobs that have long had their lease, not this one"
    assert backend.poll([waits.job_id])[waits.job_id].reason == Reason.QUEUED
    backend.stop(waits.job_id, reason="attempt 2 has taken its place")
    assert granted(backend, ticket(2))
    assert log(backend, waits.job_id) == b""


def test_a_job_that_holds_cores_alone_asks_no_runtime_for_gpus(connect: Callable[..., DockerBackend]) -> None:
    """Where NVIDIA's runtime is the engine's own, an image's variable asks it for all."""
    backend, wanted = connect(), ticket(demand={"cpu": 0.1})
    plan = leased(wanted, granted(backend, wanted), 'echo "$NVIDIA_VISIBLE_DEVICES, $CUDA_VISIBLE_DEVICES"')
    outcome(backend, launch(backend, plan))
    assert log(backend, plan.job_id) == b"void, \n"


# -- what it costs ----------------------------------------------------------------------------------------------------


class Counting:
    """A client that counts its requests."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def request(self, *args: Any, **options: Any) -> Any:
        self.count += 1
        return self._client.request(*args, **options)


def test_who_waits_costs_the_engine_little(engine: Dockerd, connect: Callable[..., DockerBackend]) -> None:
    holder = connect()
    held = granted(holder, ticket())
    clients: list[Counting] = []

    def connected() -> Any:
        clients.append(Counting(engine.client()))
        return clients[-1]

    settings = Settings(image=IMAGE, gpus=gpus(1))
    backend = DockerBackend(worker="engine", connect=connected, settings=settings)
    backend.granted()
    tickets = [ticket(waited_s=1000.0 - number) for number in range(1000)]
    begun = time.monotonic()
    for wanted in tickets:
        backend.seek(wanted)
    took_s = time.monotonic() - begun
    assert sum(client.count for client in clients) < 200 + 20 * took_s, "a look now and then, whoever comes meanwhile"
    assert 0 < len(lines(engine, names.TICKET_KIND)) <= 16
    for client in clients:
        client.count = 0
    assert backend.granted(2.0) == {}
    assert sum(client.count for client in clients) < 20, "a few looks, and signs of life"
    assert holder.release(held.id)
    granted(backend, tickets[0])
    for wanted in tickets:
        backend.drop(wanted.uid)
    assert lines(engine, names.TICKET_KIND) == []
    backend.close()


@pytest.mark.parametrize("by", ["a lease that is given back", "a job that ends", "a container that is removed"])
def test_who_waits_is_told_and_need_not_look(
    engine: Dockerd, connect: Callable[..., DockerBackend], monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    for module in (line, watching):
        monkeypatch.setattr(module, "SELDOM_S", 120.0)
    holder, other, mine, waiting = connect(), connect(), ticket(), ticket()
    held = granted(holder, mine)
    plan = leased(mine, held)
    if by != "a lease that is given back":
        wait_ready(holder, launch(holder, plan))
    assert other.seek(waiting).lease is None
    if by == "a job that ends":
        holder.stop(plan.job_id, reason="make room", grace_s=0.1)
    elif by == "a container that is removed":
        engine.client().remove_container(plan.job_id, force=True)
    else:
        assert holder.release(held.id)
    assert granted(other, waiting, 60.0).gpus == held.gpus


def test_a_job_that_waits_is_not_looked_at_all_the_time(engine: Dockerd, connect: Callable[..., DockerBackend]) -> None:
    holder = connect()
    held = granted(holder, ticket())
    clients: list[Counting] = []

    def connected() -> Any:
        clients.append(Counting(engine.client()))
        return clients[-1]

    backend = DockerBackend(worker="engine", connect=connected, settings=Settings(image=IMAGE, gpus=gpus(1)))
    plan = leased(ticket(), None, "echo done")
    launch(backend, plan)
    backend.watch([plan.job_id], 1.0)
    for client in clients:
        client.count = 0
    backend.watch([plan.job_id], 2.0)
    assert sum(client.count for client in clients) < 12
    holder.release(held.id)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    backend.close()


# -- odd things that others wrote -------------------------------------------------------------------------------------


def test_nonsense_of_others_is_not_in_the_line(engine: Dockerd, connect: Callable[..., DockerBackend]) -> None:
    client = engine.client()
    for number, text in enumerate(["", "[]", "{", '{"until": 1e400}', '{"until": "x", "since": 1}', "null"]):
        client.create_volume(f"jobdeploy-ask-odd-{number}", labels={names.KIND: names.TICKET_KIND, names.ASK: text})
    far = '{"until": 9e15, "since": 0, "who": "zzzzzzzz", "priority": "high", "demand": {"gpus": [{"count": "all"}]}}'
    client.create_volume("jobdeploy-ask-far", labels={names.KIND: names.TICKET_KIND, names.ASK: far})
    labels = {names.KIND: names.LEASE_KIND, names.LEASE: "odd", names.HELD: '{"gpus": 7, "cpu": "all"}'}
    client.create_volume("jobdeploy-lease-odd", labels=labels)
    backend, wanted = connect(), ticket()
    assert backend.seek(wanted).lease
    assert hashed("who", wanted.uid) in [each["who"] for each in backend.room().leases]
    assert backend.facts().machine


def test_a_job_of_an_older_release_has_all_gpus(connect: Callable[..., DockerBackend]) -> None:
    """It was submitted for some, without a lease."""
    backend, wanted = connect(2, security=Security(devices=("/dev/null:/dev/nvidia0",))), ticket()
    old, held = job(BLOCK, container={"gpus": 1}), granted(backend, ticket())
    launch(backend, old)
    assert backend.poll([old.job_id])[old.job_id].reason == Reason.QUEUED
    backend.release(held.id)
    wait_ready(backend, old.job_id)
    assert backend.seek(wanted).lease is None
    backend.stop(old.job_id, reason="over", grace_s=0.1)
    outcome(backend, old.job_id)
    assert granted(backend, wanted)
