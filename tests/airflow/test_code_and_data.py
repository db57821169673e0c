"""Code and datasets in DAGs: over a real sshd, and from a real S3 server."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.git.bundles.git import GitDagBundle
from airflow.sdk import DAG

from airflow_jobdeploy.errors import JobDeployError, SpecError, StagingError
from airflow_jobdeploy.hooks import projects, runtime
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.job import JobRunOperator
from tests.airflow.test_destinations import bucket as bucket
from tests.airflow.test_ssh import host as host
from tests.airflow.world import World, run_task
from tests.packing.repositories import commit, git, repository, write
from tests.servers.s3 import S3, s3  # noqa: F401 - a fixture
from tests.servers.sshd import sshd as sshd

pytestmark = pytest.mark.airflow

SHOW = {
    "command": 'cat main.py "$JOBDEPLOY_DATASET_DIR"/*/a.csv; touch main.py "with space"',
    "dataset_location": "data",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A repository with a job spec in it, and a dataset that it ignores."""
    root = repository(
        tmp_path / "it's a project", {"main.py": "clean\n", ".gitignore": "data\n", "job.yaml": json.dumps(SHOW)}
    )
    write(root, {"data/train/a.csv": "1,2\n"})
    return root


@pytest.mark.sshd
@pytest.mark.parametrize("state", ["clean", "dirty"])
def test_code_and_a_dataset_over_ssh(host: str, run_dag: Callable[..., Any], project: Path, state: str) -> None:
    if state == "dirty":
        write(project, {"main.py": "dirty\n", "new file": ""})
    with DAG(f"code_{state}", schedule=None) as dag:
        one = JobRunOperator(task_id="one", job_spec=project / "job.yaml", project_dir=project, worker_pool=host)
        two = JobRunOperator(task_id="two", job_spec=project / "job.yaml", project_dir=project, worker_pool=host)
        one >> two
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert run.text.count(f"{state}\n1,2") >= 2
    assert "Sent " in run.text
    assert "is on worker gpu_a already: nothing is sent" in run.text, "what one job changed is not what the next gets"
    assert ("The code includes uncommitted changes: M main.py, ?? new file" in run.text) is (state == "dirty")
    hook = JobDeployHook(host)
    code = [
        row["plan"]["description"]["code"] for row in hook.list() if row["plan"]["key"]["dag_id"] == f"code_{state}"
    ]
    assert {(entry["commit"], entry["dirty"]) for entry in code} == {
        (git(project, "rev-parse", "HEAD"), state == "dirty")
    }


@pytest.mark.sshd
def test_a_retry_runs_the_recorded_code_over_ssh(host: str, project: Path, tmp_path: Path) -> None:
    world = World(tmp_path)
    spec = {"command": "cat main.py > $JOBDEPLOY_RESULT_FILE; exit $(cat fails)", "dirty": "refuse"}
    write(project, {"main.py": '"first"\n', "fails": "3\n"})
    commit(project, "first")
    with pytest.raises(JobDeployError):
        run_task(world, job_spec=spec, project_dir=str(project), worker_pool=host)
    first = world["store"]["jobdeploy_intent"]
    write(project, {"main.py": '"second"\n', "fails": "0\n"})
    commit(project, "second")
    write(project, {"main.py": "dirty"})
    world.retry()
    with pytest.raises(JobDeployError, match="3"):
        run_task(world, job_spec=spec, project_dir=str(project), worker_pool=host)
    assert world["store"]["jobdeploy_intent"]["bundle"] == first["bundle"]
    world.clear()
    with pytest.raises(StagingError, match=r"M main\.py"):
        run_task(world, job_spec=spec, project_dir=str(project), worker_pool=host)
    git(project, "checkout", "-q", ".")
    assert run_task(world, job_spec=spec, project_dir=str(project), worker_pool=host)["result"] == "second"
    assert world["store"]["jobdeploy_intent"]["bundle"] != first["bundle"]


