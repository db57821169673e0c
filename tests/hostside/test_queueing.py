"""Who gets what of a host: never more than there is, in order, nobody starves, lies change nothing for others."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_jobdeploy.hostside import fitting, gpu_names
from airflow_jobdeploy.hostside.queueing import PRIORITIES, decide

GB = 1 << 30
A100, T4 = ("NVIDIA A100-SXM4-80GB", 80 * GB), ("Tesla T4", 15 * GB)


def host(*models: tuple[str, int], **amounts: Any) -> dict[str, Any]:
    gpus = [
        {"index": i, "uuid": f"GPU-{i}", "model": m, "memory_bytes": b, "mig": False} for i, (m, b) in enumerate(models)
    ]
    return {"cpu": 8.0, "memory": 64 * GB, "disk": None, "gpus": gpus, **amounts}


def ticket(uid: str, *wishes: tuple[str, int], **facts: Any) -> dict[str, Any]:
    amounts = {name: facts.pop(name) for name in ("cpu", "memory", "disk") if name in facts}
    demand = {**amounts, "gpus": [{"type": kind, "count": count} for kind, count in wishes]}
    return {"uid": uid, "priority": "normal", "waited_s": 0.0, "demand": demand, "reserves": True, **facts}


def lease(verdict: dict[str, Any], of: dict[str, Any]) -> dict[str, Any]:
    """What a host writes down for a granted ticket."""
    amounts = {name: of["demand"].get(name, 0) for name in ("cpu", "memory", "disk")}
    owner = {name: of.get(name, "") for name in ("owner", "deployment")}
    return {"id": of["uid"], "gpus": verdict["gpus"], "past": verdict["past"], **amounts, **owner}


def granted(capacity: dict[str, Any], leases: list[dict[str, Any]], *tickets: dict[str, Any]) -> dict[str, list[str]]:
    return {found["uid"]: found["gpus"] for found in decide(capacity, leases, tickets) if found["granted"]}


# -- examples ----------------------------------------------------------------------------------------------------------


def test_the_line_goes_by_priority_then_by_age_then_by_name() -> None:
    line = [
        ticket("b", ("", 1)),
        ticket("a", ("", 1)),
        ticket("old", ("", 1), waited_s=9.0),
        ticket("urgent", ("", 1), priority="high"),
        ticket("some-day", ("", 1), priority="low", waited_s=9e4),
    ]
    found = decide(host(T4), [{"gpus": ["GPU-0"]}], line)
    assert {each["uid"]: each["position"] for each in found} == {"urgent": 1, "old": 2, "a": 3, "b": 4, "some-day": 5}
    assert next(each["ahead"] for each in found if each["uid"] == "a") == ["urgent", "old"]
    assert found[0]["why"] == "needs 1 GPU, 0 of 1 free"
    assert granted(host(T4), [], *line) == {"urgent": ["GPU-0"]}


def test_a_filler_passes_the_first_only_where_it_leaves_it_its_room() -> None:
    big = ticket("big", ("", 3), waited_s=60.0)
    running = [{"id": "r", "gpus": ["GPU-0", "GPU-1"]}]
    found = decide(host(*[T4] * 4), running, [big, ticket("one", ("", 1)), ticket("two", ("", 1))])
    assert [(each["granted"], each["past"]) for each in found] == [(False, ""), (True, "big"), (False, "")]
    assert found[2]["why"] == "would delay big, which is first in line"
    # The filler is counted as staying: another may not come.
    running.append(lease(found[1], ticket("one")))
    assert granted(host(*[T4] * 4), running, big, ticket("two", ("", 1))) == {}
    assert granted(host(*[T4] * 4), running[1:], big, ticket("two", ("", 1))) == {"big": ["GPU-0", "GPU-1", "GPU-2"]}


def test_who_does_not_reserve_here_holds_nobody_up() -> None:
    big = ticket("big", ("", 2), waited_s=60.0, reserves=False)
    running = [{"gpus": ["GPU-0"]}]
    assert granted(host(T4, T4), running, big, ticket("one", ("", 1))) == {"one": ["GPU-1"]}
    assert granted(host(T4, T4), running, {**big, "reserves": True}, ticket("one", ("", 1))) == {}


def test_of_several_that_reserve_room_is_kept_for_the_first() -> None:
    first, second = ticket("first", ("A100", 2), waited_s=60.0), ticket("second", ("T4", 2), waited_s=50.0)
    capacity, running = host(A100, A100, T4, T4), [{"gpus": ["GPU-0", "GPU-2"]}]
    assert granted(capacity, running, first, second, ticket("a", ("A100", 1))) == {}
    assert granted(capacity, running, first, second, ticket("t", ("T4", 1))) == {"t": ["GPU-3"]}


def test_a_filler_leaves_the_first_its_slot() -> None:
    big = ticket("big", ("", 1), waited_s=60.0, within={"slots": 2})
    capacity = host(T4, T4)
    running = [{"id": "r", "gpus": ["GPU-0", "GPU-1"]}]
    first = ticket("one", cpu=1)
    (filler,) = [each for each in decide(capacity, running, [big, first]) if each["granted"]]
    assert filler["past"] == "big"
    assert granted(capacity, [*running, lease(filler, first)], big, ticket("two", cpu=1)) == {}, "one place is big's"


def test_a_filler_takes_what_is_free_and_the_first_what_becomes_so() -> None:
    big = ticket("big", ("", 2), waited_s=60.0)
    running = [{"id": "r", "gpus": ["GPU-2", "GPU-3"]}, {"id": "s", "gpus": ["GPU-1"]}]
    assert granted(host(*[T4] * 4), running, big, ticket("one", ("", 1))) == {"one": ["GPU-0"]}


def test_a_filler_takes_what_the_first_cannot_use() -> None:
    big = ticket("big", ("A100", 1), waited_s=60.0)
    capacity = host(A100, T4)
    assert granted(capacity, [{"gpus": ["GPU-0"]}], big, ticket("any", ("", 1))) == {"any": ["GPU-1"]}


def test_the_smallest_gpu_that_does_is_given_and_rows_stay_whole() -> None:
    assert granted(host(A100, T4), [], ticket("j", ("", 1))) == {"j": ["GPU-1"]}
    assert granted(host(A100, T4), [], ticket("j", ("V100", 1), ("A100", 1))) == {"j": ["GPU-0"]}
    capacity = host(*[T4] * 6)
    assert granted(capacity, [{"gpus": ["GPU-3"]}], ticket("j", ("", 2))) == {"j": ["GPU-4", "GPU-5"]}
    assert granted(capacity, [{"gpus": ["GPU-1"]}], ticket("j", ("", 1))) == {"j": ["GPU-0"]}
    assert granted(host(A100, T4, T4), [], ticket("j", ("", 2))) == {"j": ["GPU-1", "GPU-2"]}


def test_gpus_of_outsiders_and_split_ones_are_not_given_out() -> None:
    capacity = host(T4, T4)
    capacity["gpus"][0]["outsiders"] = [{"pid": 7, "user": "bob", "memory_bytes": GB}]
    capacity["gpus"][1]["mig"] = True
    (found,) = decide(capacity, [], [ticket("j", ("", 1))])
    assert (found["granted"], found["position"]) == (False, 0)
    assert found["why"] == "needs 1 GPU; processes without a lease use GPU 0"
    (found,) = decide(host(T4), [], [ticket("j", ("", 1))], outsiders=["GPU-0"])
    assert not found["granted"]


def test_what_a_host_can_never_give_is_not_in_its_line() -> None:
    (found,) = decide(host(T4), [], [ticket("j", ("A100", 1))])
    assert (found["position"], found["why"]) == (0, "more than is here: needs 1 GPU A100, has 1 Tesla T4")
    (found,) = decide(host(), [], [ticket("j", cpu=9.0)])
    assert (found["position"], found["why"]) == (0, "more than is here: needs 9 cores, 8 of 8 free")
    assert granted(host(T4), [{"gpus": ["GPU-0"]}], ticket("big", ("", 9), waited_s=99.0), ticket("small")) == {
        "small": []
    }


def test_a_declared_capacity_narrows_the_host_for_its_own_jobs() -> None:
    within = {"cpu": 2, "gpus": [1, "GPU-2"], "slots": 2}
    capacity = host(*[T4] * 4)
    assert granted(capacity, [], ticket("j", ("", 2), within=within)) == {"j": ["GPU-1", "GPU-2"]}
    assert granted(capacity, [], ticket("j", ("", 3), within=within)) == {}
    assert granted(capacity, [{"cpu": 1}], ticket("j", cpu=1.5, within=within)) == {}
    assert granted(capacity, [{}, {}], ticket("j", within=within)) == {}
    assert granted(capacity, [{}], ticket("j", within=within)) == {"j": []}
    assert granted(capacity, [], ticket("j", cpu=9, within={"cpu": 99})) == {}, "what is declared too much is not there"


def test_an_owner_over_its_quota_waits_outside_of_the_line() -> None:
    mine = {"owner": "ada", "deployment": "d", "max_gpus": 2}
    running = [{"gpus": ["GPU-0"], "owner": "ada", "deployment": "d"}]
    capacity = host(*[T4] * 4)
    found = decide(capacity, running, [ticket("j", ("", 2), **mine), ticket("k", ("", 3))])
    assert (found[0]["position"], found[0]["why"]) == (0, "its owner ada holds 1 of the 2 GPUs that it may")
    assert found[1]["granted"]
    assert granted(capacity, running, ticket("j", ("", 2), ("", 1), **mine)) == {"j": ["GPU-1"]}
    # What the quota leaves of it this host does not have: it must not keep anything free here.
    (found,) = decide(capacity, [], [ticket("j", ("T4", 3), ("A100", 1), **mine)])
    assert (found["position"], found["why"]) == (0, "more than is here: needs 1 GPU A100, has 4 Tesla T4")
    both = [ticket("a", ("", 1), **mine), ticket("b", ("", 1), **mine)]
    assert len(granted(capacity, running, *both)) == 1


def test_a_ticket_that_nobody_takes_lets_others_pass() -> None:
    dead = ticket("dead", ("", 1), waited_s=99.0, stalled=True)
    assert granted(host(T4), [], dead, ticket("j", ("", 1))) == {"j": ["GPU-0"]}


def test_a_job_that_has_two_tickets_is_granted_once() -> None:
    """Of a waiter that has just died, and of the one that goes on with its wait."""
    found = decide(host(T4, T4), [], [ticket("j", ("", 1), waited_s=8.0), ticket("j", ("", 1), waited_s=9.0)])
    assert [(each["granted"], each["position"]) for each in found] == [(False, 0), (True, 0)]
    assert found[0]["why"] == "the same job has another ticket here"


def test_nobody_gets_further_by_an_age_beyond_a_month() -> None:
    liar, honest = ticket("z", ("", 1), waited_s=1e15), ticket("a", ("", 1), waited_s=31 * 86400.0)
    assert granted(host(T4), [], liar, honest) == {"a": ["GPU-0"]}


@pytest.mark.parametrize(
    ("wanted", "model", "same"),
    [
        ("A100", "NVIDIA A100-SXM4-80GB", True),
        ("a100-80gb", "NVIDIA A100-SXM4-80GB", True),
        ("A10", "NVIDIA A100-SXM4-80GB", False),
        ("A100", "NVIDIA A10", False),
        ("rtx4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("nvidia-tesla-v100", "Tesla V100-SXM2-16GB", True),
        ("MI300X", "AMD Instinct MI300X", True),
        ("H200", "NVIDIA H200", True),
        ("", "anything", True),
        ("NVIDIA", "Tesla T4", True),
        ("4000", "NVIDIA RTX A4000", False),
    ],
)
def test_names_of_gpus(wanted: str, model: str, same: bool) -> None:
    assert gpu_names.is_model(wanted, model) is same


# -- properties --------------------------------------------------------------------------------------------------------

MODELS = st.sampled_from([A100, T4, ("NVIDIA L4", 23 * GB)])
HOSTS = st.builds(
    lambda models, cpu, memory, slots: host(*models, cpu=cpu, memory=memory, slots=slots),
    st.lists(MODELS, max_size=8),
    st.one_of(st.none(), st.integers(1, 16)),
    st.one_of(st.none(), st.integers(1, 64).map(lambda n: n * GB)),
    st.one_of(st.none(), st.integers(1, 6)),
)
WISHES = st.lists(st.tuples(st.sampled_from(["", "A100", "T4", "L4"]), st.integers(1, 5)), max_size=2)
TICKETS = st.lists(
    st.builds(
        lambda wishes, **facts: ticket("", *wishes, **facts),
        WISHES,
        cpu=st.sampled_from([0, 0.5, 1, 4]),
        memory=st.sampled_from([0, GB, 16 * GB]),
        priority=st.sampled_from(PRIORITIES),
        waited_s=st.sampled_from([0.0, 1.0, 2.0, 1e5]),
        reserves=st.booleans(),
    ),
    max_size=8,
).map(lambda line: [{**each, "uid": f"u{i}"} for i, each in enumerate(line)])


def fill(capacity: dict[str, Any], leases: list[dict[str, Any]], line: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Who is granted something takes it, all at once; the others go on waiting."""
    verdicts = decide(capacity, leases, line)
    leases += [lease(found, each) for found, each in zip(verdicts, line, strict=True) if found["granted"]]
    return [each for found, each in zip(verdicts, line, strict=True) if not found["granted"]]


