"""Resources, owners, and the end of records: what stays on the worker between jobs."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.core.plan import Limits, ResourcePlan, Step, new_resource_id
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerError
from tests.contract.labs import Lab
from tests.contract.steps import launch, log, outcome, wait_ready

# -- resources ------------------------------------------------------------------------------------------------------


def resource(lab: Lab, **builds: Step) -> ResourcePlan:
    steps = {name: (Step(name=name, kind=step.kind, content=step.content),) for name, step in builds.items()}
    return ResourcePlan(
        id=new_resource_id(), template="t.yaml", digest="d", subdir="t-1", project="p", params={"n": 1}, builds=steps
    )


def test_a_resource_keeps_its_builds_on_the_worker(lab: Lab) -> None:
    made = resource(lab, up=lab.words.say("up"), down=lab.words.say("down"), watch=lab.words.say("watching"))
    backend = lab.backend()
    up = lab.plan(build="up", resource_id=made.id, resource=made, leftovers="wait")
    assert outcome(backend, launch(backend, up)).status is JobStatus.SUCCEEDED
    other = lab.backend()
    record = other.resource(made.id)
    assert record is not None
    assert (record["params"], record["digest"]) == ({"n": 1}, "d")
    watch = launch(other, lab.plan(build="watch", resource_id=made.id))
    assert outcome(other, watch).status is JobStatus.SUCCEEDED
    assert log(other, watch) == b"watching"
    assert other.resource("nosuch") is None


def test_down_ends_an_up_that_still_runs(lab: Lab) -> None:
    made = resource(lab, up=lab.words.block(), down=lab.words.say("down"))
    backend = lab.backend()
    up = launch(backend, lab.plan(build="up", resource_id=made.id, resource=made, limits=Limits(grace_s=1)))
    wait_ready(backend, up)
    down = launch(backend, lab.plan(build="down", resource_id=made.id, limits=Limits(grace_s=1)))
    assert outcome(backend, down).status is JobStatus.SUCCEEDED
    ended = outcome(backend, up)
    assert ended.status is JobStatus.CANCELLED
    assert "taken down" in ended.message
    record = backend.resource(made.id)
    assert record is not None
    assert record["stopped"]


# -- the rest of a job's life ---------------------------------------------------------------------------------------


def test_an_owner_can_be_changed(lab: Lab) -> None:
    backend = lab.backend()
    plan = lab.plan(lab.words.say("x"), owner="task")
    backend.claim(plan)
    backend.set_owner(plan.job_id, "none")
    [record] = lab.backend().jobs()
    assert record["plan"]["owner"] == "none"


def test_forget_removes_ended_jobs_only(lab: Lab) -> None:
    backend = lab.backend()
    ended, live = (launch(backend, lab.plan(step)) for step in (lab.words.say("x"), lab.words.block()))
    outcome(backend, ended)
    wait_ready(backend, live)
    with pytest.raises(WorkerError, match=live):
        backend.forget(live)
    backend.forget(ended)
    assert backend.poll([ended])[ended].reason == "RecordMissing"
    assert [job["state"]["job_id"] for job in backend.jobs()] == [live]
