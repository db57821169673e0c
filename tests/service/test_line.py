"""Jobs that ask for something: placed where it is, or in line until it is; by the task itself, and by a triggerer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.core.capacity import Capacity, Quota
from airflow_jobdeploy.core.leases import Lease, SeekAnswer, Ticket
from airflow_jobdeploy.core.plan import new_uid
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.presets import Preset
from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.core.status import JobHandle, JobStatus
from airflow_jobdeploy.core.template import load_template
from airflow_jobdeploy.errors import JobTimedOut, PlacementError, SpecError, TemplateError, WorkerError
from airflow_jobdeploy.service import Interrupted, Payer, Watcher, Work
from airflow_jobdeploy.service.line import Granted, Places, StillWaiting, Wait
from airflow_jobdeploy.service.seekers import Seeker
from airflow_jobdeploy.service.stand import Stand
from airflow_jobdeploy.testing import ManualClock, MemoryHost
from tests.service.conftest import Desk, Notebook

GB = 1 << 30
SPEC = {"command": "x", "gpu_types": [{"type": "A100", "count": 1}], "priority": "high"}


def gpus(host: str, count: int, model: str = "A100") -> list[dict[str, Any]]:
    return [
        {"index": index, "uuid": f"GPU-{host}-{index}", "model": model, "memory_bytes": 40 * GB}
        for index in range(count)
    ]


class Cluster(Desk):
    """A desk on workers in memory. A job of the command `x` lasts until it is stopped."""

    hosts: dict[str, MemoryHost]

    def wants(self, count: int = 1, **fields: Any) -> Work:
        return self.run_spec({"command": "x", "gpu_types": [{"type": "A100", "count": count}], **fields})

    def another(self) -> Cluster:
        """Another task, on the same workers."""
        return replace(self, notebook=Notebook(), said=[], log=[], handles=[])

    def taken(self) -> dict[str, list[str]]:
        """Worker -> the GPUs that are held there."""
        with self.workers() as workers:
            rooms = {name: workers.backend(name).room() for name in self.hosts}
        return {name: sorted(gpu for each in room.leases for gpu in each["gpus"]) for name, room in rooms.items()}

    def line(self) -> list[tuple[str, str]]:
        """(worker, priority) of all tickets."""
        with self.workers() as workers:
            rooms = {name: workers.backend(name).room() for name in self.hosts}
        return [(name, str(ticket["priority"])) for name, room in rooms.items() for ticket in room.tickets]

    def waiting(self, work: Work, **how: Any) -> Submitting:
        """Submitted by a thread that stands in line; returns when its tickets lie on all workers."""
        before = len(self.line())
        found = Submitting(self.another(), work, how)
        found.start()
        until(lambda: len(self.line()) >= before + len(self.hosts) or not found.is_alive())
        return found


class Submitting(threading.Thread):
    """One task that submits."""

    def __init__(self, desk: Cluster, work: Work, how: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.desk, self.work, self.how = desk, work, how
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self.desk.submit(self.work, **self.how)
        except Exception as error:
            self.error = error

    def handle(self) -> JobHandle:
        self.join(60)
        assert not self.is_alive(), self.desk.said
        if self.error is not None:
            raise self.error
        return self.desk.handles[-1]


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)  # what other threads do to hosts in memory is told to nobody here


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Workers a and b, with two GPUs each."""
    hosts = {
        name: MemoryHost(
            name=name,
            programs={"x": lambda run: run.wait()},
            capacity={"cpu": 8, "memory": 64 * GB, "gpus": gpus(name, 2)},
        )
        for name in ("a", "b")
    }
    pool = WorkerPool(name="lab", kind="memory", workers=(Worker(conn_id="a"), Worker(conn_id="b")))
    found = Cluster(pool=pool, connect=lambda worker: hosts[worker.name].backend())
    found.hosts = hosts
    yield found
    for host in hosts.values():
        host.plug_in()
        backend = host.backend()
        for job in backend.jobs(live_only=True):
            backend.stop(job["plan"]["job_id"], reason="the test is over", grace_s=0)


# -- where there is room ----------------------------------------------------------------------------------------------


