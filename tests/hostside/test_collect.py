"""Old jobs go after their own keep_for; active ones, those of standing resources and foreign ones never."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from airflow_jobdeploy.hostside.collect import EVERY_S, collect
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.faults.processes import eventually
from tests.hostside.client import Serve, plan, shell
from tests.hostside.conftest import Open
from tests.hostside.test_resources import Template

NOW = {"keep_for_s": 0.0}
#: A session notes that it is time to collect, and nobody does: it may be late, and then takes what a test counts.
ALONE = "from airflow_jobdeploy.hostside import collect; collect._apart = lambda work: None"


@pytest.fixture
def serve(connect: Open) -> Serve:
    return connect(prelude=ALONE)


def ended(serve: Serve, text: str = "true", limits: dict[str, float] = NOW) -> str:
    job: str = serve.run(shell(text, limits=limits))["job_id"]
    return job


def collected(host: HostPaths, count: int) -> None:
    """Collect until so many are gone: a supervisor holds its lock for a moment after its exit record is there."""
    until = time.monotonic() + 20
    while count > 0:
        assert time.monotonic() < until
        count -= collect(host)
    assert count == 0


def test_an_ended_job_goes_and_its_checkpoint_with_the_last_attempt(serve: Serve, host: HostPaths) -> None:
    first = shell('touch "$JOBDEPLOY_CHECKPOINT_DIR/x"; exit 1', limits=NOW)
    serve.run(first)
    second = shell("sleep 60", uid=first.uid, attempt=2, limits=NOW)
    serve.launch(second)
    collected(host, 1)
    assert os.path.exists(host.checkpoint(first.uid) + "/x")
    serve.stop(second.job_id, reason="over", grace_s=0)
    serve.end(second.job_id)
    collected(host, 1)
    assert not os.path.exists(host.uid(first.uid))
    assert os.listdir(host.jobs) == []


def test_a_job_that_says_nothing_is_kept_for_a_week(serve: Serve, host: HostPaths) -> None:
    path = Path(host.job(serve.run(shell("true"))["job_id"]).exit)
    record = json.loads(path.read_text())
    at_s, wall_s, boot = record["ended"]

    def age(days: float) -> None:
        path.write_text(json.dumps({**record, "ended": [at_s - days * 86400, wall_s - days * 86400, boot]}))

    age(6.9)
    assert collect(host) == 0
    age(7.1)
    collected(host, 1)


def test_what_is_kept_for_longer_or_runs_or_waits_stays(serve: Serve, host: HostPaths) -> None:
    ended(serve, limits={"keep_for_s": 3600.0})
    serve.launch(shell("sleep 60", limits=NOW))
    serve.claim(shell("true", limits=NOW))
    assert collect(host) == 0
    assert len(os.listdir(host.jobs)) == 3


def test_a_resource_keeps_its_jobs_until_it_was_taken_down(serve: Serve, host: HostPaths) -> None:
    template = Template(limits=NOW)
    serve.launch(template.up)
    serve.stop(template.up.job_id, reason="over", grace_s=0)
    serve.end(template.up.job_id)
    assert collect(host) == 0
    serve.run(plan(build="down", resource_id=template.id, limits=NOW))
    collected(host, 2)
    assert not os.path.exists(host.resource(template.id).dir)


def test_a_newer_layout_and_a_damaged_record_are_not_ours_to_remove(serve: Serve, host: HostPaths) -> None:
    newer, damaged = ended(serve), ended(serve)
    path = Path(host.job(newer).plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), "layout": 99}))
    Path(host.job(damaged).plan).write_text("{")
    assert collect(host) == 0


def test_a_session_collects_once_an_hour_and_holds_nobody_up(serve: Serve, host: HostPaths, root: Path) -> None:
    job = ended(serve)
    mark = Path(host.host) / "collected"
    assert mark.exists()
    Serve(root).close()
    assert os.path.exists(host.job(job).dir), "not twice within the hour"
    old = mark.stat().st_mtime - EVERY_S - 1
    os.utime(mark, (old, old))
    Serve(root).close()
    eventually(lambda: not os.path.exists(host.job(job).dir))
