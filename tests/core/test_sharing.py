"""One machine, seen through pools of two kinds or twice in one."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_jobdeploy.core.leases import Room
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.sharing import Seen, kernel_of, shared, twice
from airflow_jobdeploy.core.standing import WorkerView

BOOT = "8b6b4513-3a7c-45ea-9d29-1830361714a0"
ENGINES = WorkerPool(name="engines", kind="docker")
HOSTS = WorkerPool(name="hosts", kind="ssh")


def view(name: str, *gpus: str, **facts: Any) -> WorkerView:
    capacity = {"gpus": [{"index": index, "uuid": uuid} for index, uuid in enumerate(gpus)]}
    return WorkerView(name=name, room=Room(capacity=capacity), **facts)


def test_a_gpu_that_hosts_and_engines_have_is_an_error_of_both_pools() -> None:
    seen = [Seen(HOSTS, view("gpu-a", "GPU-1", "GPU-2")), Seen(ENGINES, view("tcp://gpu-a:1", "GPU-2", "GPU-3"))]
    (problem,) = shared(seen)
    assert str(problem).startswith("worker pools 'engines' and 'hosts': GPU GPU-2 is that of worker 'gpu-a' of pool")
    assert "and that of worker 'tcp://gpu-a:1' of pool 'engines'" in str(problem)
    assert shared([seen[0], Seen(WorkerPool(name="b", kind="ssh"), view("gpu-b", "GPU-1"))]) == []
    local = WorkerPool.local()
    assert "'engines' and 'local': GPU GPU-2" in str(shared([Seen(local, view("local", "GPU-2")), seen[1]])[0])


def test_gpus_that_a_pool_leaves_out_are_not_its() -> None:
    host = view("gpu-a", "GPU-1", "GPU-2", within={"gpus": ["0"]})
    assert shared([Seen(HOSTS, host), Seen(ENGINES, view("e", "GPU-2"))]) == []
    assert shared([Seen(HOSTS, host), Seen(ENGINES, view("e", "GPU-1"))]) != []
    assert shared([Seen(HOSTS, WorkerView(name="silent")), Seen(ENGINES, view("e", "GPU-1"))]) == []


def test_a_machine_is_a_host_or_an_engine_but_local_is_always_there() -> None:
    engine = Seen(ENGINES, view("e", kernel=BOOT))
    (problem,) = shared([engine, Seen(HOSTS, view("h", kernel=BOOT)), Seen(HOSTS, view("other", kernel="b" * 36))])
    assert "worker 'h' of pool 'hosts' and worker 'e' of pool 'engines' are the same machine" in str(problem)
    assert shared([engine, Seen(WorkerPool.local(), view("local", kernel=BOOT))]) == []
    assert shared([Seen(ENGINES, view("e")), Seen(HOSTS, view("h"))]) == []


@pytest.mark.parametrize(
    ("boot", "told", "expected"),
    [
        (f"{BOOT}-4026531836-12", "", BOOT),
        (f"{BOOT}-4026532999-12", "", ""),
        (f"{BOOT}-0-0", "", ""),
        ("", BOOT, BOOT),
        ("", "", ""),
        ("unknown-4026531836-0", "", ""),
    ],
)
def test_containers_share_a_kernel_and_are_no_machine(boot: str, told: str, expected: str) -> None:
    assert kernel_of(boot, told) == expected


def test_two_names_of_one_machine_in_a_pool() -> None:
    views = [view("a", machine="m1"), view("b", machine="m2"), view("c", machine="m1"), view("d"), view("e")]
    (problem,) = twice(HOSTS, views)
    assert str(problem).startswith("worker pool 'hosts': workers: 'a' and 'c' are the same machine (m1)")