def test_each_gpu_has_one_job_and_small_jobs_are_packed(cluster: Cluster) -> None:
    handles = [cluster.another().submit(cluster.wants()).handle for _ in range(2)]
    assert len({handle.worker for handle in handles}) == 1, "the other worker stays whole"
    whole = cluster.another().submit(cluster.wants(2)).handle
    assert whole.worker != handles[0].worker
    assert cluster.taken() == {"a": ["GPU-a-0", "GPU-a-1"], "b": ["GPU-b-0", "GPU-b-1"]}
    assert not cluster.line()


def test_what_a_preset_says_and_where(cluster: Cluster) -> None:
    workers = (Worker(conn_id="a", labels={"zone": "north"}), Worker(conn_id="b", labels={"zone": "south"}))
    preset = Preset(cpu=6, memory_bytes=8 * GB, preemptible=True)
    cluster.pool = replace(cluster.pool, workers=workers, presets={"wide": preset})
    work = cluster.run_spec({"command": "x", "preset": "wide", "where": {"zone": "south"}})
    assert work.recovery.preemptible
    assert cluster.submit(work).handle.worker == "b"
    plain = cluster.another().submit(cluster.run_spec({"command": "x", "where": {"zone": "south"}}))
    assert plain.handle.worker == "b", "also where it asks for nothing else"
    with pytest.raises(PlacementError, match="a: its zone is north, not south"):
        cluster.another().submit(cluster.run_spec({"command": "x", "cpu_count": 9, "where": {"zone": "south"}}))
    with pytest.raises(SpecError, match=r"has no preset 'wied'\. Did you mean 'wide'"):
        cluster.run_spec({"command": "x", "preset": "wied"})


@pytest.mark.parametrize(
    ("wants", "why"),
    [
        ({"gpu_types": [{"type": "H100", "count": 1}]}, r"a, b: .*A100"),
        ({"gpu_types": [{"type": "A100", "count": 3}]}, r"b: .*2"),
        ({"gpu_types": [{"type": "A100", "count": 1, "memory": "80GB.."}]}, r"a, b: "),
        ({"cpu_count": 9}, r"9 cores"),
        ({"memory": "65GB"}, r"memory"),
    ],
)
def test_what_no_worker_can_ever_give_is_an_error_at_once(cluster: Cluster, wants: dict[str, Any], why: str) -> None:
    with pytest.raises(PlacementError, match=rf"no worker of pool 'lab' can take .*{why}"):
        cluster.submit(cluster.run_spec({"command": "x", **wants}))
    assert not cluster.line()
    assert not cluster.handles


def test_a_declared_capacity_and_a_quota_narrow_what_there_is(cluster: Cluster) -> None:
    workers = (Worker(conn_id="a", capacity=Capacity(gpus=("0",))), Worker(conn_id="b", capacity=Capacity(gpus=())))
    cluster.pool = replace(cluster.pool, workers=workers)
    cluster.submit(cluster.wants())
    assert cluster.taken() == {"a": ["GPU-a-0"], "b": []}
    with pytest.raises(StillWaiting):
        cluster.another().submit(cluster.wants(), line_s=0.5)
    quotas = {"team": Quota(max_gpus=1, max_priority="low")}
    cluster.pool = replace(cluster.pool, workers=(Worker(conn_id="a"), Worker(conn_id="b")), quotas=quotas)
    mine = cluster.run_spec(SPEC, payer=Payer(user="team"))
    assert mine.need.priority == "low"
    cluster.another().submit(mine)
    with pytest.raises(StillWaiting):
        cluster.another().submit(cluster.run_spec(SPEC, payer=Payer(user="team")), line_s=0.5)
    cluster.another().submit(cluster.run_spec(SPEC, payer=Payer(user="others")))


def test_a_default_preset_gives_a_turn_to_jobs_that_ask_for_nothing(cluster: Cluster) -> None:
    cluster.submit(cluster.run_spec({"command": "x", "cpu_count": 8}))
    cluster.another().submit(cluster.run_spec({"command": "x", "cpu_count": 8}))
    cluster.another().submit(cluster.run_spec({"command": "x"}), line_s=0)
    cluster.pool = replace(cluster.pool, presets={"small": Preset(cpu=1)}, default_preset="small")
    with pytest.raises(StillWaiting, match="waiting for 1 core"):
        cluster.another().submit(cluster.run_spec({"command": "x"}), line_s=0)
    own = cluster.run_spec({"command": "x", "cpu_count": 4})
    assert own.need.demand.cpu_count == 4


