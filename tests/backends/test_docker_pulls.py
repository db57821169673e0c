"""Images from a registry: progress, logins, names that lead nowhere, an engine whose disk is full."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.base import WORK
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine import images as engine_images
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.hooks import engines
from tests.contract.steps import log, outcome
from tests.contract.trees import tree
from tests.servers import registry
from tests.servers.dockerd import Dockerd
from tests.servers.dockerd import dockerd as dockerd
from tests.servers.images import Root

pytestmark = pytest.mark.docker


def layer(folder: Path, size: int = 300_000) -> Path:
    """A busybox, and as many bytes again that cannot be packed."""
    root = Root()
    root.shell()
    root.text("ballast", os.urandom(size))
    path = folder / "layer.tar"
    path.write_bytes(root.data)
    return path


@pytest.fixture(scope="module")
def hub(dockerd: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[registry.Registry]:
    with registry.serving(dockerd.pid, layer(tmp_path_factory.mktemp("registry"))) as found:
        yield found


@pytest.fixture
def engine(dockerd: Dockerd) -> Iterator[Dockerd]:
    yield dockerd
    dockerd.wipe()
    client = dockerd.client()
    for image in client.images(filters={"label": "jobdeploy.kind=image"}):
        client.remove_image(image["Id"], force=True)
    for image in client.images():
        if any(tag.startswith("127.0.0.1:") for tag in (image["RepoTags"] or []) + (image["RepoDigests"] or [])):
            client.remove_image(image["Id"], force=True)


def backend_of(engine: Dockerd, registry_conn: str | None = None) -> DockerBackend:
    worker = Worker(url=engine.url, registry=registry_conn)
    return engines.backend(WorkerPool(name="p", kind="docker", workers=(worker,)), worker)


def run(backend: DockerBackend, image: str, said: list[str] | None = None, **container: str) -> JobState:
    step = Step(name="job", kind="shell", content="echo pulled")
    plan = Plan(uid=new_uid(), steps=(step,), container={"image": image, **container})
    backend.claim(plan)
    backend.prepare(plan.job_id, (said if said is not None else []).append)
    backend.start(plan.job_id)
    return outcome(backend, plan.job_id)


def failed(engine: Dockerd, state: JobState) -> str:
    assert (state.status, state.reason) == (JobStatus.FAILED, Reason.SETUP)
    assert engine.client().containers(all=True) == []
    return state.message


def test_images_by_tag_and_by_digest(engine: Dockerd, hub: registry.Registry) -> None:
    backend = backend_of(engine)
    for name in ("team/box:1", f"team/box@{hub.digest}"):
        state = run(backend, f"{hub.host}/{name}")
        assert state.status is JobStatus.SUCCEEDED, state.message
        assert log(backend, state.job_id) == b"pulled\n"


def test_always_asks_the_registry_and_missing_does_not(engine: Dockerd, hub: registry.Registry) -> None:
    backend, image = backend_of(engine), f"{hub.host}/team/box:1"
    told: dict[str, list[str]] = {"missing": [], "always": []}
    run(backend, image)
    for pull, said in told.items():
        assert run(backend, image, said, pull=pull).status is JobStatus.SUCCEEDED
    assert [line for line in told["missing"] if line] == []
    assert told["always"][0] == f"Pulling image {image} to {engine.url}."


@pytest.mark.parametrize("name", ["team/box:2", "team/box@sha256:" + "0" * 64])
def test_a_tag_that_is_not_there(engine: Dockerd, hub: registry.Registry, name: str) -> None:
    message = failed(engine, run(backend_of(engine), f"{hub.host}/{name}"))
    assert f"image '{hub.host}/{name}' cannot be pulled" in message
    assert "Check its name and tag." in message


def test_private_images_need_the_registrys_connection(
    engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with registry.serving(engine.pid, layer(tmp_path), private=True) as hub:
        host, _, port = hub.host.partition(":")
        image = f"{hub.host}/team/box:1"
        for conn_id, password in (("HUB", registry.PASSWORD), ("WRONG", "not it")):
            connection = {"conn_type": "docker", "host": host, "port": int(port), "login": registry.USER}
            monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id}", json.dumps({**connection, "password": password}))
        assert "nobody is logged in: give the worker a `registry`" in failed(engine, run(backend_of(engine), image))
        assert "the login may not pull it" in failed(engine, run(backend_of(engine, "wrong"), image))
        no_such = failed(engine, run(backend_of(engine, "no_such_connection"), image))
        assert "no_such_connection" in no_such
        backend = backend_of(engine, "hub")
        state = run(backend, image)
        assert state.status is JobStatus.SUCCEEDED, state.message
        assert registry.PASSWORD not in json.dumps(engine.client().inspect_container(state.job_id))
        engine.client().remove_image(image, force=True)
        source = tree({"Dockerfile": f"FROM {image}\nRUN true"})
        code, step = source.manifest.name, Step(name="job", kind="shell", content="echo built")
        plan = Plan(uid=new_uid(), steps=(step,), bundle=code, container={"dockerfile": "Dockerfile"})
        backend.claim(plan)
        backend.send_tree(source)
        backend.use_tree(plan.job_id, WORK, code)
        backend.start(plan.job_id)
        assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED


def test_progress_is_told(engine: Dockerd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_images, "_TELL_S", 0.2)
    said: list[str] = []
    with registry.serving(engine.pid, layer(tmp_path, 4_000_000), rate=3_000_000) as slow:
        image = f"{slow.host}/team/box:1"
        assert run(backend_of(engine), image, said).status is JobStatus.SUCCEEDED
    assert said[0] == f"Pulling image {image} to {engine.url}."
    assert any(line.endswith("MiB in 1 layers.") and " MiB of " in line for line in said), said


def test_an_engine_whose_disk_is_full(tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="jdd-"))
    (folder / "data").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder / "data")], check=True)
    full = Dockerd(folder)
    try:
        full.start()
        with registry.serving(full.pid, layer(tmp_path, 40_000_000)) as hub:
            message = failed(full, run(backend_of(full), f"{hub.host}/team/box:1"))
        assert "no space left on device" in message
        assert "Free some space on the engine's disk" in message
    finally:
        full.stop()
        subprocess.run(["umount", "--lazy", str(folder / "data")], check=False)
        shutil.rmtree(folder, ignore_errors=True)
