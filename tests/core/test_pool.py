"""Worker pools."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_jobdeploy.core.pool import Storage, Worker, WorkerPool, load_pool
from airflow_jobdeploy.errors import PoolError


def pool(**fields: Any) -> WorkerPool:
    return load_pool({"kind": "ssh", "workers": [{"conn_id": "a"}], **fields}, name="lab")


def hosts(text: str) -> list[str]:
    return [worker.host for worker in pool(workers=[{"conn_id": "c", "hosts": text}]).workers]


def test_the_pool_of_the_design(write: Callable[..., None]) -> None:
    write(
        lab="""\
kind: ssh
workers: [{conn_id: gpu-a}, {conn_id: gpu-b, slots: 2}, {conn_id: cluster, hosts: "gpu[01-60]"}]
root: ~/.jobdeploy
storage: {root: /srv/jobdeploy, shared: true}
presets: {small: {cpu: 4, memory: 16GB}}
"""
    )
    found = load_pool("lab.yaml")
    assert (found.name, found.kind, found.root) == ("lab", "ssh", "~/.jobdeploy")
    assert found.workers[:3] == (
        Worker(conn_id="gpu-a"),
        Worker(conn_id="gpu-b", slots=2),
        Worker(conn_id="cluster", host="gpu01"),
    )
    assert len(found.workers) == 62
    assert found.worker("gpu60") == found.workers[-1]
    assert found.worker("gpu61") is None
    assert found.storage == Storage(root="/srv/jobdeploy", shared=True)
    assert found.presets["small"].memory_bytes == 16 << 30
    assert json.loads(json.dumps(found.to_dict()))["workers"][1]["slots"] == 2


def test_pools_of_one() -> None:
    assert WorkerPool.local().workers == (Worker(),)
    assert WorkerPool.local().workers[0].name == "local"
    assert WorkerPool.of_connection("gpu-a", root="/srv/jd").workers == (Worker(conn_id="gpu-a"),)
    assert load_pool({"kind": "local"}, name="here").workers == (Worker(),)
    assert load_pool({"kind": "local", "workers": [{"slots": 2}]}).workers == (Worker(slots=2),)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpu[01-03]", ["gpu01", "gpu02", "gpu03"]),
        ("gpu[9-11]", ["gpu9", "gpu10", "gpu11"]),
        ("a[1,3-4]b", ["a1b", "a3b", "a4b"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("10.0.0.[1-2]", ["10.0.0.1", "10.0.0.2"]),
        ("one", ["one"]),
        ("fe80::[1-2]", ["fe80::1", "fe80::2"]),
    ],
)
def test_host_ranges(text: str, found: list[str]) -> None:
    assert hosts(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "a[3-1]", "a[]", "a[x]", "a[1-", "a]1[", "a[1-99999]", "a[1-100][1-100]", "[1-2]; rm -rf", "-oProxyCommand=x",
        "a b", "[[1-2]]", "a[1-2]\n", "a[٣]", "[0-1]" * 40,
    ],
)  # fmt: skip
def test_what_is_no_host_range(text: str) -> None:
    with pytest.raises(PoolError):
        hosts(text)


def test_huge_pools_are_refused_at_once() -> None:
    with pytest.raises(PoolError) as caught:
        pool(workers=[{"conn_id": f"a{n}", "hosts": "b[1-1000]"} for n in range(4000)])
    assert len(caught.value.problems) < 5


def test_engines_may_have_names_of_their_own() -> None:
    found = pool(kind="docker", workers=[{"url": "tcp://10.0.0.7:2376", "name": "gpu-a"}, {"url": "ssh://b"}])
    assert [(worker.name, worker.url) for worker in found.workers] == [
        ("gpu-a", "tcp://10.0.0.7:2376"),
        ("ssh://b", "ssh://b"),
    ]
    assert found.worker("gpu-a") is found.workers[0]
    assert found.workers[0].all_labels["worker"] == "gpu-a"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"kind": "docker", "workers": []}, "a docker pool needs workers"),
        ({"kind": "docker", "workers": [{"conn_id": "a"}]}, "a worker of a docker pool has no 'conn_id'"),
        ({"kind": "docker", "workers": [{"slots": 1}]}, "the worker has no url"),
        ({"kind": "docker", "workers": [{"url": "/var/run/docker.sock"}]}, "is not the URL of an engine"),
        ({"kind": "docker", "workers": [{"url": "unix://docker.sock"}]}, "must be absolute"),
        ({"kind": "docker", "workers": [{"url": "tcp://a"}]}, "the port is missing"),
        ({"kind": "docker", "workers": [{"url": "tcp://:2376"}]}, "names no host"),
        ({"kind": "docker", "workers": [{"url": "ssh://-oProxyCommand=x"}]}, "names no host"),
        ({"kind": "docker", "workers": [{"url": "ssh://me:pw@a"}]}, "a password must not stand in a URL"),
        ({"kind": "docker", "workers": [{"url": "ssh://a"}, {"url": "ssh://a"}]}, "listed twice"),
        (
            {"kind": "docker", "workers": [{"url": "ssh://a", "name": "x"}, {"url": "ssh://b", "name": "x"}]},
            "listed twice",
        ),
        ({"kind": "docker", "workers": [{"url": "ssh://a", "name": "b/../c"}]}, "does not match"),
        ({"kind": "docker", "workers": [{"url": "ssh://a"}], "root": "/srv"}, "a docker pool has no 'root'"),
        (
            {"kind": "docker", "workers": [{"url": "ssh://a", "tls": {"ca_cert": "x"}}]},
            "only engines on tcp:// have TLS",
        ),
        ({"kind": "docker", "workers": [{"url": "tcp://a:1", "tls": {"client_key": "x"}}]}, "go together"),
        ({"kind": "docker", "workers": [{"url": "ssh://a"}], "image": "Python"}, "has no capital letters"),
        ({"image": "python"}, "only a docker pool has 'image'"),
        ({"workers": [{"conn_id": "a", "url": "ssh://a"}]}, "a worker of an ssh pool has no 'url'"),
        ({"kind": "slurm"}, "pools of kind slurm come in a later release"),
        ({"kind": "shh"}, "Did you mean 'ssh'?"),
        ({"kind": None}, "a worker pool needs 'kind'"),
        ({"workers": []}, "an ssh pool needs workers"),
        ({"workers": [{"host": "x"}]}, "the worker has no conn_id"),
        ({"workers": [{"conn_id": "a", "slots": 0}]}, "0 is less than 1"),
        (
            {"workers": [{"conn_id": "a", "name": "x"}]},
            "has no 'name'. Hosts are called as they, or",
        ),
        ({"kind": "local", "workers": [{"devices": ["/dev/nvidia0"]}]}, "a local pool is this machine only"),
        ({"workers": [{"conn_id": "a"}, {"conn_id": "a"}]}, "listed twice"),
        ({"workers": [{"conn_id": "a", "host": "x", "hosts": "y"}]}, "host and hosts are both given"),
        ({"workers": "a"}, "expected a list of workers"),
        ({"kind": "local", "workers": [{"conn_id": "a"}]}, "a local pool is this machine only"),
        ({"root": "jobs"}, "not a folder of its own"),
        ({"root": "/"}, "not a folder of its own"),
        ({"root": "~/"}, "not a folder of its own"),
        ({"root": "/srv/../etc"}, "not a folder of its own"),
        ({"storage": {"shared": True}}, "needs 'root'"),
        ({"presets": {"a": {"cpu": 0}}}, "not more than 0"),
        ({"preset": {}}, "Did you mean 'presets'?"),
    ],
)
def test_wrong_pools(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(PoolError) as caught:
        pool(**fields)
    assert said in str(caught.value)