def test_a_job_that_asks_for_nothing_avoids_a_worker_that_has_just_failed_others(cluster: Cluster) -> None:
    clock = ManualClock()
    host = cluster.hosts["a"] = MemoryHost(name="a", programs={"x": lambda run: run.wait()}, clock=clock)
    for _ in range(2):
        job = cluster.another().submit(cluster.run_spec({"command": "x"})).handle
        assert job.worker == "a"
        until(lambda job=job: cluster.status(job).status is JobStatus.RUNNING)  # type: ignore[misc]
        host.kill_supervisor(job.job_id)
        clock.advance(100)
    desk = cluster.another()
    assert desk.submit(cluster.run_spec({"command": "x"})).handle.worker == "b"
    assert desk.said[0].startswith("Passed over worker a: set aside: 2 failures in a row")
    only = replace(cluster.pool, workers=cluster.pool.workers[:1])
    alone = replace(cluster.another(), pool=only)
    assert alone.submit(alone.run_spec({"command": "x"})).handle.worker == "a", "there is no other"


def test_a_team_and_an_owner_are_bound_beside_each_other(cluster: Cluster) -> None:
    cluster.pool = replace(cluster.pool, quotas={"vision": Quota(max_gpus=3), "ada": Quota(max_gpus=2)})
    ada, bob, eve = (Payer(user=name) for name in ("ada", "bob", "eve"))
    spec = {**SPEC, "team": "vision"}
    for _ in range(2):
        cluster.another().submit(cluster.run_spec(spec, payer=ada))
    with pytest.raises(StillWaiting):  # of her team one more may be held
        cluster.another().submit(cluster.run_spec(spec, payer=ada), line_s=0)
    cluster.another().submit(cluster.run_spec(spec, payer=bob))
    with pytest.raises(JobTimedOut, match="its team vision holds 3 of the 3 GPUs that it may"):
        cluster.another().submit(cluster.run_spec({**spec, "schedule_timeout": 0.1}, payer=eve))
    cluster.another().submit(cluster.run_spec(SPEC, payer=eve))


def test_the_team_of_a_dag_is_not_changed_by_its_spec(cluster: Cluster) -> None:
    assert cluster.run_spec({"command": "x", "team": "vision"}).need.allowance.team == "vision"
    payer = Payer(user="ada", team="audio")
    assert cluster.run_spec({"command": "x"}, payer=payer).need.allowance.team == "audio"
    with pytest.raises(SpecError, match="belongs to Airflow's team 'audio': its job cannot count as one of 'vision'"):
        cluster.run_spec({"command": "x", "team": "vision"}, payer=payer)


def test_a_template_counts_for_a_team_and_has_the_default_preset(cluster: Cluster) -> None:
    up = {"up": {"type": "script", "content": "x"}, "down": {"type": "script", "content": "x"}}
    template = load_template({"options": {"team": "vision"}, "builds": up})
    cluster.pool = replace(cluster.pool, presets={"small": Preset(cpu=1, preemptible=True)}, default_preset="small")
    work = service.prepare_up(template, {}, pool=cluster.pool, resolve_secret=str, payer=Payer(user="ada"))
    assert (work.need.allowance.team, work.need.demand.cpu_count, work.recovery.preemptible) == ("vision", 1, True)
    with pytest.raises(TemplateError, match="cannot count as one of 'vision'"):
        service.prepare_up(template, {}, pool=cluster.pool, resolve_secret=str, payer=Payer(team="audio"))


