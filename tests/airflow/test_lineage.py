"""What OpenLineage is told, by way of the real provider."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_jobdeploy.errors import JobFailed
from airflow_jobdeploy.operators import lineage
from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator
from airflow_jobdeploy.operators.template import TemplateUpOperator
from tests.airflow.world import World, call

pytestmark = pytest.mark.airflow

SCRIPT = {"type": "script", "content": "true"}
CODE = {
    "commit": "1a2b3c4d5e6f",
    "branch": "main",
    "message": "Fix it",
    "dirty": True,
    "url": "https://git.example/team/project.git",
    "link": "https://git.example/team/project/tree/1a2b3c4d5e6f",
}


def told(operator: Any, state: str = "success") -> dict[str, Any]:
    """As the provider makes it an event, in JSON."""
    from airflow.providers.openlineage.extractors.manager import ExtractorManager
    from airflow.sdk import TaskInstanceState
    from openlineage.client.serde import Serde

    run = SimpleNamespace(run_id="r")
    ti = SimpleNamespace(task=operator, dag_id="d", task_id=operator.task_id)
    operator.task_type  # noqa: B018 - what the provider asks for first
    found = ExtractorManager().extract_metadata(run, operator, TaskInstanceState(state), ti)
    datasets = {
        part: [json.loads(Serde.to_json(one)) for one in getattr(found, part)] for part in ("inputs", "outputs")
    }
    facets = {
        part: {name: json.loads(Serde.to_json(facet)) for name, facet in getattr(found, part).items()}
        for part in ("run_facets", "job_facets")
    }
    return {**datasets, **facets}


def names(datasets: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(dataset["namespace"], dataset["name"]) for dataset in datasets]


def test_a_job_and_its_artifacts(world: World, tmp_path: Path) -> None:
    message = json.dumps({"type": "asset", "uri": "s3://models/best"})
    spec = {
        "command": f'echo \'{message}\' >> "$JOBDEPLOY_MESSAGES_FILE"; echo 1 > "$JOBDEPLOY_OUTPUT_DIR/model"',
    }
    run = JobRunOperator(task_id="t", job_spec=spec)
    handle = call(run, "execute", {**world.context(), "outlet_events": {}})
    facts = told(run)
    assert names(facts["outputs"]) == [("s3://models", "best")]
    facet = facts["run_facets"]["jobdeploy"]
    assert facet["jobId"] == handle["job_id"]
    assert {key: facet[key] for key in ("attempt", "worker", "workerPool", "status", "exitCode")} == {
        "attempt": 1,
        "worker": "local",
        "workerPool": "local",
        "status": "SUCCEEDED",
        "exitCode": 0,
    }
    get = ArtifactDownloadOperator(task_id="get", job=handle, dest=tmp_path / "got")
    call(get, "execute", world.context())
    facts = told(get)
    assert names(facts["outputs"]) == [("file", str(tmp_path / "got"))]
    assert facts["run_facets"]["jobdeploy"]["jobId"] == handle["job_id"]


def test_tasks_that_failed(world: World, tmp_path: Path) -> None:
    run = JobRunOperator(task_id="t", job_spec={"command": "exit 7"})
    assert told(run, "failed")["run_facets"] == {}, "it did not get that far"
    with pytest.raises(JobFailed):
        call(run, "execute", world.context())
    facet = told(run, "failed")["run_facets"]["jobdeploy"]
    assert (facet["status"], facet["reason"], facet["exitCode"]) == ("FAILED", "ExitCode", 7)
    get = ArtifactDownloadOperator(task_id="get", job="no-such-job", worker_pool="local", dest=tmp_path)
    assert told(get, "failed")["outputs"] == []


def test_a_template(world: World) -> None:
    up = TemplateUpOperator(task_id="t", template={"builds": {"up": SCRIPT, "down": SCRIPT}})
    handle = call(up, "execute", world.context())
    assert told(up)["run_facets"]["jobdeploy"]["jobId"] == handle["job_id"]


def test_the_commit_that_ran_and_its_dataset(world: World, tmp_path: Path) -> None:
    project, data = tmp_path / "project", tmp_path / "data"
    for folder in (project, data):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    git = ["git", "-C", str(project), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "First"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*git, "remote", "add", "origin", "https://me:s3cret@git.example/team/project.git"], check=True)
    spec = {"command": 'cat file "$JOBDEPLOY_DATASET_DIR/file"', "dataset_location": str(data)}
    run = JobRunOperator(task_id="t", job_spec=spec, project_dir=project)
    call(run, "execute", world.context())
    facts = told(run)
    facet = facts["job_facets"]["sourceCodeLocation"]
    assert (facet["type"], facet["version"], facet["branch"]) == ("git", commit, "main")
    assert facet["repoUrl"] == "https://git.example/team/project.git"
    assert names(facts["inputs"]) == [("file", str(data))]
    assert facts["run_facets"]["jobdeploy"]["uncommittedChanges"] is False
    assert "s3cret" not in json.dumps(facts)


def test_the_code(world: World) -> None:
    found = lineage.of_job(None, CODE)
    facet = found.job_facets["sourceCodeLocation"]
    assert (facet.type, facet.version, facet.branch) == ("git", CODE["commit"], "main")
    assert (facet.url, facet.repoUrl) == (CODE["link"], CODE["url"])
    assert lineage.of_job(None, {}).job_facets == {}
    assert lineage.of_job(None, {"commit": "abc"}).job_facets["sourceCodeLocation"].url == "git:abc"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://lab@bucket/a/b/", ("s3://bucket", "a/b")),
        ("gs://bucket", ("gs://bucket", "/")),
        ("file:///srv/x", ("file", "/srv/x")),
        ("/srv/a b", ("file", "/srv/a b")),
        ("storage:data/x", ("jobdeploy://lab", "storage:data/x")),
    ],
)
def test_names_of_datasets(location: str, expected: tuple[str, str]) -> None:
    assert lineage.dataset(location, pool="lab") == expected


def test_a_dataset_beside_the_spec_is_told(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "job.yaml").write_text("command: 'true'\ndataset_location: data\n")
    run = JobRunOperator(task_id="t", job_spec=tmp_path / "job.yaml")
    assert run.datasets() == [("file", str(tmp_path / "data"))]


def test_nothing_of_it_is_imported_without_it() -> None:
    program = (
        "import sys, airflow_jobdeploy.operators.errand, airflow_jobdeploy.operators.lineage,"
        " airflow_jobdeploy.operators.artifact; print([name for name in sys.modules if name.startswith('openlineage')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
