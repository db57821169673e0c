"""Job specs: every field, every rule, older spellings, overrides, JSON both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from airflow_jobdeploy.core.gpus import GpuWish
from airflow_jobdeploy.core.spec import JobSpec, load_spec
from airflow_jobdeploy.core.support import unsupported
from airflow_jobdeploy.errors import SpecError

GB = 1 << 30


def spec(**fields: Any) -> JobSpec:
    return load_spec({"command": "x", **fields})


def problems(**fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        spec(**fields)
    return "\n".join(str(problem) for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("field", "written", "attribute", "value"),
    [
        ("timeout", 60, "timeout_s", 60),
        ("timeout", "90", "timeout_s", 90),
        ("timeout", "1d2h3m4s", "timeout_s", 93784),
        ("grace", 0, "grace_s", 0),
        ("keep_for", "7d", "keep_for_s", 604800),
        ("memory", 16, "memory_bytes", 16 * GB),
        ("memory", "16", "memory_bytes", 16 * GB),
        ("memory", "16GB", "memory_bytes", 16 * GB),
        ("memory", "512 MiB", "memory_bytes", 512 << 20),
        ("memory", 0.5, "memory_bytes", GB // 2),
        ("disk_space", "1.5g", "disk_space_bytes", 3 * GB // 2),
        ("log_limit", 1000, "log_limit_bytes", 1000),
        ("log_limit", "10MB", "log_limit_bytes", 10 << 20),
        ("cpu_count", 0.5, "cpu_count", 0.5),
        ("gpu_types", [{"type": "A100", "count": 2}], "gpu_types", (GpuWish(type="A100", count=2),)),
        ("gpu_types", [{"name": "A100"}], "gpu_types", (GpuWish(type="A100", count=1),)),
        ("gpu_types", [{"type": "A100", "count": 0}], "gpu_types", ()),
        ("gpu_types", [{"type": "A100", "memory": 40}], "gpu_types", (GpuWish(type="A100", memory_bytes_min=40 * GB),)),
        ("args", "--name 'a b' c", "args", ("--name", "a b", "c")),
        ("args", ["--n", 3, 0.5, "a b"], "args", ("--n", "3", "0.5", "a b")),
        ("args", [], "args", ()),
        ("command", ["echo", "a b"], "command", "echo 'a b'"),
        ("command", "set -e\nmake\n", "command", "set -e\nmake\n"),
        ("env", [{"name": "A", "value": 1}, "B=x=y", "C="], "env", {"A": "1", "B": "x=y", "C": ""}),
        ("env", {"A": "1", "B": True}, "env", {"A": "1", "B": "true"}),
        ("secret_env", {"A": "conn:db.password"}, "secret_env", {"A": "conn:db.password"}),
        ("signal", "int", "signal", "SIGINT"),
        ("entry_script", "./src/main.py", "entry_script", "src/main.py"),
        ("requirements", ["torch", "numpy<2"], "requirements", ("torch", "numpy<2")),
        ("requirements", "more/requirements.txt", "requirements", "more/requirements.txt"),
        ("python", "3.11", "python", "python3.11"),
        ("python", "python3.11", "python", "python3.11"),
        ("python", "/opt/py/bin/python", "python", "/opt/py/bin/python"),
        ("tags", ["a"], "tags", ("a",)),
        ("preemptible", "false", "preemptible", False),
        ("project_dir", "my dir; rm -rf /\n", "project_dir", "my dir; rm -rf /\n"),
        ("timeout", None, "timeout_s", None),
    ],
)
def test_fields(field: str, written: Any, attribute: str, value: Any) -> None:
    found = getattr(spec(**{field: written}), attribute)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("field", "written", "said"),
    [
        ("job_name", 5, "expected text"),
        ("job_name", "a\x1bb", "control character"),
        ("job_name", " ", "must not be empty"),
        ("job_type", "service", "is none of run, deploy"),
        ("timeout", 0, "too short"),
        ("timeout", -1, "too short"),
        ("timeout", "", "expected seconds"),
        ("timeout", "1s2m", "expected seconds"),
        ("timeout", True, "expected seconds"),
        ("timeout", float("inf"), "cannot be kept"),
        ("port", float("nan"), "cannot be kept"),
        ("port", 1 << 100, "cannot be kept"),
        ("timeout", 1e18, "more than a hundred years"),
        ("timeout", "999999999d", "more than a hundred years"),
        ("memory", "16X", "expected a size"),
        ("memory", 0, "not a possible size"),
        ("memory", "9" * 15 + "P", "not a possible size"),
        ("port", 0, "less than 1"),
        ("port", 65536, "more than 65535"),
        ("port", 80.5, "expected a whole number"),
        ("cpu_count", 0, "not more than 0"),
        ("gpu_types", {"A100": 1}, "expected a list of {type, count}"),
        ("gpu_types", [{"count": 1}], "a GPU needs 'type'"),
        ("gpu_types", [{"type": "A", "count": 1.5}], "expected a whole number"),
        ("gpu_types", [{"type": "A"}, {"type": "A"}], "given twice"),
        ("args", "a 'b", "cannot be split"),
        ("args", [["a"]], "expected text or a number"),
        ("args", ["a\0b"], "NUL"),
        ("command", "a\0b", "control character"),
        ("env", "A=1", "expected a mapping, a list of"),
        ("env", ["A"], "expected NAME=value"),
        ("env", {"A": [1]}, "expected a value"),
        ("env", ["A=1", "A=2"], "A is given twice"),
        ("env", {"JOBDEPLOY_JOB_ID": "x"}, "are taken"),
        ("env", {"A B": "x"}, "not a name"),
        ("secret_env", {"A": "literal"}, "must not be written here"),
        ("signal", "SIGKILL", "no time to end"),
        ("signal", 9, "expected a signal's name"),
        ("entry_script", "/etc/passwd", "is an absolute path"),
        ("entry_script", "a/../../b", "leaves its folder"),
        ("tags", ["a", 1], "expected text"),
        ("requirements", 3, "expected a list of packages, or the path"),
        ("requirements", "a\nb", "Write a list, a line each"),
        ("requirements", "../x.txt", "leads out of the project"),
        ("requirements", ["numpy", "-e ."], "nothing in it can be edited"),
        ("python", "3.11.4", "Give the first two numbers"),
        ("python", True, "expected text"),
        ("dirty", "yes", "expected include or refuse"),
        ("dirty", "refused", "Did you mean 'refuse'?"),
        ("dirty", 1, "expected include or refuse"),
        ("repo", "ext::sh -c x", "would run a program"),
        ("repo", "https://me:s3cr3t@example.org/x", "holds a user or password"),
        ("ref", "-x", "begins with '-'"),
        ("ref", "a..b", "no branch, tag or commit"),
        ("bundle_limit", "2 potatoes", "expected a size"),
        ("app_api_token", "s3cr3t", "name it in `secret_env`"),
        ("ignore_patterns", [], "use .gitignore"),
    ],
)
def test_wrong_values(field: str, written: Any, said: str) -> None:
    found = problems(**{field: written})
    assert said in found
    assert "s3cr3t" not in found


@pytest.mark.parametrize(
    ("written", "read"),
    [("include", "include"), ("Refuse", "refuse"), (True, "include"), (False, "refuse"), ("true", "include")],
)
def test_dirty_is_a_word_or_a_flag(written: Any, read: str) -> None:
    assert spec(dirty=written).dirty == read
    assert spec().dirty == "include"


def test_a_folder_in_a_repository_is_a_relative_path() -> None:
    url = "https://example.org/a/b.git"
    assert load_spec({"command": "x", "repo": url, "project_dir": "./sub"}).project_dir == "./sub"
    assert "leaves its folder" in problems(repo=url, project_dir="../x")
    assert "is an absolute path" in problems(repo=url, project_dir="/x")
    assert "repo and workdir are both given" in problems(repo=url, workdir="/x")


def test_values_of_env_are_as_written(write: Callable[..., None]) -> None:
    write(spec="command: x\nenv: {A: 3.10, B: yes, C: 0x10, D: 007, E: '', F: 1e3}\nargs: [3.10, no]\n")
    found = load_spec("spec.yaml")
    assert found.env == {"A": "3.10", "B": "yes", "C": "0x10", "D": "007", "E": "", "F": "1e3"}
    assert found.args == ("3.10", "no")


@pytest.mark.parametrize(
    ("older", "attribute", "value"),
    [
        ({"context": "."}, "project_dir", "."),
        ({"job_timeout": 5}, "timeout_s", 5),
        ({"creation_timeout": 5}, "setup_timeout_s", 5),
        ({"autoscaler_timeout": 5}, "idle_timeout_s", 5),
        ({"gpu_type": "A100", "gpu_count": 2}, "gpu_types", (GpuWish(type="A100", count=2),)),
        ({"gpu_type": "A100"}, "gpu_types", (GpuWish(type="A100"),)),
        ({"gpu_count": 0}, "gpu_types", ()),
        ({"gpu_type": None, "gpu_count": None}, "gpu_types", ()),
    ],
)
def test_older_spellings(older: dict[str, Any], attribute: str, value: Any) -> None:
    found = spec(**older)
    assert getattr(found, attribute) == value
    assert bool(found.warnings) == bool(value)


def test_docker_command_is_an_older_spelling_of_command() -> None:
    assert load_spec({"docker_command": "x"}).command == "x"


@pytest.mark.parametrize(
    "both",
    [
        {"timeout": 1, "job_timeout": 2},
        {"gpu_types": [], "gpu_type": "A100"},
        {"gpu_count": 2},
    ],
)
def test_older_and_present_spelling_of_one_field(both: dict[str, Any]) -> None:
    assert problems(**both)


# -- Rules


def test_a_project_needs_something_to_run() -> None:
    with pytest.raises(SpecError, match="a project_dir with nothing to run in it"):
        load_spec({"project_dir": ".", "docker_image": "x"})
    for work in ({"entry_script": "a.py"}, {"args": "a"}, {"command": "a"}):
        load_spec({"project_dir": ".", **work})
    load_spec({"docker_image": "x"})


def test_services_need_a_port_and_a_health_endpoint() -> None:
    assert "needs port and health_endpoint" in problems(job_type="deploy")
    assert "needs health_endpoint." in problems(job_type="deploy", port=80)
    spec(job_type="deploy", port=80, health_endpoint="/ok")


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"entry_script": "a.py", "args": "b", "command": None}, "the script is run with args"),
        ({"entry_script": "a.py"}, "entry_script is not used, since command is given"),
        ({"requirements": ["x"], "docker_image": "x"}, "requirements without project_dir may conflict"),
        ({"primeway_api_token": "s3cr3t"}, "primeway_api_token is not needed here and is not kept"),
    ],
)
def test_warnings(fields: dict[str, Any], warning: str) -> None:
    found = spec(**fields)
    assert len(found.warnings) == 1
    assert warning in found.warnings[0]
    assert "s3cr3t" not in repr(found) + json.dumps(found.to_dict())


def test_a_token_of_any_type_is_not_shown() -> None:
    found = spec(primeway_api_token=["s3cr3t"])
    assert "s3cr3t" not in repr(found) + str(found.warnings) + str(found.given)


def test_workdir_and_project_dir_exclude_each_other() -> None:
    assert "Keep one" in problems(project_dir=".", workdir="/srv")


def test_one_variable_in_both_environments() -> None:
    assert "A is in env as well" in problems(env={"A": "1"}, secret_env={"A": "var:a"})


# -- Overrides and JSON


def test_overrides_replace_fields_and_null_resets_them() -> None:
    found = load_spec(
        {"command": "x", "job_timeout": 5, "env": {"A": "1"}, "tags": ["a"]},
        overrides={"timeout": 6, "env": {"B": "2"}, "tags": None},
    )
    assert (found.timeout_s, found.env, found.tags) == (6, {"B": "2"}, ())
    assert (found.given["timeout"], found.given["command"]) == ("<overrides>", "<job_spec>")


def test_problems_of_spec_and_overrides_come_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        load_spec({"comand": 1}, overrides={"timout": 2, 3: 4})  # type: ignore[dict-item]
    assert len(caught.value.problems) == 3


EVERYTHING: dict[str, Any] = {
    "command": "x",
    "args": ["a"],
    "timeout": "1h",
    "memory": 16,
    "gpu_types": [{"type": "A100", "count": 2}],
    "env": {"A": "1"},
    "secret_env": {"B": "var:b"},
    "tags": ["t"],
    "volumes": ["storage:x:/x", {"storage_uri": "storage:/p/a%3Ab", "container_path": "/mnt/a", "read_only": True}],
    "retry": {"on": ["worker_lost", {"exit_code": [75]}], "max": 3, "delay": "1m"},
    "job_name": "größe",
}


def test_json_both_ways() -> None:
    found = load_spec(EVERYTHING)
    assert JobSpec.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert JobSpec.from_dict({}) == JobSpec()
    assert JobSpec().to_dict() == {}


@pytest.mark.parametrize("data", [{"nothing": 1}, {"gpu_types": [{"x": 1}]}, {"gpu_types": [3]}])
def test_json_of_another_release(data: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="is not a job spec of this release"):
        JobSpec.from_dict(data)


# -- What can be honoured


@pytest.mark.parametrize("kind", ["local", "ssh", "memory"])
def test_what_every_pool_honours(kind: str) -> None:
    fields = {
        "job_name": "n", "job_type": "run", "entry_script": "a.py", "args": "b", "project_dir": ".",
        "python": "python3", "requirements": ["x"],
        "env": {"A": "1"}, "secret_env": {"B": "var:b"}, "timeout": 1, "setup_timeout": 1, "schedule_timeout": 1,
        "grace": 1, "signal": "INT", "log_limit": 1, "leftovers": "wait", "keep_for": 1, "tags": ["t"],
        "description": "d", "worker_pool": "lab", "framework": "pytorch", "on_orphan": "stop",
        "preemptible": True, "on_preemption": "retry", "max_preemptions": 3, "worker_lost_after": 30, "retry": 2,
        "life_span": "1d", "restart_policy": "never", "primeway_api_token": "x",
    }  # fmt: skip
    assert unsupported(load_spec(fields), kind=kind) == []


def test_whoever_waits_restarts_a_job_on_any_pool() -> None:
    asked = spec(restart_policy="always", life_span=60)
    assert (asked.restart_policy, asked.life_span_s) == ("always", 60)
    assert all(unsupported(asked, kind=kind) == [] for kind in ("local", "ssh", "docker", "memory"))


def test_retry_and_restart_policy_are_two_answers_to_one_question() -> None:
    with pytest.raises(SpecError, match="retry and restart_policy are both given"):
        spec(retry=2, restart_policy="on-failure")
    assert spec(retry=2, restart_policy="never").retry is not None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("docker_image", "x"),
        ("apt_packages", ["jq"]),
        ("port", 80),
        ("health_endpoint", "/"),
        ("schedule_start", "x"),
        ("schedule_end", "x"),
        ("idle_timeout", 1),
        ("worker_required", 2),
        ("pull", "always"),
        ("dockerfile", "Dockerfile"),
        ("shm_size", 1),
        ("pids_limit", 1),
    ],
)
def test_what_no_pool_honours_yet(field: str, value: Any) -> None:
    found = unsupported(spec(**{field: value}), kind="ssh")
    assert [problem.path for problem in found] == [field]
    assert found[0].hint.startswith("It needs ")
    with pytest.raises(SpecError, match="cannot honour"):
        load_spec({"command": "x", field: value}, kind="ssh")


def test_values_that_ask_for_nothing_are_honoured() -> None:
    nothing: dict[str, Any] = {
        "requirements": [],
        "gpu_types": [{"type": "A100", "count": 0}],
        "docker_image": None,
        "volumes": [],
        "worker_required": 1,
        "priority": "normal",
        "where": {},
    }
    assert unsupported(spec(**nothing), kind="local") == []
