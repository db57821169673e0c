"""Whole DAGs by dag.test(), on pool local: real jobs, real triggers, the tests' own database."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator, JobStopOperator
from airflow_jobdeploy.operators.template import TemplateBuildOperator, TemplateDownOperator, TemplateUpOperator
from airflow_jobdeploy.sensors.job import JobStatusSensor
from tests.airflow.conftest import Door

pytestmark = pytest.mark.airflow

WAYS = pytest.mark.parametrize("deferrable", [False, True], ids=["sync", "deferrable"])


def _template(up: str, down: str = "echo taken down", **more: Any) -> dict[str, Any]:
    script = {"type": "script"}
    return {
        "params": ["n"],
        "builds": {"up": {**script, "content": up}, "down": {**script, "content": down}, **more},
    }


@WAYS
def test_up_download_down(run_dag: Callable[..., Any], tmp_path: Path, door: Door, deferrable: bool) -> None:
    project = tmp_path / "pro ject"
    project.mkdir()
    (project / "greeting.txt").write_text("hello from the project\n")
    up = (
        f"#!/bin/sh\ncat greeting.txt\n{door.waits if deferrable else ''}\necho n={{{{ params.n }}}}\n"
        'echo data > "$JOBDEPLOY_OUTPUT_DIR/model.bin"\necho \'{"accuracy": 0.5}\' > "$JOBDEPLOY_RESULT_FILE"\n'
    )
    with DAG("up_down", schedule=None) as dag:
        one = TemplateUpOperator(
            task_id="up",
            template=_template(up),
            template_params={"n": "{{ 40 + 2 }}"},
            project_dir=project,
            deferrable=deferrable,
        )
        get = ArtifactDownloadOperator(task_id="get", job=one.output, dest=tmp_path / "models" / "{{ run_id }}")
        down = TemplateDownOperator(task_id="down", job=one.output, deferrable=deferrable)
        again = TemplateDownOperator(task_id="again", job=one.output)
        get >> down >> again
    run = run_dag(dag)
    assert run.state == "success", run.text
    handle = run.xcom("up")
    assert handle["status"] == "SUCCEEDED"
    assert handle["result"] == {"accuracy": 0.5}
    assert len(json.dumps({**handle, "result": None})) < 4096
    report = run.xcom("get")
    assert [file["path"] for file in report["files"]] == ["model.bin"]
    assert (Path(report["dest"]) / "model.bin").read_text() == "data\n"
    assert "hello from the project" in run.text
    assert "n=42" in run.text
    assert "was taken down before" in run.text
    assert ("running trigger in line" in run.text) == deferrable


@WAYS
def test_a_failing_job_fails_its_task_and_can_be_taken_down(run_dag: Callable[..., Any], deferrable: bool) -> None:
    with DAG("fails", schedule=None) as dag:
        up = TemplateUpOperator(
            task_id="up",
            template=_template("echo before\nsleep 0.5\nexit 3"),
            template_params={"n": 1},
            deferrable=deferrable,
        )
        down = TemplateDownOperator(task_id="down", job=up.output)
        up >> down.as_teardown()
    run = run_dag(dag)
    assert run.states() == {"up": "failed", "down": "success"}
    assert "Exit code 3" in run.text
    assert run.xcom("up")["status"] == "FAILED"
    assert run.xcom("up")["exit_code"] == 3


def test_run_params_are_taken_when_none_are_given(run_dag: Callable[..., Any]) -> None:
    with DAG("form", schedule=None, params={"n": 7, "other": 1}) as dag:
        TemplateUpOperator(task_id="up", template=_template("echo n={{ params.n }}"))
    run = run_dag(dag, run_conf={"n": 8})
    assert run.state == "success", run.text
    assert "n=8" in run.text


@WAYS
def test_a_job_spec(run_dag: Callable[..., Any], tmp_path: Path, deferrable: bool) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "spec.yaml").write_text(
        "command: |\n  echo $GREETING\n  sleep 0.5\n  printf '\\303\\274 end'\n"
    )
    with DAG("spec", schedule=None, template_searchpath=str(tmp_path)) as dag:
        JobRunOperator(
            task_id="run",
            job_spec="jobs/spec.yaml",
            overrides={"env": {"GREETING": "{{ 'hal' }}lo"}},
            deferrable=deferrable,
        )
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "hallo" in run.text
    assert "ü end" in run.text


def test_all_problems_are_told_before_anything_starts(run_dag: Callable[..., Any], home: Path) -> None:
    with DAG("wrong", schedule=None) as dag:
        JobRunOperator(task_id="run", job_spec={"comand": "true", "timeout": "soon"})
    run = run_dag(dag)
    assert run.state == "failed"
    assert "Did you mean 'command'" in run.text
    assert "timeout" in run.text
    assert not list(home.glob(".jobdeploy/hosts/*/jobs/*"))


def test_no_wait_then_sensor_then_stop(run_dag: Callable[..., Any]) -> None:
    with DAG("stop", schedule=None) as dag:
        start = JobRunOperator(
            task_id="start", job_spec={"command": "echo up; exec sleep 300"}, wait_for_completion=False
        )
        runs = JobStatusSensor(task_id="runs", job=start.output, target_status=["running"], poke_interval=0.2)
        never = JobStatusSensor(task_id="never", job=start.output, target_status="FAILED", deferrable=True)
        stop = JobStopOperator(task_id="stop", job=[start.output])
        start >> runs >> stop >> never
    run = run_dag(dag)
    assert run.states() == {"start": "success", "runs": "success", "stop": "success", "never": "failed"}
    assert run.xcom("start")["status"] == "RUNNING"
    assert run.xcom("stop")[0]["status"] == "CANCELLED"
    assert "can no longer be FAILED: Stopped by Airflow: stopped by task stop.stop" in run.text


def test_a_sensor_defers(run_dag: Callable[..., Any], door: Door) -> None:
    with DAG("waits", schedule=None) as dag:
        start = JobRunOperator(task_id="start", job_spec={"command": door.waits}, wait_for_completion=False)
        both = JobStatusSensor(task_id="both", job=[start.output, start.output], deferrable=True)
        start >> both
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert [handle["status"] for handle in run.xcom("both")] == ["SUCCEEDED", "SUCCEEDED"]
    assert "running trigger in line" in run.text


def test_other_builds_and_lists(run_dag: Callable[..., Any]) -> None:
    template = _template("echo up", purge={"type": "script", "content": "echo purged {{ params.n }}"})
    with DAG("lists", schedule=None) as dag:
        ups = [TemplateUpOperator(task_id=f"up{n}", template=template, template_params={"n": n}) for n in (1, 2)]
        outputs = [up.output for up in ups]
        purge = TemplateBuildOperator(task_id="purge", build="purge", job=outputs)
        down = TemplateDownOperator(task_id="down", job=outputs, deferrable=True)
        purge >> down
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert len(run.xcom("purge")) == 2
    assert "purged 1" in run.text
    assert "purged 2" in run.text


def test_down_of_what_never_came_up(run_dag: Callable[..., Any]) -> None:
    with DAG("nothing", schedule=None) as dag:
        up = TemplateUpOperator(task_id="up", template="no/such/file.yaml")
        down = TemplateDownOperator(task_id="down", job=up.output)
        stop = JobStopOperator(task_id="stop", job=up.output, trigger_rule="all_done")
        up >> down.as_teardown()
        up >> stop
    run = run_dag(dag)
    assert run.states() == {"up": "failed", "down": "success", "stop": "success"}
    assert "there is no file 'no/such/file.yaml'; looked for it at" in run.text
    assert "Nothing to take down" in run.text


def test_expand(run_dag: Callable[..., Any]) -> None:
    with DAG("mapped", schedule=None) as dag:

        @task
        def numbers() -> list[dict[str, int]]:
            return [{"n": 1}, {"n": 2}]

        up = TemplateUpOperator.partial(task_id="up", template=_template("echo n={{ params.n }}")).expand(
            template_params=numbers()
        )
        TemplateDownOperator(task_id="down", job=up.output)
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "n=1" in run.text
    assert "n=2" in run.text


def test_a_failed_try_is_followed_by_a_new_attempt(run_dag: Callable[..., Any], tmp_path: Path) -> None:
    flag = tmp_path / "seen"
    command = f"if [ -e '{flag}' ]; then echo attempt $JOBDEPLOY_ATTEMPT; else touch '{flag}'; exit 1; fi"
    with DAG("again", schedule=None) as dag:
        JobRunOperator(task_id="run", job_spec={"command": command}, retries=1, retry_delay=timedelta(0))
    run = run_dag(dag)
    assert run.state == "success", run.text
    assert "attempt 2" in run.text
    assert run.xcom("run")["attempt"] == 2


def test_execution_timeout_stops_the_job(run_dag: Callable[..., Any], home: Path) -> None:
    with DAG("late", schedule=None) as dag:
        JobRunOperator(
            task_id="run", job_spec={"command": "exec sleep 300", "grace": 1}, execution_timeout=timedelta(seconds=5)
        )
    run = run_dag(dag)
    assert run.state == "failed"
    assert "execution_timeout has passed" in run.text
    (directory,) = home.glob(".jobdeploy/hosts/*/jobs/*")
    assert (directory / "stop.json").exists()
