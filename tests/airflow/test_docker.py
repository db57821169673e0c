"""The same DAGs on a real Docker engine: one `docker` connection whose host is an engine is a pool of one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG

from airflow_jobdeploy.errors import SpecError
from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.operators.template import TemplateBuildOperator, TemplateDownOperator, TemplateUpOperator
from tests.servers.dockerd import IMAGE, Dockerd

pytestmark = [pytest.mark.airflow, pytest.mark.docker]

TEMPLATE = {
    "builds": {
        "up": {
            "type": "script",
            "content": 'cat name.txt; sleep 1\necho "$TOKEN" > "$JOBDEPLOY_OUTPUT_DIR/token"\necho done with ü\n',
        },
        "down": {"type": "script", "content": "cat name.txt; echo taken down"},
    },
    "options": {"secret_env": {"TOKEN": "conn:vault.password"}},
}


@pytest.fixture
def engine(dockerd: Dockerd, airflow_db: None, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A docker connection to a real engine."""
    connection = {"conn_type": "docker", "host": dockerd.url, "extra": {"image": IMAGE}}
    monkeypatch.setenv("AIRFLOW_CONN_ENGINE_A", json.dumps(connection))
    monkeypatch.setenv("AIRFLOW_CONN_VAULT", json.dumps({"conn_type": "generic", "password": "s3cret of mine"}))
    yield "engine_a"
    dockerd.wipe()


def project_in(folder: Path) -> Path:
    project = folder / "it's a project"
    project.mkdir()
    (project / "name.txt").write_text("sent to an engine\n")
    return project


@pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])
def test_up_download_down(engine: str, run_dag: Callable[..., Any], tmp_path: Path, deferrable: bool) -> None:
    with DAG(f"docker_{deferrable}".lower(), schedule=None) as dag:
        up = TemplateUpOperator(
            task_id="up",
            template=TEMPLATE,
            project_dir=project_in(tmp_path),
            worker_pool=engine,
            deferrable=deferrable,
        )
        get = ArtifactDownloadOperator(task_id="get", job=up.output, dest=tmp_path / "out")
        down = TemplateDownOperator(task_id="down", job=up.output, deferrable=deferrable)
        get >> down
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "sent to an engine" in run.text
    assert "done with ü" in run.text
    assert "taken down" in run.text
    assert (tmp_path / "out" / "token").read_text() == "s3cret of mine\n"
    handle = run.xcom("up")
    assert (handle["worker_pool"], handle["worker"]) == (engine, engine)
    assert "s3cret" not in run.text


def test_a_job_spec_in_an_image(engine: str, run_dag: Callable[..., Any], tmp_path: Path) -> None:
    spec = {
        "command": "cat name.txt; echo '{\"accuracy\": 0.9}' > $JOBDEPLOY_RESULT_FILE",
        "project_dir": str(project_in(tmp_path)),
        "docker_image": IMAGE,
        "pull": "never",
        "memory": "64MB",
        "cpu_count": 0.5,
    }
    with DAG("docker_spec", schedule=None) as dag:
        JobRunOperator(task_id="train", job_spec=spec, worker_pool=engine)
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "sent to an engine" in run.text
    assert run.xcom("train")["result"] == {"accuracy": 0.9}


def test_the_hook_and_what_is_not_honoured(engine: str) -> None:
    hook = JobDeployHook(engine)
    well, line = hook.test_connection()
    assert well, line
    handle = hook.start(job_spec={"command": "echo hi; exec sleep 300", "grace": 1})
    assert handle["job_id"] in [row["plan"]["job_id"] for row in hook.list(live_only=True)]
    assert hook.stop(handle, reason="test")["status"] == "CANCELLED"
    with pytest.raises(SpecError, match=r"a pool of kind docker cannot honour 'port'"):
        hook.start(job_spec={"command": "x", "port": 80})


