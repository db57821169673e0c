"""What goes from a host is told, by kind and why; a dry run only tells."""

from __future__ import annotations

import os
import time

from airflow_jobdeploy.hostside import evict
from airflow_jobdeploy.hostside.collect import RUNNER_S, sweep
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Serve, shell
from tests.hostside.test_collect import serve as serve  # nobody else collects

DAY_S = 86400.0


def test_a_dry_run_only_tells(serve: Serve, host: HostPaths) -> None:
    job = serve.run(shell("true", limits={"keep_for_s": 0.0}))["job_id"]
    kept = serve.run(shell("true", limits={"keep_for_s": 3600.0}))["job_id"]
    runner = os.path.join(host.runners, "0" * 16)
    os.makedirs(runner)
    os.utime(runner, (time.time() - RUNNER_S - DAY_S,) * 2)
    tree = host.store.tree("told")
    os.makedirs(tree.tree)
    with open(os.path.join(tree.tree, "f"), "wb") as file:
        file.write(b"x" * 100_000)
    with open(tree.lock, "w"):
        os.utime(tree.lock, (time.time() - DAY_S,) * 2)
    told = serve.ask("collect", dry_run=True)
    assert {item["kind"] for item in told["items"]} == {"job", "runner"}  # this session has no cache_limit
    found = {item["kind"]: item for item in sweep(host, 50_000, dry_run=True)}
    assert {kind: item["name"] for kind, item in found.items()} == {"job": job, "runner": "0" * 16, "tree": "told"}
    assert found["job"]["why"] == "ended longer ago than its keep_for"
    assert found["tree"]["bytes"] >= 100_000
    assert found["tree"]["age_s"] > evict.RECENT_S
    assert os.path.isdir(host.job(job).dir)
    until = time.monotonic() + 20
    while os.path.isdir(host.job(job).dir):  # a supervisor holds its lock for a moment after its exit record is there
        assert time.monotonic() < until
        sweep(host, 50_000)
    assert os.path.isdir(host.job(kept).dir)
    assert not os.path.isdir(runner)
    assert not os.path.isdir(tree.dir)
    assert sweep(host, 50_000) == []
