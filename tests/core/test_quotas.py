"""Quotas over several workers: in whatever order they grant and are looked at, no more is kept than may be."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from airflow_jobdeploy.core.leases import hashed
from airflow_jobdeploy.core.quotas import Count, Judgement, Left, judge

ADA = Count(kind="owner", name="ada", most=4, deployment="d")
TEAM = Count(kind="team", name="vision", most=6, deployment="d")


def lease(uid: str, gpus: int, *, owner: str = "ada", team: str = "", job: str = "", **more: Any) -> dict[str, Any]:
    names = {"who": hashed("who", uid), "deployment": hashed("deployment", "d")}
    whose = {"owner": hashed("owner", owner), "team": hashed("team", team)}
    return {**names, **whose, "job": job, "gpus": [f"{uid}-{number}" for number in range(gpus)], **more}


# -- what is left ------------------------------------------------------------------------------------------------------


def test_an_owner_and_a_team_are_counted_beside_each_other() -> None:
    leases = {
        "a": [lease("1", 2, team="vision", job="j1"), lease("2", 1, owner="bob", team="vision")],
        "b": [lease("3", 1), lease("4", 7, owner="eve")],
    }
    left = Left(counts=(ADA, TEAM), leases=leases)
    assert left.bounds("a") == {"max_gpus": 3, "team_max_gpus": 6}
    assert left.bounds("b") == {"max_gpus": 2, "team_max_gpus": 3}
    assert left.allows(1)
    assert left.why_not(2) == "its owner ada holds 3 of the 4 GPUs that it may"
    assert left.why_not(1) == ""
    assert left.never([7, 5]) == "its owner ada may hold 4 GPUs of this pool"


def test_what_another_account_says_of_itself_uses_up_nobody_s_quota() -> None:
    held = {"a": [lease("1", 4, ours=False)]}
    assert Left(counts=(ADA,), leases=held).allows(4)


# -- who gives way -----------------------------------------------------------------------------------------------------


def judged(uid: str, **leases: list[dict[str, Any]]) -> str:
    return judge(uid, next(name for name, held in leases.items() if _has(held, uid)), [ADA], leases).value


def _has(held: list[dict[str, Any]], uid: str) -> bool:
    return any(each["who"] == hashed("who", uid) for each in held)


@pytest.mark.parametrize(
    ("mine", "other", "said"),
    [
        ({}, {"job": "j1"}, "give way"),
        ({"waited_s": 9}, {"waited_s": 3}, "look again"),
        ({"waited_s": 3}, {"waited_s": 9}, "give way"),
        ({"waited_s": 3, "priority": "high"}, {"waited_s": 9, "priority": "normal"}, "look again"),
        ({"waited_s": 3}, {"waited_s": 9, "owner": "bob"}, "keep"),
    ],
)
def test_of_two_that_are_too_much_the_later_in_the_line_gives_way(mine: Any, other: Any, said: str) -> None:
    assert judged("1", a=[lease("1", 3, **mine)], b=[lease("2", 3, **other)]) == said


def test_what_was_granted_twice_to_the_same_job_is_no_rival_and_what_is_gone_is_not_kept() -> None:
    assert judge("1", "a", [ADA], {"a": [lease("1", 3)], "b": [lease("1", 3)]}) is Judgement.KEEP
    assert judge("1", "a", [ADA], {"a": [], "b": [lease("1", 3)]}) is Judgement.GIVE_WAY
    assert judge("1", "a", [ADA], {"a": [lease("1", 3, job="j1")]}) is Judgement.GIVE_WAY, "a job has it already"


@dataclass
class Waiter:
    """A job on its way: waits, was granted something, looks at one worker after the other, keeps it, has ended."""

    uid: str
    gpus: int
    since: int
    worker: str = ""
    to_look_at: list[str] = field(default_factory=list)
    seen: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    patience: int = 0
    is_kept: bool = False
    is_done: bool = False


class World:
    """Waiters of one owner on some workers; each step is one that nothing else can come between."""

    def __init__(self, chance: Random) -> None:
        self.chance = chance
        self.now = 0
        self.workers: dict[str, list[dict[str, Any]]] = {name: [] for name in "abcd"[: chance.randint(2, 4)]}
        self.waiters = [Waiter(str(number), chance.randint(1, 4), 0) for number in range(chance.randint(2, 7))]

    def step(self) -> None:
        self.now += 1
        waiter = self.chance.choice([each for each in self.waiters if not each.is_done])
        if not waiter.worker:
            self.grant(waiter)
        elif waiter.is_kept:
            self.go_on(waiter)
        elif waiter.to_look_at:
            name = waiter.to_look_at.pop()
            waiter.seen[name] = list(self.workers[name])
        else:
            self.decide(waiter)
        kept = sum(each.gpus for each in self.waiters if each.is_kept and not each.is_done)
        assert kept <= ADA.most, "more is kept than may be"

    def grant(self, waiter: Waiter) -> None:
        """The worker bounds what is held on itself, by what the waiter has seen of the others."""
        name = self.chance.choice(list(self.workers))
        there = self.workers[name]
        most = Left(counts=(ADA,), leases=waiter.seen).bounds(name)["max_gpus"]
        if ADA.held(there) + waiter.gpus <= most:
            there.append(lease(waiter.uid, waiter.gpus, waited_s=self.now - waiter.since))
            waiter.worker, waiter.patience = name, 3
        self.begin_look(waiter)

    def begin_look(self, waiter: Waiter) -> None:
        names = list(self.workers)
        self.chance.shuffle(names)
        if waiter.worker:
            waiter.to_look_at = names
        else:
            waiter.seen = {name: list(held) for name, held in self.workers.items()}

    def decide(self, waiter: Waiter) -> None:
        found = judge(waiter.uid, waiter.worker, [ADA], waiter.seen)
        waiter.patience -= 1
        if found is Judgement.KEEP:
            waiter.is_kept = True
        elif found is Judgement.GIVE_WAY or not waiter.patience:
            self.remove(waiter)
        else:
            self.begin_look(waiter)

    def go_on(self, waiter: Waiter) -> None:
        """Its job claims the lease, or ends."""
        (own,) = [each for each in self.workers[waiter.worker] if each["who"] == hashed("who", waiter.uid)]
        if own["job"]:
            self.remove(waiter)
            waiter.is_done = True
        else:
            own["job"] = f"j{waiter.uid}"

    def remove(self, waiter: Waiter) -> None:
        there = self.workers[waiter.worker]
        there[:] = [each for each in there if each["who"] != hashed("who", waiter.uid)]
        waiter.worker = ""


@pytest.mark.parametrize("seed", range(60))
def test_no_more_is_kept_than_may_be_and_everybody_comes_to_it(seed: int) -> None:
    world = World(Random(seed))
    for _ in range(5000):
        world.step()
        if all(waiter.is_done for waiter in world.waiters):
            break
    assert all(waiter.is_done for waiter in world.waiters), "somebody never got its GPUs"
