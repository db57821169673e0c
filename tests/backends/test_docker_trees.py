"""Trees on a real engine: what the engine has lost, and names that a shell would take for something else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.base import TreeGone
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import StagingError
from tests.backends.engines import backend_of, job
from tests.backends.engines import engine as engine
from tests.contract.steps import log, outcome
from tests.contract.trees import Tree, tree
from tests.servers.dockerd import Dockerd

pytestmark = pytest.mark.docker


def store(engine: Dockerd) -> Path:
    return Path(engine.client().inspect_volume("jobdeploy-store")["Mountpoint"]) / "trees"


def test_a_tree_whose_files_the_engine_has_lost_is_sent_again(engine: Dockerd) -> None:
    source = tree({"main.sh": "echo hello"})
    backend = backend_of(engine)
    name = backend.send_tree(source).name
    assert backend.has_tree(name)
    shutil.rmtree(store(engine))
    assert not backend.has_tree(name)
    assert backend.send_tree(source).sent_files == 1
    plan = job("cat main.sh", bundle=name)
    backend.claim(plan)
    backend.use_tree(plan.job_id, "work", name)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"echo hello"


def test_a_project_becomes_that_of_the_user_of_containers(engine: Dockerd) -> None:
    files = {"main.sh": "#!/bin/sh\n", ".hidden": "h", "..odd": "o", "-rf": "r", "sub/f": "f"}
    source = tree(files, executables=("main.sh",), links={"out": "nowhere", "in": "sub/f"})
    backend = backend_of(engine, security=Security(user="1000:1000", read_only=True))
    plan = job("set -e\necho 1 >> ./main.sh; echo 2 >> in; touch sub/new; ls -A", bundle=backend.send_tree(source).name)
    backend.claim(plan)
    backend.use_tree(plan.job_id, "work", plan.bundle)
    backend.start(plan.job_id)
    state = outcome(backend, plan.job_id)
    assert state.status is JobStatus.SUCCEEDED, state.message
    assert sorted(log(backend, plan.job_id).decode().split()) == sorted(
        ["main.sh", ".hidden", "..odd", "-rf", "sub", "out", "in"]
    )


def test_no_job_can_change_what_others_share(engine: Dockerd) -> None:
    """Root of its container, in the folders of code and data by content."""
    backend = backend_of(engine, security=Security(cap_drop=(), cap_add=("DAC_OVERRIDE",)))
    name = backend.send_tree(tree({"f": "kept"})).name
    spoil = 'for place in "$JOBDEPLOY_DATASET_DIR" /jobdeploy/bundle/tree; do echo x > $place/f; rm -f $place/f; done'
    plan = job(f"exec 2>&1; {spoil}; chmod 777 $JOBDEPLOY_DATASET_DIR/f", bundle=name, dataset={"tree": name})
    backend.claim(plan)
    for role in ("work", "dataset"):
        backend.use_tree(plan.job_id, role, name)
    backend.start(plan.job_id)
    outcome(backend, plan.job_id)
    assert log(backend, plan.job_id).decode().count("Read-only file system") == 5
    assert [path.read_text() for path in store(engine).glob("*/tree/f")] == ["kept"]


def test_a_tree_that_was_not_finished_is_not_there(engine: Dockerd) -> None:
    backend = backend_of(engine)
    name = backend.send_tree(tree({"main.sh": "echo hello"})).name
    (store(engine) / name / "whole").unlink()
    assert not backend.has_tree(name)


def test_large_files_of_hostile_names_are_put_together(engine: Dockerd) -> None:
    names = ["a'b\n; echo $(touch x) \"", "-rf", "sub dir/$HOME", "\udcff", "end\n"]
    contents = {name: bytes([number]) * 1_500_000 for number, name in enumerate(names)}
    source = tree(contents, executables=("-rf",))
    backend = backend_of(engine)
    name = backend.send_tree(source).name
    place = store(engine) / name / "tree"
    found = {str(path.relative_to(place)): path for path in place.rglob("*") if path.is_file()}
    assert {path: file.read_bytes() for path, file in found.items()} == contents
    assert found["-rf"].stat().st_mode & 0o777 == 0o555
    assert not (place.parent / "parts").exists()
    assert backend.has_tree(name)


def test_a_large_file_that_is_not_what_it_should_be_is_named(engine: Dockerd) -> None:
    contents = {f"file {number}": bytes([number]) * 1_100_000 for number in range(3)}
    source = tree(contents)
    other = {**contents, "file 1": bytes(1_100_000)}
    backend = backend_of(engine)
    with pytest.raises(StagingError, match="'file 1' arrived damaged"):
        backend.send_tree(Tree(contents=other, manifest=source.manifest))
    assert not backend.has_tree(source.manifest.name)
    assert backend.send_tree(source).name == source.manifest.name


def test_a_tree_that_is_lost_before_the_start_is_asked_for_again(engine: Dockerd) -> None:
    source = tree({"main.sh": "echo hello"})
    backend = backend_of(engine)
    name = backend.send_tree(source).name
    plan = job("cat main.sh", bundle=name)
    backend.claim(plan)
    backend.use_tree(plan.job_id, "work", name)
    shutil.rmtree(store(engine))
    with pytest.raises(TreeGone):
        backend.start(plan.job_id)
    assert not backend.has_tree(name)
    backend.send_tree(source)
    backend.use_tree(plan.job_id, "work", name)
    backend.start(plan.job_id)
    assert outcome(backend, plan.job_id).status is JobStatus.SUCCEEDED
    assert log(backend, plan.job_id) == b"echo hello"
