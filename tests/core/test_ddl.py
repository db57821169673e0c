"""DDL's task.yaml as a job spec, and what becomes of credentials in files."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_jobdeploy.core.spec import JobSpec, load_spec
from airflow_jobdeploy.core.support import unsupported
from airflow_jobdeploy.errors import SpecError

Write = Callable[..., None]

#: As printed in DDL's documentation.
TASK = """\
job_data:
  dataset:
    dataset_location: <your_path>/dataset/
  worker_required: 1
"""


def problems(**fields: Any) -> list[str]:
    with pytest.raises(SpecError) as caught:
        load_spec(fields)
    return [str(problem) for problem in caught.value.problems]


def test_the_sample_as_printed(write: Write) -> None:
    write(task=TASK)
    spec = load_spec("task.yaml")
    assert spec.to_dict() == {"call_main": True, "dataset_location": "<your_path>/dataset/", "dirty": "refuse"}
    assert spec.given == {
        "dataset_location": "task.yaml:3",
        "worker_required": "task.yaml:4",
    }
    assert spec.warnings == ()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"job_data": {}}, {"call_main": True}),
        ({"job_data": None}, {"call_main": True}),
        ({"job_data": {"dataset": None, "worker_required": None}}, {"call_main": True}),
        ({"job_data": {}, "args": "--epochs 3"}, {"call_main": True, "args": ["--epochs", "3"]}),
        ({"job_data": {}, "call_main": None}, {"call_main": True}),
        ({"job_data": {}, "command": "make"}, {"command": "make"}),
        ({"job_data": {}, "entry_script": "train.py"}, {"entry_script": "train.py"}),
        ({"job_data": {}, "job_type": "tensorflow"}, {"call_main": True, "framework": "tensorflow"}),
        ({"job_data": {}, "job_type": "pt"}, {"call_main": True, "framework": "pytorch"}),
        ({"job_data": {}, "timeout": 60}, {"call_main": True, "timeout_s": 60}),
        ({"command": "x", "job_type": "tensorflow"}, {"command": "x", "framework": "tensorflow"}),
        ({"call_main": True}, {"call_main": True}),
        ({"job_data": {"model_location": "model/"}}, {"call_main": True, "project_dir": "model/"}),
    ],
)  # fmt: skip
def test_what_files_of_ddl_mean(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    found = load_spec(fields)
    assert found.to_dict() == {**expected, **({"dirty": "refuse"} if "job_data" in fields else {})}
    assert JobSpec.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_overrides_lie_over_it() -> None:
    spec = load_spec({"job_data": {"worker_required": 2}}, overrides={"worker_required": 1, "command": "make"})
    assert (spec.worker_required, spec.command, spec.call_main) == (1, "make", False)
    assert load_spec({"job_data": {}}, overrides={"dirty": "include"}).dirty == "include"


def test_more_than_one_worker_is_refused(write: Write) -> None:
    write(task=TASK.replace("required: 1", "required: 2"))
    problem = unsupported(load_spec("task.yaml"), kind="ssh")[-1]
    assert problem.where == "task.yaml:4"
    assert "worker_required" in problem.message
    assert problem.hint == "It needs jobs over several workers (a later release)."


def test_typos_are_named_with_the_nearest_key_all_at_once() -> None:
    job_data = {"datasett": {}, "dataset": {"dataset_locaton": "x", "dataset_name": "mnist"}, "worker_required": 0}
    assert problems(job_data=job_data, job_type="tensorflw", xyzzy=3) == [
        "<job_spec>: job_data.datasett: job_data has no field 'datasett'. Did you mean 'dataset'?",
        "<job_spec>: job_data.dataset.dataset_locaton: job_data.dataset has no field 'dataset_locaton'. "
        "Did you mean 'dataset_location'?",
        "<job_spec>: job_data.dataset.dataset_name: job_data.dataset has no field 'dataset_name'. There is no list of "
        "datasets here: give dataset_location, a folder, file or storage:path.",
        "<job_spec>: job_data.worker_required: 0 is less than 1.",
        "<job_spec>: job_type: text 'tensorflw' is none of run, deploy.",
        "<job_spec>: xyzzy: a job spec has no field 'xyzzy'.",
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"job_data": [1]}, "expected a mapping (job_data), found a list."),
        ({"job_data": {"dataset": "data/"}}, "expected a mapping (job_data.dataset), found text 'data/'."),
        ({"job_data": {"dataset": {"dataset_location": "a"}}, "dataset_location": "b"}, "Keep one."),
        ({"job_data": {}, "job_type": "tensorflow", "framework": "pytorch"}, "framework is given here and as a field"),
        ({"job_data": {}, "call_main": True, "command": "x"}, "call_main and command are both given."),
        ({"job_data": {}, "call_main": False}, "the job has nothing to run."),
        ({"job_data": {"worker_required": "many"}}, "expected a whole number"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], said: str) -> None:
    assert said in "\n".join(problems(**fields))


SECRETS = """\
email: ann@example.org
password: hunter2
primeway_api_token: t0ken
job_data:
  email: &mail ann@example.org
  dataset: {dataset_location: data, password: [hunter2, {password: hunter2}]}
env: {password: "the user's own"}
retry: {on: [setup], password: hunter2}
"""


def test_credentials_are_taken_out_wherever_they_stand(write: Write) -> None:
    write(task=SECRETS)
    spec = load_spec("task.yaml")
    assert [warning.partition(" is not needed")[0] for warning in spec.warnings] == [
        "task.yaml:1: email",
        "task.yaml:2: password",
        "task.yaml:3: primeway_api_token",
        "task.yaml:5: email",
        "task.yaml:6: password",
        "task.yaml:8: password",
    ]
    told = repr(spec) + json.dumps(spec.to_dict()) + "".join(spec.warnings) + repr(dict(spec.given))
    assert not any(secret in told for secret in ("hunter2", "ann@", "t0ken"))
    assert spec.env == {"password": "the user's own"}
    assert [path.name for path in spec.with_credentials] == ["task.yaml"]


def test_problems_do_not_show_credentials(write: Write) -> None:
    write(task="email: ann@example.org\npassword: hunter2\njob_dta: {}\n")
    write(broken="job_data:\n  dataset: {}\n    password: hunter2\n  worker_required: 1\n")
    write(quote='password: "hunter2\njob_data: {}\n')
    write(number="password: !!int hunter2\njob_data: {}\n")
    for name in ("task", "broken", "quote", "number"):
        with pytest.raises(SpecError) as caught:
            load_spec(f"{name}.yaml")
        assert "hunter2" not in str(caught.value), name
        assert "ann@" not in str(caught.value)