def test_what_waits_where_its_place_is_best(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.another().submit(cluster.wants(2))
    cluster.hosts["a"].backend().seek(Ticket(uid=new_uid(), demand={"gpus": [{"count": 1}]}, waited_s=100))
    with pytest.raises(StillWaiting) as caught:
        cluster.another().submit(cluster.wants(), line_s=0)
    assert (next(iter(caught.value.wait.tickets)), caught.value.best) == ("b", "b")
    with pytest.raises(StillWaiting) as caught:
        cluster.another().submit(cluster.wants(where={"worker": "a"}), line_s=0)
    assert caught.value.best == "a"


def test_a_preempted_job_does_not_go_back_to_its_worker_while_that_is_cordoned(cluster: Cluster) -> None:
    cluster.pool = replace(cluster.pool, workers=cluster.pool.workers[:1])
    work = cluster.run_spec({"command": "x", "preemptible": True})
    first = cluster.submit(work).handle
    with cluster.workers() as workers:
        backend = workers.backend("a")
        backend.cordon(by="pytest", why="a new disk")
        service.preempt(workers, first, reason="drained", by="pytest", wait_s=60)
        again = threading.Thread(target=submit_again, args=(cluster, work, Sequel(again=True, why="was preempted")))
        again.start()
        until(lambda: any("it takes no new jobs" in line for line in cluster.said))
        assert len(backend.jobs()) == 1
        backend.cordon(by="pytest", lift=True)
        again.join(60)
        assert len(backend.jobs()) == 2


# -- in line ----------------------------------------------------------------------------------------------------------


def test_who_waits_says_where_and_goes_to_whatever_worker_is_free_first(cluster: Cluster) -> None:
    held = [cluster.another().submit(cluster.wants(2)).handle for _ in range(2)]
    waiting = cluster.waiting(cluster.wants())
    assert cluster.line() == [("a", "normal"), ("b", "normal")]
    with cluster.workers() as workers:
        tickets = [ticket for name in cluster.hosts for ticket in workers.backend(name).room().tickets]
    assert [ticket["reserves"] for ticket in tickets].count(True) == 1, "it keeps others from one worker only"
    until(lambda: waiting.desk.said)
    assert waiting.desk.said[0].startswith("Waiting for 1 A100: number 1 in the line of worker ")
    free = held[1]
    cluster.stop(free)
    handle = waiting.handle()
    assert handle.worker == free.worker
    until(lambda: cluster.status(handle).status is JobStatus.RUNNING)
    assert not cluster.line(), "the ticket on the other worker was taken back"


def test_who_was_granted_something_takes_back_his_other_tickets_though_his_connections_stay_open(
    cluster: Cluster,
) -> None:
    """A task follows its job by them for hours, and would be granted what it does not want."""
    demand = {"gpus": [{"count": 2}]}
    with cluster.workers() as others:
        held = {name: others.backend(name).seek(Ticket(uid=new_uid(), demand=demand)).lease for name in cluster.hosts}
        waits = Ticket(uid=new_uid(), demand=demand)
        wait = Wait(uid=waits.uid, worker_pool="lab", since=time.time(), tickets={"a": waits, "b": waits}, wanted="2")

        def release() -> None:
            lease = held["b"] if len(cluster.line()) == 2 else None
            if lease is not None:
                others.backend("b").release(lease.id)

        with cluster.workers() as mine:
            granted = Stand(mine, wait, say=cluster.said.append, check=release).until(None)
            assert granted
            assert granted.worker == "b"
            assert cluster.line() == []
            assert len(cluster.taken()["b"]) == 2
        assert cluster.taken()["b"] == [], "it ended before a job was claimed, and with it what it was granted"


def test_it_is_said_who_is_ahead_and_since_when(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    wait = Wait(uid="me", worker_pool="p", since=0.0, tickets={"a": Ticket(uid="me", demand={})}, wanted="1 A100")
    places = Places(wait, lambda: now)
    other = {"user": "eve", "priority": "high", "waited_s": 3600.0}
    places.heard("a", SeekAnswer(position=2, ahead=(other,), why="0 of 2 free"))
    line = "Waiting for 1 A100, for {}: number 2 in the line of worker a, behind a job of eve (high, waiting for {})"
    line += ": 0 of 2 free"
    assert places.news() == line.format("5.0 s so far", "1 h")
    now += 60
    places.heard("a", SeekAnswer(position=2, ahead=({**other, "waited_s": 3660.0},), why="0 of 2 free"))
    assert places.news() == "", "that others have grown older is no news"
    now += 300
    assert places.news() == line.format("6 min so far", "1 h 6 min")


def test_high_goes_before_normal_and_normal_before_low(cluster: Cluster) -> None:
    held = [cluster.another().submit(cluster.wants(2)).handle for _ in range(2)]
    low = cluster.waiting(cluster.wants(priority="low"))
    normal = cluster.waiting(cluster.wants())
    high = cluster.waiting(cluster.wants(2, priority="high"))
    cluster.stop(held[0])
    high.handle()
    assert normal.is_alive()
    assert low.is_alive()
    cluster.stop(held[1])
    assert {normal.handle().worker, low.handle().worker} == {held[1].worker}


def test_schedule_timeout_bounds_the_wait_and_nothing_is_left_in_line(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.another().submit(cluster.wants(2))
    with pytest.raises(JobTimedOut, match=r"had 1 A100 for the job within schedule_timeout .*: number 1 in the line"):
        cluster.another().submit(cluster.wants(schedule_timeout=0.5))
    assert not cluster.line()


def test_a_task_that_is_told_to_end_leaves_the_line(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.another().submit(cluster.wants(2))
    told = threading.Event()
    waiting = cluster.waiting(cluster.wants(), interrupted=told.is_set)
    told.set()
    with pytest.raises(Interrupted):
        waiting.handle()
    assert not cluster.line()


def test_a_silent_worker_holds_up_nobody_and_is_asked_when_it_is_back(cluster: Cluster) -> None:
    cluster.hosts["a"].unplug()
    held = cluster.another().submit(cluster.wants(2)).handle
    assert held.worker == "b"
    waiting = Submitting(cluster.another(), cluster.wants(), {})
    waiting.start()
    until(lambda: waiting.desk.said)
    cluster.hosts["a"].plug_in()
    assert waiting.handle().worker == "a"


# -- handed over ------------------------------------------------------------------------------------------------------


class Triggerer:
    """What a trigger does: a seeker on the watcher of each worker."""

    def __init__(self, cluster: Cluster, wait: Wait) -> None:
        self.news: SimpleQueue[tuple[str, SeekAnswer | WorkerError]] = SimpleQueue()
        age = wait.age()
        self.places = {}
        for name in wait.tickets:
            connect = cluster.hosts[name].backend
            seeker = Seeker(
                wait.uid,
                ticket=lambda name=name: wait.ticket(name, age()),  # type: ignore[misc]
                deliver=lambda answer, name=name: self.news.put((name, answer)),  # type: ignore[misc]
            )
            self.places[name] = Watcher.get((self, name), connect).seek(seeker)

    def granted(self, wait: Wait) -> Granted:
        while True:
            worker, answer = self.news.get(timeout=60)
            if isinstance(answer, SeekAnswer) and answer.lease:
                return Granted(uid=wait.uid, worker=worker, lease=answer.lease, since=wait.since)

    def close(self, taken: str = "") -> None:
        for name, place in self.places.items():
            place.close(taken=name == taken)


def test_a_triggerer_goes_on_with_the_wait_and_the_task_takes_what_it_was_granted(cluster: Cluster) -> None:
    held = [cluster.another().submit(cluster.wants(2)).handle for _ in range(2)]
    with pytest.raises(StillWaiting) as caught:
        cluster.submit(cluster.wants(), line_s=0.3)
    assert not cluster.line()
    wait = Wait.from_dict(json.loads(json.dumps(caught.value.wait.to_dict())))
    assert wait == caught.value.wait
    triggerer = Triggerer(cluster, wait)
    until(lambda: len(cluster.line()) == 2)
    cluster.stop(held[1])
    granted = triggerer.granted(wait)
    triggerer.close(granted.worker)
    until(lambda: not cluster.line())
    assert len(cluster.taken()[granted.worker]) == 1
    again = Granted.from_dict(json.loads(json.dumps(granted.to_dict())))
    handle = cluster.submit(cluster.wants(), granted=again).handle
    assert (handle.worker, handle.uid) == (held[1].worker, wait.uid)
    until(lambda: cluster.status(handle).status is JobStatus.RUNNING)
    assert len(cluster.taken()[granted.worker]) == 1


def test_a_trigger_that_ends_gives_everything_back(cluster: Cluster) -> None:
    with pytest.raises(StillWaiting) as caught:
        held = [cluster.another().submit(cluster.wants(2)).handle for _ in range(2)]
        cluster.submit(cluster.wants(), line_s=0.0)
    triggerer = Triggerer(cluster, caught.value.wait)
    until(lambda: len(cluster.line()) == 2)
    cluster.stop(held[0])
    triggerer.granted(caught.value.wait)
    triggerer.close()
    until(lambda: not cluster.line() and not cluster.taken()[held[0].worker])


def test_a_worker_that_is_cut_off_gets_the_ticket_anew_no_younger(cluster: Cluster) -> None:
    for _ in range(2):
        cluster.another().submit(cluster.wants(2))
    with pytest.raises(StillWaiting) as caught:
        cluster.submit(cluster.wants(), line_s=0.0)
    wait = replace(caught.value.wait, since=time.time() - 1000)
    triggerer = Triggerer(cluster, wait)
    until(lambda: len(cluster.line()) == 2)
    cluster.hosts["a"].unplug()
    until(lambda: any(isinstance(triggerer.news.get(timeout=60)[1], WorkerError) for _ in range(20)))
    cluster.hosts["a"].plug_in()
    until(lambda: len(cluster.line()) == 2)
    tickets = cluster.hosts["a"].backend().room().tickets
    assert [ticket["waited_s"] >= 1000 for ticket in tickets] == [True]
    triggerer.close()


def test_a_ticket_that_a_worker_refuses_disturbs_nobody_else(cluster: Cluster) -> None:
    news: SimpleQueue[SeekAnswer | WorkerError] = SimpleQueue()
    bad, good = (Ticket(uid=new_uid(), demand={"cpu": cpu}) for cpu in ("x", 1))
    watcher = Watcher.get(news, cluster.hosts["a"].backend)
    places = [watcher.seek(Seeker(each.uid, ticket=lambda each=each: each, deliver=news.put)) for each in (bad, good)]  # type: ignore[misc]
    refusal, answer = news.get(timeout=60), news.get(timeout=60)
    assert isinstance(refusal, WorkerError)
    assert "cannot be read" in str(refusal)
    assert isinstance(answer, SeekAnswer)
    assert answer.lease
    for place in places:
        place.close()
    until(lambda: not cluster.line())


def provisional(cluster: Cluster) -> tuple[Work, Granted]:
    """What a trigger was granted on worker a, for a task."""
    work, backend = cluster.wants(), cluster.hosts["a"].backend()
    ticket = Ticket(uid=new_uid(), demand=work.need.demand.to_wire())
    answer = backend.seek(ticket)
    assert answer.lease
    backend.close()
    assert cluster.taken()["a"], "it is not tied to the session"
    return work, Granted(uid=ticket.uid, worker="a", lease=answer.lease, since=time.time())


def test_a_task_that_is_told_to_end_before_it_claims_gives_back_what_it_was_granted(cluster: Cluster) -> None:
    work, granted = provisional(cluster)
    calls = iter([False, True])
    with pytest.raises(Interrupted):
        cluster.submit(work, granted=granted, interrupted=lambda: next(calls, True))
    assert cluster.taken() == {"a": [], "b": []}
    assert not cluster.handles


def test_what_was_granted_to_a_job_that_is_found_alive_is_given_back(cluster: Cluster) -> None:
    first = cluster.submit(cluster.wants()).handle
    until(lambda: cluster.status(first).status is JobStatus.RUNNING)
    work, granted = provisional(cluster)
    assert cluster.submit(work, granted=granted).reattached
    assert {name: len(gpus) for name, gpus in cluster.taken().items()} == {"a": 0, "b": 0, first.worker: 1}


def test_what_a_waiting_process_was_granted_ends_with_it(cluster: Cluster) -> None:
    backend = cluster.hosts["a"].backend()
    assert backend.seek(Ticket(uid=new_uid(), demand=cluster.wants().need.demand.to_wire(), tied=True)).lease
    assert cluster.taken()["a"]
    backend.close()
    assert not cluster.taken()["a"]


def test_a_lease_that_is_void_by_then_means_a_place_in_the_line_of_that_worker(cluster: Cluster) -> None:
    held = [cluster.another().submit(cluster.wants(2)).handle for _ in range(2)]
    gone = Granted(uid=new_uid(), worker=held[0].worker, lease=Lease(id="f" * 32), since=time.time())
    handle = cluster.submit(cluster.wants(), granted=gone).handle
    until(lambda: cluster.status(handle).reason == "Queued")
    cluster.stop(held[0])
    until(lambda: cluster.status(handle).status is JobStatus.RUNNING)


def test_an_attempt_that_was_never_claimed_has_its_turn(cluster: Cluster) -> None:
    """Killed between intent and claim, while somebody else of its owner got what it may hold."""
    cluster.pool = replace(cluster.pool, quotas={"*": Quota(max_gpus=2)})
    work = cluster.run_spec(SPEC | {"gpu_types": [{"type": "A100", "count": 2}]}, payer=Payer(user="ada"))
    first = cluster.submit(work).handle
    cluster.stop(first)
    backend = cluster.hosts[first.worker].backend()
    backend.forget(first.job_id)
    rival = cluster.another().submit(work).handle
    assert rival.worker != first.worker or len(cluster.taken()[first.worker]) == 2
    with pytest.raises(StillWaiting) as caught:
        cluster.submit(work, line_s=0)
    assert list(caught.value.wait.tickets) == [first.worker]
    again = Submitting(cluster, work, {})
    again.start()
    until(lambda: any("its owner ada holds 2" in line for line in cluster.said))
    cluster.stop(rival)
    handle = again.handle()
    assert (handle.job_id, handle.worker) == (first.job_id, first.worker)
    until(lambda: cluster.status(handle).status is JobStatus.RUNNING)


# -- later attempts ---------------------------------------------------------------------------------------------------


def test_a_preempted_job_stands_in_line_again_and_goes_back_to_its_checkpoint(cluster: Cluster) -> None:
    work = cluster.wants(2, preemptible=True)
    first = cluster.submit(work).handle
    with cluster.workers() as workers:
        service.preempt(workers, first, reason="make room", by="a test", wait_s=60)
    other = cluster.another().submit(cluster.wants(2)).handle
    sequel = Sequel(again=True, elsewhere=False, why="was preempted", preemptions=1)
    second = submit_again(cluster, work, sequel)
    assert second.attempt == 2
    assert {second.worker, other.worker} == {"a", "b"}
    assert (second.worker == first.worker) is (other.worker != first.worker)


def test_a_job_goes_back_to_its_checkpoint_also_where_another_worker_is_as_good(cluster: Cluster) -> None:
    blocker = cluster.another().submit(cluster.wants(2)).handle
    work = cluster.wants(2, preemptible=True)
    first = cluster.submit(work).handle
    cluster.stop(blocker)
    with cluster.workers() as workers:
        service.preempt(workers, first, reason="make room", by="a test", wait_s=10)
    assert not any(cluster.taken().values()), "all is free"
    sequel = Sequel(again=True, elsewhere=False, why="was preempted", preemptions=1)
    assert (blocker.worker, first.worker, submit_again(cluster, work, sequel).worker) == ("a", "b", "b")


def test_an_attempt_whose_worker_is_back_when_another_takes_its_place_ends(cluster: Cluster) -> None:
    work = cluster.wants(preemptible=True)
    first = cluster.submit(work).handle
    second = submit_again(cluster, work, Sequel(again=True, elsewhere=True, why="its worker was lost", retries=1))
    assert {first.worker, second.worker} == {"a", "b"}
    until(lambda: cluster.status(first).status.is_finished)
    with cluster.workers() as workers:
        state = workers.backend(first.worker).poll([first.job_id])[first.job_id]
    assert state.status is JobStatus.CANCELLED
    assert f"attempt 2 on worker {second.worker} has taken its place" in state.message


def test_a_job_whose_worker_is_lost_goes_elsewhere_first(cluster: Cluster) -> None:
    work = cluster.wants(preemptible=True)
    first = cluster.submit(work).handle
    cluster.stop(first)
    second = submit_again(cluster, work, Sequel(again=True, elsewhere=True, why="was lost"))
    assert second.worker != first.worker


def test_a_clear_stops_the_old_attempt_before_the_new_one_waits(cluster: Cluster) -> None:
    other = [cluster.another().submit(cluster.wants(2)).handle for _ in range(1)]
    work = cluster.wants(2)
    first = cluster.submit(work).handle
    cluster.epoch = {"max_tries": 0, "clear_number": 1}
    second = cluster.submit(work).handle
    assert (second.attempt, second.worker) == (2, first.worker)
    assert cluster.status(first).status is JobStatus.CANCELLED
    assert cluster.status(other[0]).status is JobStatus.RUNNING


def submit_again(cluster: Cluster, work: Work, sequel: Sequel) -> JobHandle:
    with cluster.workers() as workers:
        return service.submit(
            work, workers, sequel=sequel, intents=cluster.notebook, epoch=cluster.epoch, say=cluster.said.append
        ).handle