def assert_never_more_than_there_is(capacity: dict[str, Any], leases: list[dict[str, Any]]) -> None:
    given_out = [uuid for each in leases for uuid in each["gpus"]]
    assert len(given_out) == len(set(given_out))
    assert set(given_out) <= {gpu["uuid"] for gpu in capacity["gpus"]}
    for name in ("cpu", "memory"):
        assert capacity[name] is None or sum(each[name] for each in leases) <= capacity[name] + 1e-6
    assert capacity["slots"] is None or len(leases) <= capacity["slots"]


@given(HOSTS, st.lists(TICKETS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_never_more_than_there_is_and_all_are_served_in_the_end(
    capacity: dict[str, Any], waves: list[list[dict[str, Any]]], chance: random.Random
) -> None:
    leases: list[dict[str, Any]] = []
    line: list[dict[str, Any]] = []
    for number, wave in enumerate(waves):
        line += [{**each, "uid": f"{number}-{each['uid']}"} for each in wave]
        line = fill(capacity, leases, line)
        assert_never_more_than_there_is(capacity, leases)
        leases = [each for each in leases if chance.random() < 0.6]
    for _ in range(len(line) + 1):
        leases.clear()
        line = fill(capacity, leases, line)
    assert all(found["why"].startswith("more than is here") for found in decide(capacity, [], line))


@given(HOSTS, TICKETS, TICKETS)
def test_the_first_gets_what_fits_and_none_like_it_passes_it(
    capacity: dict[str, Any], before: list[dict[str, Any]], line: list[dict[str, Any]]
) -> None:
    leases: list[dict[str, Any]] = []
    fill(capacity, leases, [{**each, "uid": f"r-{each['uid']}"} for each in before])
    verdicts = decide(capacity, leases, line)
    order = sorted(
        (PRIORITIES.index(each["priority"]), -each["waited_s"], each["uid"], at) for at, each in enumerate(line)
    )
    refused: list[dict[str, Any]] = []
    for *_, at in order:
        demand = line[at]["demand"]
        if verdicts[at]["granted"]:
            assert demand not in [each["demand"] for each in refused]
        else:
            refused.append(line[at])
    alone = [decide(capacity, leases, [each])[0]["granted"] for each in line]
    first = next((at for *_, at in order if verdicts[at]["position"] or verdicts[at]["granted"]), None)
    assert first is None or verdicts[first]["granted"] == alone[first]


@given(HOSTS, TICKETS, TICKETS, st.lists(TICKETS, max_size=4), st.randoms(use_true_random=False))
def test_the_first_starts_once_those_before_it_have_ended_whatever_arrives(
    capacity: dict[str, Any],
    before: list[dict[str, Any]],
    head: list[dict[str, Any]],
    waves: list[list[dict[str, Any]]],
    chance: random.Random,
) -> None:
    leases: list[dict[str, Any]] = []
    fill(capacity, leases, [{**each, "uid": f"r-{each['uid']}"} for each in before])
    old = {each["id"] for each in leases}
    for first in head:
        first = {**first, "uid": "first", "priority": "high", "waited_s": 1e6, "reserves": True}
        if decide(capacity, leases, [first])[0]["position"] != 1:
            continue
        line = [first]
        for number, wave in enumerate(waves):
            line = fill(capacity, leases, line + [{**each, "uid": f"{number}-{each['uid']}"} for each in wave])
            if first not in line:
                return
            ended = chance.sample(sorted(old), k=min(len(old), 1))
            leases = [each for each in leases if each["id"] not in ended]
            old -= set(ended)
        # Fillers stay for ever; only those that ran before it end.
        leases = [each for each in leases if each["id"] not in old]
        assert decide(capacity, leases, line)[line.index(first)]["granted"]
        return


NONSENSE = st.one_of(
    st.none(),
    st.text(max_size=5),
    st.floats(allow_nan=True, allow_infinity=True).filter(lambda number: not 0 <= number <= 1e18),
    st.just({}),
    st.just(True),
    st.integers(max_value=-1),
    st.just(10**400),
    st.lists(st.just(float("nan")), min_size=1, max_size=2),
)


@st.composite
def hostile_tickets(draw: st.DrawFn) -> Any:
    """A ticket with something in it that no honest one has."""
    shape = draw(st.sampled_from(["other", "field", "demand", "gpu", "huge"]))
    good = ticket("evil", ("", 1), cpu=1, priority="high", waited_s=1e9)
    if shape == "other":
        return draw(NONSENSE)
    if shape == "field":
        good[draw(st.sampled_from(["waited_s", "demand", "uid", "priority"]))] = draw(NONSENSE.filter(bool))
        good["uid"] = "" if good["uid"] and isinstance(good["uid"], str) and good["uid"] != "evil" else good["uid"]
        good["demand"] = good["demand"] if good["demand"] else None
    elif shape == "demand":
        good["demand"][draw(st.sampled_from(["cpu", "memory", "disk"]))] = draw(
            NONSENSE.filter(lambda v: v is not None)
        )
        good["demand"] = copy.deepcopy(good["demand"])
    elif shape == "gpu":
        good["demand"]["gpus"] = [{"type": "", "count": draw(NONSENSE.filter(lambda v: v is not None))}]
    else:
        good["demand"] = {"cpu": 1e17, "gpus": [{"count": 1000}]}
    return good


@given(HOSTS, TICKETS, TICKETS, st.lists(hostile_tickets(), min_size=1, max_size=4))
def test_hostile_tickets_change_nothing_for_others(
    capacity: dict[str, Any], before: list[dict[str, Any]], line: list[dict[str, Any]], lies: list[Any]
) -> None:
    capacity["cpu"] = capacity["cpu"] or 8.0
    leases: list[dict[str, Any]] = []
    fill(capacity, leases, [{**each, "uid": f"r-{each['uid']}"} for each in before])
    found = decide(capacity, leases, [*lies, *line])
    assert found[len(lies) :] == decide(capacity, leases, line)
    assert not any(each["granted"] for each in found[: len(lies)])


@given(
    HOSTS,
    TICKETS,
    st.lists(
        st.fixed_dictionaries({}, optional=dict.fromkeys(("cpu", "memory", "disk", "gpus", "past", "owner"), NONSENSE))
    ),
)
def test_leases_that_lie_give_nothing_away(
    capacity: dict[str, Any], line: list[dict[str, Any]], lies: list[dict[str, Any]]
) -> None:
    capacity["slots"] = None
    without = decide(capacity, [], line)
    found = decide(capacity, lies, line)
    assert [each["granted"] for each in found] == [each["granted"] for each in without]


@given(NONSENSE)
def test_nonsense_is_no_demand(value: Any) -> None:
    if value not in ({}, [], ()):
        assert fitting.read_demand(value) is None
        assert fitting.read_demand({"gpus": [{"count": value}]}) is None
