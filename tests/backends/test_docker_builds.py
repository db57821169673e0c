"""Images that are made for jobs: stopped while a step says nothing, removed by hand."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import WORK
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.core.plan import Plan, ResourcePlan, Step, new_resource_id, new_uid
from airflow_jobdeploy.core.status import JobStatus, Reason
from tests.backends.engines import backend_of, job, run
from tests.backends.engines import engine as engine
from tests.contract.steps import log, outcome
from tests.contract.trees import tree
from tests.servers.dockerd import IMAGE, Dockerd
from tests.servers.dockerd import dockerd as dockerd

pytestmark = pytest.mark.docker

UP = (Step(name="job", kind="shell", content="cat /made"),)


def of_dockerfile(lines: str) -> dict[str, Any]:
    """Options of a plan, and its project under "tree"."""
    made = tree({"Dockerfile": f"FROM {IMAGE}\nRUN {lines}\n"})
    options = {"bundle": made.manifest.name, "ships_project": True, "container": {"dockerfile": "Dockerfile"}}
    return {"tree": made, **options}


def derived(engine: Dockerd) -> list[str]:
    found = engine.client().images(filters={"label": "jobdeploy.kind=image"})
    return [str(tag) for image in found for tag in image["RepoTags"] or ()]


def test_a_stop_ends_a_step_that_says_nothing(engine: Dockerd) -> None:
    options = of_dockerfile("echo begun; sleep 100")
    project, backend, stopped = options.pop("tree"), backend_of(engine), list[float]()
    plan = job("true", **options)

    def stop() -> None:
        assert backend_of(engine).stop(plan.job_id, reason="a test").status is JobStatus.CANCELLED
        stopped.append(time.monotonic())

    timer = threading.Timer(1.0, stop)
    backend.claim(plan)
    backend.send_tree(project)
    backend.use_tree(plan.job_id, WORK, plan.bundle)
    backend.prepare(plan.job_id, lambda text: timer.start() if text == "begun" else None)
    timer.join()
    assert time.monotonic() - stopped[0] < 8.0, "two seconds, and some for a busy machine"
    assert backend.poll([plan.job_id])[plan.job_id].status is JobStatus.CANCELLED
    until = time.monotonic() + 20.0
    while engine.client().containers():  # the builder's own: the engine removes it
        assert time.monotonic() < until
        time.sleep(0.1)
    assert derived(engine) == []


def test_an_image_of_a_resource_that_somebody_removed_is_named(engine: Dockerd) -> None:
    options = of_dockerfile("echo made >/made")
    project, backend = options.pop("tree"), backend_of(engine)
    names = {"template": "t", "digest": "d", "subdir": "s", "project": "p"}
    resource = ResourcePlan(id=new_resource_id(), builds={"up": UP, "down": UP}, **names)
    up = Plan(uid=new_uid(), build="up", resource=resource, resource_id=resource.id, **options)
    backend.claim(up)
    backend.send_tree(project)
    backend.use_tree(up.job_id, WORK, up.bundle)
    backend.start(up.job_id)
    assert outcome(backend, up.job_id).status is JobStatus.SUCCEEDED
    (name,) = derived(engine)
    client = engine.client()
    client.remove_container(up.job_id)
    client.remove_image(name)
    down = run(backend, Plan(uid=new_uid(), build="down", resource_id=resource.id))
    assert (down.status, down.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert f"image {name!r}, which was made for the `up` of this resource, was removed from engine" in down.message
    assert f"docker tag IMAGE {name}" in down.message
    client.tag(IMAGE, *name.rsplit(":", 1))
    again = run(backend, Plan(uid=new_uid(), build="down", resource_id=resource.id))
    assert again.reason == Reason.EXIT_CODE, "it runs, in an image without the file"
    client.remove_image(name)


def test_what_a_secret_param_became_is_for_root_alone_and_in_nothing_that_is_shown(engine: Dockerd) -> None:
    secret = f"s3cr3t-{new_uid()}"
    read = "cat /jobdeploy/resource/builds.json"
    steps = {
        "up": (Step(name="up", kind="shell", content=f": {secret}"),),
        "down": (Step(name="down", kind="shell", content=f": {secret}; {read}"),),
    }
    names = {"template": "t", "digest": "d", "subdir": "s", "project": "p"}
    resource = ResourcePlan(id=new_resource_id(), builds=steps, **names)
    backend = backend_of(engine, security=Security(user="1000:1000"))
    up = Plan(uid=new_uid(), build="up", resource=resource, resource_id=resource.id)
    assert run(backend, up).status is JobStatus.SUCCEEDED
    down = run(backend, Plan(uid=new_uid(), build="down", resource_id=resource.id))
    assert b"Permission denied" in log(backend, down.job_id), down.message
    client = engine.client()
    shown = [client.inspect_container(each["Id"]) for each in client.containers(all=True)]
    shown += [client.inspect_volume(each["Name"]) for each in client.volumes()["Volumes"]]
    assert secret not in str(shown)
