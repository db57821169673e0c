"""Constructors: only assign, and name the right operator for an argument that is not theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.operators.artifact import ArtifactDownloadOperator
from airflow_jobdeploy.operators.job import JobRunOperator, JobStopOperator
from airflow_jobdeploy.operators.template import TemplateBuildOperator, TemplateDownOperator, TemplateUpOperator
from airflow_jobdeploy.sensors.job import JobStatusSensor

HANDLE = {"uid": "ab" * 16, "job_id": "j" + "a" * 20, "worker_pool": "local", "worker": "local"}
SPEC = {"job_type": "run", "command": "true"}
TEMPLATE = {"builds": {"up": {"type": "script", "content": "true"}, "down": {"type": "script", "content": "true"}}}

WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (
        TemplateUpOperator,
        {"job_spec": "a.yaml"},
        r"TemplateUpOperator takes no job_spec=: use JobRunOperator\(job_spec",
    ),
    (TemplateUpOperator, {"job": HANDLE}, r"takes no job=: use TemplateDownOperator\(job"),
    (TemplateUpOperator, {}, "TemplateUpOperator needs template="),
    (TemplateUpOperator, {"template": HANDLE}, "got a job handle; .* TemplateDownOperator"),
    (TemplateUpOperator, {"template": SPEC}, "got a job spec; use JobRunOperator"),
    (TemplateUpOperator, {"template": TEMPLATE, "project_dir": "a", "workdir": "/b"}, "project_dir= .* or workdir="),
    (JobRunOperator, {"template": TEMPLATE}, r"takes no template=: use TemplateUpOperator\(template"),
    (JobRunOperator, {"job_spec": TEMPLATE}, "got a template; use TemplateUpOperator"),
    (JobRunOperator, {"job_spec": HANDLE}, "got a job handle"),
    (JobRunOperator, {}, "JobRunOperator needs job_spec="),
    (
        JobStopOperator,
        {"job": "jobs/train.yaml"},
        "not the file 'jobs/train.yaml'; to run a file use TemplateUpOperator",
    ),
    (JobStopOperator, {"job": Path("x")}, "not the file 'x'"),
    (JobStopOperator, {"job": SPEC}, "not a job spec; use JobRunOperator"),
    (JobStopOperator, {}, "JobStopOperator needs job="),
    (TemplateDownOperator, {"job": TEMPLATE}, "not a template; use TemplateUpOperator"),
    (TemplateDownOperator, {"job": HANDLE, "build": "x"}, "takes no build=: use TemplateBuildOperator"),
    (TemplateDownOperator, {"template": "a.yaml"}, "TemplateDownOperator takes no template=: use TemplateUpOperator"),
    (TemplateBuildOperator, {"job": HANDLE}, "TemplateBuildOperator needs build="),
    (ArtifactDownloadOperator, {"job": HANDLE}, "ArtifactDownloadOperator needs dest="),
    (ArtifactDownloadOperator, {"job": "a.yml", "dest": "x"}, "not the file 'a.yml'"),
    (JobStatusSensor, {"job": TEMPLATE}, "not a template"),
    (JobStatusSensor, {"job_spec": SPEC}, "JobStatusSensor takes no job_spec=: use JobRunOperator"),
]


@pytest.mark.parametrize(("operator", "given", "message"), WRONG)
def test_wrong_arguments(operator: Callable[..., Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        operator(task_id="t", **given)


def _all() -> list[Any]:
    return [
        TemplateUpOperator(task_id="up", template="{{ params.file }}", template_params={"a": "{{ ds }}"}),
        TemplateDownOperator(task_id="down", job="{{ ti.xcom_pull('up') }}"),
        TemplateBuildOperator(task_id="build", job=HANDLE, build="{{ params.build }}"),
        JobRunOperator(task_id="run", job_spec={"command": "echo {{ ds }}"}, worker_pool="{{ params.pool }}"),
        JobStopOperator(task_id="stop", job=[HANDLE, HANDLE]),
        ArtifactDownloadOperator(task_id="get", job=HANDLE, dest="m/{{ run_id }}", patterns=["*.json"]),
        JobStatusSensor(task_id="wait", job=HANDLE, target_status=["RUNNING", "SUCCEEDED"]),
    ]


def test_nothing_is_read_when_a_dag_is_parsed() -> None:
    for operator in _all():
        assert tuple(operator.template_ext) == ()
        for name in operator.template_fields:
            assert hasattr(operator, name), (operator.task_id, name)


def test_dags_with_them_survive_serialization() -> None:
    from airflow.sdk import DAG
    from airflow.serialization.serialized_objects import DagSerialization

    with DAG("d", schedule=None) as dag:
        _all()
    copy = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(dag))
    assert sorted(copy.task_ids) == sorted(dag.task_ids)


def test_partial_expand_groups_and_teardowns() -> None:
    from airflow.sdk import DAG, TaskGroup

    with DAG("d", schedule=None) as dag:
        with TaskGroup("g"):
            up = TemplateUpOperator.partial(task_id="up", template=TEMPLATE).expand(
                template_params=[{"n": 1}, {"n": 2}]
            )
        down = TemplateDownOperator.partial(task_id="down").expand(job=up.output)
        one = TemplateUpOperator(task_id="one", template=TEMPLATE).as_setup()
        gone = TemplateDownOperator(task_id="gone", job=one.output).as_teardown(setups=one)
        up >> one
    assert dag.get_task("g.up").downstream_task_ids == {"down", "one"}
    assert down.upstream_task_ids == {"g.up"}
    assert gone.is_teardown
    assert one.task_id in gone.upstream_task_ids


def _rendered(operator: Any, **context: Any) -> Any:
    import jinja2

    operator.render_template_fields(context, jinja2.Environment())
    return operator


def test_a_templates_jinja_is_its_own() -> None:
    mapping = {"builds": {"up": {"type": "script", "content": "{{ params.x }}"}}, "values": {"v": "{{ 1 }}"}}
    up = _rendered(TemplateUpOperator(task_id="t", template=mapping, workdir="/{{ where }}"), where="srv")
    assert up.template == mapping
    assert up.workdir == "/srv"


def test_a_template_given_as_a_path_is_rendered() -> None:
    up = _rendered(TemplateUpOperator(task_id="t", template="{{ name }}.yaml"), name="x")
    assert up.template == "x.yaml"


def test_path_objects_are_rendered_too() -> None:
    get = ArtifactDownloadOperator(task_id="t", job=HANDLE, dest=Path("models") / "{{ run_id }}")
    assert _rendered(get, run_id="r1").dest == "models/r1"


def test_specs_are_rendered_but_for_builds_inside() -> None:
    builds = {"up": {"content": "{{ params.x }}"}}
    run = JobRunOperator(
        task_id="t",
        job_spec={"command": "echo {{ who }}", "description": "{{ who }}"},
        overrides={"env": {"WHO": "{{ who }}"}, "builds": builds},
    )
    _rendered(run, who="me")
    assert run.job_spec == {"command": "echo me", "description": "me"}
    assert run.overrides == {"env": {"WHO": "me"}, "builds": builds}


def test_a_file_ending_in_yaml_is_not_read_by_airflow() -> None:
    run = _rendered(JobRunOperator(task_id="t", job_spec="jobs/{{ x }}.yaml"), x="train")
    assert run.job_spec == "jobs/train.yaml"