IN_AN_IMAGE = {
    "builds": {
        "up": {
            "type": "script",
            "content": "cat /made; cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max || :",
        },
        "watch": {"type": "script", "content": "cat /made; echo watched"},
        "down": {"type": "script", "content": "cat /made; echo taken down"},
        "purge": {"type": "script", "content": "cat /made; echo purged"},
    },
    "options": {"dockerfile": "Dockerfile", "pids_limit": 123},
}


def test_all_builds_of_a_template_run_in_its_image(
    engine: str, dockerd: Dockerd, run_dag: Callable[..., Any], tmp_path: Path
) -> None:
    """Also when what it was made of is gone: the image is that of the `up`."""
    project = project_in(tmp_path)
    (project / "Dockerfile").write_text(f"FROM {IMAGE}\nRUN head -c 6 /dev/urandom | od -An -tx1 >/made\n")
    with DAG("docker_image_of_template", schedule=None) as dag:
        up = TemplateUpOperator(task_id="up", template=IN_AN_IMAGE, project_dir=project, worker_pool=engine)
        watch = TemplateBuildOperator(task_id="watch", build="watch", job=up.output)
        down = TemplateDownOperator(task_id="down", job=up.output)
        purge = TemplateBuildOperator(task_id="purge", build="purge", job=up.output)
        watch >> down >> purge
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "Making the image of Dockerfile" in run.text
    made = dockerd.client().containers(all=True, filters={"label": "jobdeploy.kind=job"})
    assert len({entry["Image"] for entry in made}) == 1
    assert made[0]["Image"].startswith("jobdeploy/built:")
    assert "123" in run.text
    for word in ("watched", "taken down", "purged"):
        assert word in run.text


def test_packages_for_a_job(engine: str, run_dag: Callable[..., Any]) -> None:
    """In an image that cannot have them: the words of who tried are in the task's log."""
    spec = {"command": "true", "docker_image": IMAGE, "apt_packages": ["curl"]}
    with DAG("docker_packages", schedule=None) as dag:
        JobRunOperator(task_id="train", job_spec=spec, worker_pool=engine)
    run = run_dag(dag)
    assert run.state == "failed"
    assert "the image has no apt-get" in run.text


def test_what_a_preset_asks_for(
    engine: str, dockerd: Dockerd, run_dag: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GPUs, a limit and the storage of a pool, with a short name for the image and the words of dl_jobs."""
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "f").write_text("from the storage\n")
    worker = {"url": dockerd.url, "devices": ["/dev/null:/dev/nvidia0"], "gpu_types": [{"type": "A100", "count": 2}]}
    pool = {
        "kind": "docker",
        "workers": [worker],
        "images": {"py37_gpu": IMAGE},
        "storage": {"root": str(tmp_path), "shared": True},
        "presets": {"gpu": {"memory": "64MB", "gpu": {"count": 2, "model": "A100"}}},
    }
    monkeypatch.setenv("AIRFLOW_CONN_GPUS", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    common = {"command": 'ls /dev/nvidia0; cat "$JOBDEPLOY_VOLUMES_DIR/mnt/data/f"', "docker_image": "py37_gpu"}
    spec = {**common, "preset": "gpu", "volumes": "storage:digits:/mnt/data:ro"}
    by_words = {"command": "echo by words", "cpu_job": False, "gpus": 1, "gpu_image": "py37_gpu"}
    with DAG("docker_preset", schedule=None) as dag:
        first = JobRunOperator(task_id="train", job_spec=spec, worker_pool="gpus")
        first >> JobRunOperator(task_id="words", job_spec=by_words, worker_pool="gpus")
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "from the storage" in run.text
    assert "by words" in run.text
    hosts = [dockerd.client().inspect_container(run.xcom(task)["job_id"])["HostConfig"] for task in ("train", "words")]
    assert [host["Memory"] for host in hosts] == [64 << 20, 0]
    assert all(host["Devices"] for host in hosts)
    with pytest.raises(SpecError, match=r"has 3 A100: .* has 2 A100"):
        JobDeployHook("gpus").start(job_spec={"command": "x", "gpu_types": [{"type": "A100", "count": 3}]})
