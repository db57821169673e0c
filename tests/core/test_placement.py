"""Where jobs go: an answer for every worker, best first."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.core.assigning import assign
from airflow_jobdeploy.core.capacity import Allowance
from airflow_jobdeploy.core.demand import Demand
from airflow_jobdeploy.core.gpus import GB, GpuWish
from airflow_jobdeploy.core.impossible import impossible
from airflow_jobdeploy.core.leases import Room, hashed
from airflow_jobdeploy.core.placement import Placement, Wanted, rank
from airflow_jobdeploy.core.pool import load_pool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.standing import ASIDE, NEVER, NOW, PASSING, WAITS, WorkerView
from airflow_jobdeploy.hostside import layout
from airflow_jobdeploy.hostside.queueing import decide

A100, T4 = ("NVIDIA A100-SXM4-80GB", 80 * GB), ("Tesla T4", 15 * GB)


def view(name: str, *models: tuple[str, int], taken: int = 0, **facts: Any) -> WorkerView:
    """A worker with these GPUs, the first `taken` of them held."""
    gpus = [
        {"index": i, "uuid": f"{name}-{i}", "model": model, "memory_bytes": memory, "mig": False}
        for i, (model, memory) in enumerate(models)
    ]
    leases = facts.pop("leases", [{"gpus": [f"{name}-{i}"], "job": f"j{i}", "user": "ada"} for i in range(taken)])
    amounts = {"cpu": facts.pop("cpu", 16), "memory": facts.pop("memory", 64 * GB)}
    lists = {key: facts.pop(key, ()) for key in ("tickets", "outsiders")}
    return WorkerView(name=name, room=Room(capacity={**amounts, "gpus": gpus}, leases=leases, **lists), **facts)


def job(*wishes: Any, **facts: Any) -> Wanted:
    gpus = tuple(wish if isinstance(wish, GpuWish) else GpuWish(type=wish) for wish in wishes)
    amounts = {name: facts.pop(name) for name in ("cpu_count", "memory_bytes") if name in facts}
    return Wanted(uid=facts.pop("uid", "u"), demand=Demand(gpus=gpus, **amounts), **facts)


def why(placement: Placement, name: str) -> str:
    return next(choice.why for choice in placement.choices if choice.worker == name)


def test_a_worker_whose_gpus_are_not_known_yet_may_have_what_is_asked_for() -> None:
    known, unknown = view("known", T4), view("unknown")
    assert unknown.room is not None
    capacity = {**unknown.room.capacity, "gpus_unknown": "they are being looked at"}
    unknown = replace(unknown, room=replace(unknown.room, capacity=capacity))
    placement = rank(job("A100"), [known, unknown])
    assert [(choice.worker, choice.fit) for choice in placement.choices] == [("unknown", PASSING), ("known", NEVER)]
    assert why(placement, "unknown") == "needs 1 GPU A100; its GPUs are not known: they are being looked at"
    spec, pool = load_spec({"command": "x", "gpu_types": [{"type": "A100"}]}), load_pool({"kind": "local"}, name="lab")
    assert impossible(spec, job("A100").demand, pool, [known, unknown]) == []
    assert impossible(spec, job("A100").demand, pool, [known]) != []
    assert rank(job(cpu_count=64), [unknown]).choices[0].fit == NEVER


# -- which is best -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "workers", "order"),
    [
        # The fuller worker goes first, and a whole machine to who needs it.
        (job("A100"), [view("empty", *[A100] * 4), view("full", *[A100] * 4, taken=3)], ["full", "empty"]),
        (job(GpuWish(count=4)), [view("full", *[A100] * 4, taken=1), view("empty", *[A100] * 4)], ["empty", "full"]),
        (job(cpu_count=1), [view("a", cpu=16), view("b", cpu=2)], ["b", "a"]),
        # Small GPUs before large ones, none for who wants none.
        (job(""), [view("large", A100), view("small", T4)], ["small", "large"]),
        (job(cpu_count=1), [view("gpus", T4, cpu=2), view("none", cpu=64)], ["none", "gpus"]),
        # An earlier alternative before a later one.
        (job("A100", "T4"), [view("t4", T4), view("a100", *[A100] * 8)], ["a100", "t4"]),
        # What is there need not be sent; a little is no reason.
        (
            job("", trees={"code": 1 << 20, "data": 9 * GB}),
            [view("a", T4, holds=frozenset({"code"})), view("b", T4, T4, holds=frozenset({"data"}))],
            ["b", "a"],
        ),
        (
            job("", trees={"code": 1 << 20}),
            [view("fuller", T4), view("has", T4, T4, holds=frozenset({"code"}))],
            ["fuller", "has"],
        ),
        # Where it has just failed comes last, but before no worker at all.
        (job("", avoid=frozenset({"a"})), [view("a", T4), view("b", *[T4] * 8)], ["b", "a"]),
        # Now before later, later before never; and the shortest line of those where it waits.
        (job("T4"), [view("never", A100), view("later", T4, taken=1), view("now", T4)], ["now", "later", "never"]),
        (job("T4"), [view("a", T4, taken=1, tickets=[{"who": "x", "position": 1, "demand": {"gpus": [{"count": 1}]}}]),
                     view("b", T4, taken=1)], ["b", "a"]),
        # One that is set aside is the last resort.
        (job("T4"), [view("aside", T4, set_aside="x"), view("later", T4, taken=1)], ["later", "aside"]),
        (job("T4"), [view("never", A100), view("aside", T4, set_aside="x")], ["aside", "never"]),
        # Nothing asked for: to where least is.
        (job(), [view("busy", live_jobs=3), view("idle")], ["idle", "busy"]),
        (job(), [view("first"), view("second")], ["first", "second"]),
    ],
)  # fmt: skip
def test_the_best_worker_first(wanted: Wanted, workers: list[WorkerView], order: list[str]) -> None:
    assert [choice.worker for choice in rank(wanted, workers).choices] == order
    if rank(wanted, workers).candidates:
        assert assign([wanted], workers)["u"].worker == order[0]


# -- why and why not ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "worker", "fit", "said"),
    [
        (job("A100"), view("a", A100, A100, taken=1), NOW, "gets GPU 1 (NVIDIA A100-SXM4-80GB); 1 of 2 free"),
        (job(cpu_count=2), view("a", cpu=4), NOW, "4 of 4 cores free"),
        (job(memory_bytes=GB), view("a", memory=4 * GB), NOW, "4.0 GiB memory free"),
        (job(), view("a"), NOW, "0 jobs run there"),
        (job("A100"), view("a", A100, taken=1), WAITS, "needs 1 GPU A100, 0 of 1 free"),
        (job(cpu_count=4), view("a", cpu=4, leases=[{"cpu": 1}]), WAITS, "needs 4 cores, 3 of 4 free"),
        (job("H100"), view("a", A100), NEVER, "more than is here: needs 1 GPU H100, has 1 NVIDIA A100-SXM4-80GB"),
        (job(cpu_count=9), view("a", cpu=4), NEVER, "more than is here: needs 9 cores, 4 of 4 free"),
        (job(memory_bytes=3 * GB), view("a", memory=GB), NEVER, "needs 3.0 GiB memory, 1.0 of 1.0 free"),
        (job(cpu_count=1), view("a", cpu=2, leases=[{"cpu": 2}]), WAITS, "needs 1 core, 0 of 2 free"),
        (job(cpu_count=9), view("a", within={"cpu": 2}), NEVER, "more than is here: needs 9 cores, 2 of 2 free"),
        (job(cpu_count=9), view("a", within={"slots": 0}), NEVER, "more than is here: needs a slot, 0 of 0 free"),
        (job("A100"), view("a", A100, outsiders=[{"gpu": "a-0"}]), PASSING, "processes without a lease use GPU 0"),
        (job(where={"zone": ("b",)}), view("a", labels={"zone": "a"}), NEVER, "its zone is a, not b"),
        (job(where={"disk": ("x", "y")}), view("a"), NEVER, "it has no disk: x or y"),
        (job(), view("a", cordoned="ada, a new disk"), PASSING, "takes no new jobs: ada, a new disk"),
        (job(), view("a", set_aside="2 failures"), ASIDE, "set aside: 2 failures; 0 jobs run there"),
        (job(), WorkerView(name="a", trouble="no route to host"), PASSING, "cannot be asked: no route to host"),
        (job("A100", avoid=frozenset("a")), view("a", A100), NOW, "it has just failed there"),
    ],
)
def test_every_worker_says_why(wanted: Wanted, worker: WorkerView, fit: str, said: str) -> None:
    (choice,) = rank(wanted, [worker]).choices
    assert choice.fit == fit
    assert said in choice.why


def test_one_that_is_set_aside_gets_a_ticket_only_where_there_is_no_other() -> None:
    aside, busy = view("aside", T4, set_aside="2 failures"), view("busy", T4, taken=1)
    assert [choice.worker for choice in rank(job("T4"), [aside, busy]).candidates] == ["busy"]
    assert [choice.worker for choice in rank(job("T4"), [aside]).candidates] == ["aside"]


def test_who_waits_is_told_for_whom() -> None:
    leases = [
        {"gpus": ["a-0"], "job": "jold", "user": "ada", "since_s": 7200.0},
        {"gpus": ["a-1", "a-2"], "job": "", "user": "bob", "since_s": 5.0},
        {"gpus": ["a-3"], "job": "jnew", "user": "eve", "since_s": 1.0},
    ]
    wants = {"gpus": [{"type": "A100", "count": 1}]}
    line = [{"who": "x", "position": 1, "priority": "high", "waited_s": 1.0, "reserves": True, "demand": wants}]
    (choice,) = rank(job("A100"), [view("a", *[A100] * 4, leases=leases, tickets=line)]).choices
    assert choice.waits_for == (
        "1 job before it; jold (ada) has held a GPU for 2 h; "
        "one that is about to start (bob) has held 2 GPUs for 5.0 s; 1 more"
    )
    # What is free is for those who reserve before it; behind it they do not matter.
    (choice,) = rank(job("A100"), [view("a", A100, tickets=line)]).choices
    assert (choice.fit, choice.why) == (WAITS, "others are in line before it")
    (choice,) = rank(job(cpu_count=1), [view("a", A100, tickets=line)]).choices
    assert choice.fit == NOW
    (choice,) = rank(job("A100"), [view("a", A100, A100, tickets=line)]).choices
    assert choice.fit == NOW
    (choice,) = rank(job("A100", priority="high", waited_s=9.0), [view("a", A100, tickets=line)]).choices
    assert choice.fit == NOW


def test_a_placement_is_json() -> None:
    found = rank(job("A100", trees={"data": 5}), [view("a", A100), view("b")])
    data = json.loads(json.dumps(found.to_dict()))
    assert data["preferred"] == "a"
    assert data["workers"][0]["gpus"] == ["a-0"]
    assert [each["send_bytes"] for each in data["workers"]] == [5, 5]
    assert not found.is_impossible
    assert rank(job("H100"), [view("a", A100)]).is_impossible
    assert not rank(job("H100"), [view("a", A100, cordoned="x")]).is_impossible


# -- quotas ------------------------------------------------------------------------------------------------------------


def test_quotas_count_all_workers_of_the_pool() -> None:
    mine = {name: layout.short(name, text) for name, text in (("deployment", "d"), ("owner", "ada"))}
    workers = [
        view("a", *[A100] * 4, leases=[{"gpus": ["a-0", "a-1"], **mine}]),
        view("b", *[A100] * 4, leases=[{"gpus": ["b-0"], **mine}, {"gpus": ["b-1"], "owner": hashed("owner", "bob")}]),
    ]
    bounded = {"deployment": "d", "allowance": Allowance(owner="ada", max_gpus=4)}
    found = rank(job("A100", **bounded), workers)
    assert {choice.worker: (choice.fit, choice.max_gpus) for choice in found.choices} == {"a": (NOW, 3), "b": (NOW, 2)}
    found = rank(job(GpuWish(count=2), **bounded), workers)
    assert {choice.fit for choice in found.choices} == {WAITS}
    assert why(found, "a") == "its owner ada holds 3 of the 4 GPUs that it may"
    found = rank(job(GpuWish(count=2), GpuWish(count=1), **bounded), workers)
    assert [len(choice.gpus) for choice in found.choices] == [1, 1]
    found = rank(job(GpuWish(count=5), **bounded), [view("c", *[A100] * 8)])
    assert found.is_impossible
    assert why(found, "c") == "its owner ada may hold 4 GPUs of this pool"


# -- what cannot be ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"gpu_types": [{"type": "A10", "count": 2}]},
            "gpu_types: no worker of pool 'lab' has 2 A10. Did you mean 'A100'? "
            "It has 2 NVIDIA A100-SXM4-80GB (2 workers), 1 Tesla T4 (1 worker).",
        ),
        ({"gpu_types": [{"type": "A100", "count": 3}]}, "has 3 A100. It has 2 NVIDIA A100-SXM4-80GB (2 workers)"),
        ({"cpu_count": 99}, "cpu_count: no worker of pool 'lab' has 99 cores. The largest has 16 cores."),
        ({"memory": "1TB"}, "memory: no worker of pool 'lab' has 1.0 TiB memory. The largest has 64.0 GiB."),
        ({"preset": "huge"}, "preset: no worker of pool 'lab' has 99 cores."),
        ({"gpu_types": [{"type": "T4"}], "cpu_count": 9}, "has 1 T4, 9 cores together. It has a: 1 Tesla T4, 8 cores"),
    ],
)
def test_impossible_demands_say_what_the_pool_has(fields: dict[str, Any], said: str) -> None:
    workers = [view("a", T4, cpu=8), view("b", A100, A100), view("c", A100)]
    lab = load_pool(
        {"kind": "ssh", "workers": [{"conn_id": n} for n in "abc"], "presets": {"huge": {"cpu": 99}}}, name="lab"
    )
    spec = load_spec({"command": "x", **fields})
    demand = Demand(cpu_count=99) if spec.preset else Demand(
        cpu_count=spec.cpu_count or 0, memory_bytes=spec.memory_bytes or 0, gpus=spec.gpu_types
    )  # fmt: skip
    (problem,) = impossible(spec, demand, lab, workers)
    assert said in str(problem)
    assert impossible(spec, demand, lab, [*workers, WorkerView(name="d", trouble="gone")]) == []
    assert impossible(spec, Demand(cpu_count=1), lab, workers) == []


# -- properties --------------------------------------------------------------------------------------------------------

WISHES = st.lists(st.builds(GpuWish, type=st.sampled_from(["", "A100", "T4"]), count=st.integers(1, 4)), max_size=2)
JOBS = st.lists(
    st.builds(
        Wanted,
        demand=st.builds(Demand, cpu_count=st.sampled_from([0, 1, 6]), gpus=WISHES.map(tuple)),
        where=st.sampled_from([{}, {"zone": ("a",)}]),
        avoid=st.sampled_from([frozenset(), frozenset({"w0"})]),
        trees=st.sampled_from([{}, {"data": 9 * GB}]),
        priority=st.sampled_from(["high", "normal", "low"]),
        waited_s=st.sampled_from([0.0, 5.0]),
    ),
    min_size=1,
    max_size=12,
)
WORKERS = st.lists(
    st.tuples(st.lists(st.sampled_from([A100, T4]), max_size=4), st.integers(0, 4), st.booleans(), st.integers(2, 16)),
    min_size=1,
    max_size=5,
)


def made(workers: list[Any]) -> list[WorkerView]:
    return [
        view(f"w{at}", *models, taken=min(taken, len(models)), cpu=cpu, labels={"zone": "ab"[at % 2]},
             holds=frozenset({"data"} if holds else ()))
        for at, (models, taken, holds, cpu) in enumerate(workers)
    ]  # fmt: skip


@given(JOBS, WORKERS)
def test_what_is_promised_is_free_and_the_host_would_say_the_same(jobs: list[Wanted], workers: list[Any]) -> None:
    views = made(workers)
    for wanted in jobs:
        found = rank(wanted, views)
        assert sorted(choice.worker for choice in found.choices) == sorted(each.name for each in views)
        assert all(choice.why for choice in found.choices)
        for choice in found.choices:
            room = next(each.room for each in views if each.name == choice.worker)
            assert room is not None
            (verdict,) = decide(dict(room.capacity), room.leases, [{"uid": "u", "demand": wanted.demand.to_wire()}])
            if choice.fit == NOW:
                assert (verdict["granted"], tuple(verdict["gpus"])) == (True, choice.gpus)
            elif choice.fit == WAITS:
                assert not verdict["granted"]
                assert verdict["position"] == 1
            else:
                assert not verdict["granted"] or wanted.where


@given(JOBS, WORKERS)
def test_jobs_that_are_placed_together_share_nothing(jobs: list[Wanted], workers: list[Any]) -> None:
    views = made(workers)
    named = [Wanted(**{**vars(each), "uid": f"u{at}"}) for at, each in enumerate(jobs)]
    found = assign(named, views)
    assert set(found) == {each.uid for each in named}
    given_out = [(each.worker, gpu) for each in found.values() for gpu in each.gpus]
    assert len(given_out) == len(set(given_out))
    for each in views:
        assert each.room is not None
        cpu = sum(wanted.demand.cpu_count for wanted in named if found[wanted.uid].worker == each.name
                  and found[wanted.uid].starts)  # fmt: skip
        assert cpu <= each.room.capacity["cpu"]
    for wanted in named:
        assert bool(found[wanted.uid].worker) == bool(rank(wanted, views).candidates)
    first = min(named, key=lambda each: (["high", "normal", "low"].index(each.priority), -each.waited_s, each.uid))
    assert found[first.uid].worker == rank(first, views).preferred


def test_a_thousand_jobs_wait_evenly_on_a_hundred_workers() -> None:
    chance = random.Random(7)
    views = [view(f"w{at}", *[A100] * 4, taken=4, cpu=64) for at in range(100)]
    jobs = [job(GpuWish(count=1), uid=f"{at}", waited_s=chance.random()) for at in range(1000)]
    found = assign(jobs, views)
    lines = [sum(each.worker == one.name for each in found.values()) for one in views]
    assert (min(lines), max(lines)) == (10, 10)