def test_a_dataset_of_an_object_storage(run_dag: Callable[..., Any], s3: S3, bucket: str) -> None:  # noqa: F811
    fs = s3.fs()
    big = os.urandom(6 * 1024 * 1024)
    for key, data in {"set/train/a.csv": b"1,2\n", "set/b ü.bin": big, "set/empty/": b"", "other": b""}.items():
        fs.pipe_file(f"{bucket}/{key}", data)
    command = 'cd "$JOBDEPLOY_DATASET_DIR" && find . -type f | sort && cat train/a.csv && sha256sum < "b ü.bin"'
    spec = {"command": command, "dataset_location": f"s3://lab@{bucket}/set"}
    with DAG("from_s3", schedule=None) as dag:
        JobRunOperator(task_id="one", job_spec=spec) >> JobRunOperator(task_id="two", job_spec=spec)
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "./b ü.bin\n./train/a.csv\n1,2\n" in run.text.replace("\r", "")
    assert "Dataset: 2 files, 6.0 MiB of s3://lab@" in run.text
    assert "is on worker local already: nothing is sent" in run.text
    assert "secret-key" not in run.text
    reads = f"GET /{bucket}/set/train/a.csv "
    assert s3.log.read_text().count(reads) == 1, "what was read once is known"
    fs.pipe_file(f"{bucket}/set/train/a.csv", b"3,4\n")
    JobDeployHook().start(job_spec=spec)
    assert s3.log.read_text().count(reads) == 2


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("s3://lab@{bucket}/nowhere", "nowhere does not exist"),
        ("s3://lab@no-such-bucket-here/x", "no-such-bucket-here/x"),
        ("s3://unknown@{bucket}/set", "'unknown'"),
        ("quux://bucket/x", "quux"),
    ],
)
def test_storages_that_cannot_be_read(
    airflow_db: None,
    home: Path,
    bucket: str,
    location: str,
    said: str,
) -> None:
    with pytest.raises(JobDeployError) as caught:
        JobDeployHook().prepare_run({"command": "x", "dataset_location": location.format(bucket=bucket)})
    assert said in str(caught.value)
    assert location.format(bucket=bucket) in str(caught.value)
    assert "secret-key" not in str(caught.value)


def test_where_a_dataset_is_looked_for(project: Path, airflow_db: None, home: Path) -> None:
    hook = JobDeployHook()
    work = hook.prepare_run(project / "job.yaml")
    assert work.takes.dataset is not None
    assert work.takes.dataset.manifest.files == 1
    work = hook.prepare_run({"command": "x", "dataset_location": f"file://{project}/data/train/a.csv"})
    assert [entry.path for entry in work.takes.dataset.manifest.entries] == ["a.csv"]  # type: ignore[union-attr]
    with pytest.raises(SpecError, match="there is no file or folder 'nowhere'; looked for it at"):
        hook.prepare_run({"command": "x", "dataset_location": "nowhere"})


def test_arguments_are_stronger_than_the_spec(project: Path, airflow_db: None, home: Path) -> None:
    hook = JobDeployHook()
    with_repo = {"command": "x", "repo": str(project), "ref": "HEAD"}
    bundle = hook.prepare_run(with_repo).takes.bundle
    assert bundle is not None
    assert bundle.origin["commit"] == git(project, "rev-parse", "HEAD")
    with pytest.raises(SpecError, match="means nothing where the code lies on the worker already"):
        hook.prepare_run(with_repo, workdir="/srv")
    with pytest.raises(SpecError, match=r"With repo .* it is a folder in that repository"):
        hook.prepare_run(with_repo, project_dir="/elsewhere")
    work = hook.prepare_run({"command": "x", "workdir": "/srv"}, project_dir=project)
    assert work.takes.code is not None
    with pytest.raises(SpecError, match="repo: "):
        hook.prepare_run({"command": "x", "repo": "http://example.org/x"})
    with pytest.raises(SpecError, match="there is no folder 'not/here'"):
        hook.prepare_run({"command": "x", "repo": "not/here"})


def test_the_version_of_the_dags_own_bundle_is_recorded(
    tmp_path: Path, airflow_db: None, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A git bundle as Airflow gives it to a task: a version of it is a folder without .git."""
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_STORAGE_PATH", str(tmp_path / "bundles"))
    remote = repository(tmp_path / "dags.git", {"dags/main.py": "committed", "dags/dag.py": ""})
    version = git(remote, "rev-parse", "HEAD")
    write(remote, {"dags/main.py": "newer"})
    commit(remote, "second")
    bundle = GitDagBundle(name="ours", tracking_ref="main", subdir="dags", repo_url=str(remote), version=version)
    bundle.initialize()
    assert not (bundle.path.parent / ".git").exists()
    told = runtime.dag_bundle(SimpleNamespace(bundle_instance=bundle))
    assert told == {"name": "ours", "version": version, "path": str(bundle.path), "url": str(remote)}
    work = JobDeployHook().prepare_run({"command": "x"}, project_dir=bundle.path, dag_bundle=told)
    assert work.takes.bundle is not None
    assert work.takes.bundle.origin["commit"] == version
    with work.takes.bundle.open(work.takes.bundle.manifest.entries[1]) as file:
        assert file.read() == b"committed"
    assert projects.about(told)["dag_bundle"] == {"name": "ours", "version": version}


def test_a_bundle_of_a_forge_has_a_link_and_one_without_versions_tells_nothing(tmp_path: Path) -> None:
    told = {"name": "ours", "version": "c" * 40, "path": str(tmp_path), "url": "https://t@github.com/a/b.git"}
    origin = projects.origin_of(tmp_path / "dags", told)
    assert (origin["commit"], origin["link"]) == ("c" * 40, f"https://github.com/a/b/commit/{'c' * 40}")
    assert origin["url"] == "https://github.com/a/b.git"
    assert projects.origin_of(tmp_path.parent, told) == {}
    assert runtime.dag_bundle(SimpleNamespace(bundle_instance=SimpleNamespace(name="x", version=None))) == {}
    assert runtime.dag_bundle(SimpleNamespace()) == {}
