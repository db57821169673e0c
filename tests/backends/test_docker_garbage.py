"""What goes from an engine: old jobs, what is left of them, trees and images above the limit; and what stays."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_jobdeploy.backends.base import WORK, Garbage
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine import garbage, sweeping
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import JobKey, Limits, Plan, ResourcePlan, Step, new_resource_id, new_uid
from airflow_jobdeploy.core.status import JobStatus
from tests.contract.steps import launch, outcome, wait_ready
from tests.contract.trees import tree
from tests.servers.dockerd import IMAGE, Dockerd
from tests.servers.dockerd import dockerd as dockerd

pytestmark = pytest.mark.docker

BLOCK = "echo ready; while :; do sleep 300; done"
NOW = Limits(keep_for_s=0)


@pytest.fixture
def engine(dockerd: Dockerd, monkeypatch: pytest.MonkeyPatch) -> Iterator[Dockerd]:
    monkeypatch.setattr(garbage, "_RECENT_S", -60.0)  # what has just been made counts as old
    monkeypatch.setattr(garbage, "_LEFT_S", -60.0)
    dockerd.wipe()
    yield dockerd
    dockerd.wipe()
    client = dockerd.client()
    for image in client.images(filters={"label": "jobdeploy.kind=image"}):
        client.remove_image(image["Id"], force=True)


def backend_of(engine: Dockerd, limit: int | None = None) -> DockerBackend:
    settings = Settings(image=IMAGE, cache_limit_bytes=limit)
    return DockerBackend(worker="engine", connect=engine.client, settings=settings)


def job(content: str, **options: Any) -> Plan:
    return Plan(**{"uid": new_uid(), "steps": (Step(name="job", kind="shell", content=content),), **options})


def run(backend: DockerBackend, plan: Plan) -> str:
    state = outcome(backend, launch(backend, plan))
    assert state.status is JobStatus.SUCCEEDED, state.message
    return plan.job_id


def sweep(backend: DockerBackend, *, dry_run: bool = False, deployment: str = "") -> dict[str, Garbage]:
    return {item.name: item for item in backend.collect(dry_run=dry_run, deployment=deployment)}


def volumes(engine: Dockerd) -> set[str]:
    return {volume["Name"] for volume in engine.client().volumes()["Volumes"] or ()}


def test_ended_jobs_go_after_their_keep_for_with_all_that_is_theirs(engine: Dockerd) -> None:
    backend = backend_of(engine)
    old = run(backend, job("echo x >$JOBDEPLOY_CHECKPOINT_DIR/c", limits=NOW))
    kept = run(backend, job("true", limits=Limits(keep_for_s=3600)))
    live = job(BLOCK, limits=NOW)
    launch(backend, live)
    wait_ready(backend, live.job_id)
    claimed = job("true", limits=NOW)
    backend.claim(claimed)
    backend.set_owner(old, "task")
    shown = sweep(backend, dry_run=True)
    assert {name: item.kind for name, item in shown.items()} == {old: "job"}
    assert shown[old].why == "ended longer ago than its keep_for"
    assert {entry["plan"]["job_id"] for entry in backend.jobs()} == {old, kept, live.job_id, claimed.job_id}
    assert set(sweep(backend)) == {old}
    assert {entry["plan"]["job_id"] for entry in backend.jobs()} == {kept, live.job_id, claimed.job_id}
    assert not any(old in name for name in volumes(engine))
    assert sweep(backend) == {}
    backend.start(claimed.job_id)
    assert outcome(backend, claimed.job_id).status is JobStatus.SUCCEEDED
    backend.stop(live.job_id, reason="test", grace_s=0.1)
    outcome(backend, live.job_id)


def test_jobs_of_other_deployments_stay(engine: Dockerd) -> None:
    backend = backend_of(engine)
    ours = run(backend, job("true", limits=NOW, key=JobKey(deployment="ours")))
    theirs = run(backend, job("true", limits=NOW, key=JobKey(deployment="theirs")))
    assert set(sweep(backend, deployment="ours")) == {ours}
    assert [entry["plan"]["job_id"] for entry in backend.jobs()] == [theirs]


def test_a_standing_resource_keeps_its_jobs(engine: Dockerd) -> None:
    backend = backend_of(engine)
    step = Step(name="up", kind="shell", content="true")
    builds = {"up": (step,), "down": (step,)}
    resource = ResourcePlan(id=new_resource_id(), template="t", digest="d", subdir="s", project="p", builds=builds)
    up = Plan(uid=new_uid(), build="up", resource_id=resource.id, resource=resource, limits=NOW)
    run(backend, up)
    assert sweep(backend) == {}
    run(backend, Plan(uid=new_uid(), build="down", resource_id=resource.id, limits=NOW))
    assert {item.kind for item in sweep(backend).values()} == {"job", "resource"}
    assert sweep(backend) == {}
    assert backend.resource(resource.id) is None


def test_what_killed_submitters_leave_goes(engine: Dockerd) -> None:
    backend = backend_of(engine)
    backend.facts()
    client = engine.client()
    label = {"jobdeploy.kind": "helper"}
    client.create_container(IMAGE, command=["true"], name="jobdeploy-x-left", labels=label)
    client.create_container(IMAGE, command=["true"], name="somebody-elses")
    client.create_volume("jobdeploy-uid-gone", labels={"jobdeploy.kind": "checkpoint", "jobdeploy.uid": "gone"})
    note = {"jobdeploy.kind": "note", "jobdeploy.note": "owner", "jobdeploy.noted": "jgone"}
    client.create_volume("jobdeploy-owner-jgone", labels=note)
    client.create_volume("somebody-elses")
    assert set(sweep(backend)) == {"jobdeploy-x-left", "jobdeploy-uid-gone", "jobdeploy-owner-jgone"}
    assert "somebody-elses" in volumes(engine)
    assert [entry["Names"] for entry in client.containers(all=True)] == [["/somebody-elses"]]


def sent(backend: DockerBackend, text: str) -> str:
    source = tree({"f": text * 1000, "common": "the same"})
    return backend.send_tree(source).name


def test_trees_above_the_limit_go_with_their_files(engine: Dockerd) -> None:
    backend = backend_of(engine, limit=25_000)
    old, used = (sent(backend, f"{number} {'x' * 18}") for number in range(2))
    last = int(time.time())
    while int(time.time()) == last:  # engines tell when a volume was made in whole seconds
        time.sleep(0.02)
    new = sent(backend, f"2 {'x' * 18}")
    plan = job("cat common", bundle=used, ships_project=True)
    backend.claim(plan)
    backend.use_tree(plan.job_id, WORK, used)
    shown = sweep(backend, dry_run=True)
    assert {name: item.kind for name, item in shown.items()} == {f"jobdeploy-{old}": "tree"}
    assert shown[f"jobdeploy-{old}"].bytes > 20_000
    assert set(sweep(backend)) == set(shown)
    assert [backend.has_tree(name) for name in (old, used, new)] == [False, True, True]
    store = client_paths(engine)
    assert not any(old in path for path in store)
    assert any(new in path for path in store)
    assert sent(backend, f"0 {'x' * 18}") == old  # it can come again
    assert backend.has_tree(old)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED


def test_what_was_made_lately_and_what_a_waiting_job_was_promised_stays(
    engine: Dockerd, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backend_of(engine, limit=0)
    promised, young = sent(backend, "promised"), sent(backend, "young")
    plan = job("true", bundle=promised, ships_project=True, container={"image": "not.there.example/x:1"})
    backend.claim(plan)
    backend.use_tree(plan.job_id, WORK, promised)
    assert set(sweep(backend, dry_run=True)) == {f"jobdeploy-{young}"}, "its container has no volumes of trees yet"
    label = {"jobdeploy.kind": "helper"}
    engine.client().create_container(IMAGE, command=["true"], name="jobdeploy-x-of-a-submitter-at-work", labels=label)
    for name, limit_s in (("_RECENT_S", 600.0), ("_LEFT_S", 3600.0)):
        monkeypatch.setattr(garbage, name, limit_s)
    assert sweep(backend) == {}


def test_the_image_of_a_standing_resource_stays_also_when_its_container_was_removed(engine: Dockerd) -> None:
    backend = backend_of(engine, limit=0)
    source = tree({"Dockerfile": f"FROM {IMAGE}\nRUN echo made >/made"})
    step = Step(name="up", kind="shell", content="cat /made")
    names = {"template": "t", "digest": "d", "subdir": "s", "project": "p"}
    resource = ResourcePlan(id=new_resource_id(), builds={"up": (step,), "down": (step,)}, **names)
    made = {"bundle": source.manifest.name, "ships_project": True, "container": {"dockerfile": "Dockerfile"}}
    up = Plan(uid=new_uid(), build="up", resource_id=resource.id, resource=resource, limits=NOW, **made)
    backend.claim(up)
    backend.send_tree(source)
    backend.use_tree(up.job_id, WORK, source.manifest.name)
    backend.start(up.job_id)
    assert outcome(backend, up.job_id).status is JobStatus.SUCCEEDED
    engine.client().remove_container(up.job_id)
    assert "image" not in {item.kind for item in sweep(backend).values()}
    run(backend, Plan(uid=new_uid(), build="down", resource_id=resource.id, limits=NOW))
    kinds = [{item.kind for item in sweep(backend).values()} for _ in range(3)]
    assert "image" in kinds[2], "after the resource, and the note that keeps it"


def client_paths(engine: Dockerd) -> list[str]:
    """The folders of the store."""
    place = engine.dir / "data" / "volumes" / "jobdeploy-store" / "_data" / "trees"
    return [entry.name for entry in place.iterdir()]


def test_derived_images_above_the_limit_go_unless_somebody_has_them(engine: Dockerd) -> None:
    backend = backend_of(engine, limit=0)
    names = []
    for number in range(3):
        source = tree({"Dockerfile": f"FROM {IMAGE}\nRUN echo {number} >/here"})
        plan = job("cat /here", bundle=source.manifest.name, ships_project=True, container={"dockerfile": "Dockerfile"})
        plan = Plan.from_wire({**plan.to_wire(), "limits": (Limits() if number else NOW).to_dict()})
        backend.claim(plan)
        backend.send_tree(source)
        backend.use_tree(plan.job_id, WORK, source.manifest.name)
        backend.start(plan.job_id)
        assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
        names.append(engine.client().inspect_container(plan.job_id)["Config"]["Image"])
    gone = sweep(backend)
    assert [item.name for item in gone.values() if item.kind == "image"] == [names[0]]
    tags = [tag for image in engine.client().images() for tag in image["RepoTags"] or ()]
    assert (names[0] in tags, names[1] in tags, names[2] in tags) == (False, True, True)
    assert IMAGE in tags


def test_who_starts_a_job_looks_now_and_then(engine: Dockerd, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backend_of(engine)
    old = run(backend, job("true", limits=NOW))
    run(backend, job("true", limits=Limits(keep_for_s=3600)))
    assert old in volumes(engine)
    monkeypatch.setattr(sweeping, "EVERY_S", -60.0)
    run(backend, job("true", limits=Limits(keep_for_s=3600)))
    for thread in threading.enumerate():
        if thread.name.startswith("jobdeploy-sweep-"):
            thread.join(60)
    assert old not in volumes(engine)
