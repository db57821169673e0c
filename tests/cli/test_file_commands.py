"""`validate` and `render`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli

BAD = "comand: echo\ntimeout: never\n"


def test_validate_tells_kinds_apart(cli: Cli, service_yaml: Path, home: Path) -> None:
    (home / "job.yaml").write_text("command: echo\n")
    (home / "pool.yaml").write_text("kind: local\n")
    done = cli("validate", "service.yaml", "job", "pool.yaml")
    assert done.code == 0, done.err
    assert done.out.splitlines() == [
        "ok     service.yaml: template, 2 params; 4 builds",
        "ok     job: job spec",
        "ok     pool.yaml: worker pool, local, 1 worker",
    ]


def test_validate_says_all_problems_of_all_files(cli: Cli, service_yaml: Path, home: Path) -> None:
    (home / "bad.yaml").write_text(BAD)
    done = cli("validate", "bad.yaml", "servce.yaml", "service.yaml")
    assert done.code == 1
    assert "wrong  bad.yaml: job spec, 2 problems" in done.out
    assert "bad.yaml:1: comand: a job spec has no field 'comand'. Did you mean 'command'?" in done.out
    assert "bad.yaml:2: timeout: expected seconds" in done.out
    assert "there is no file 'servce.yaml'. Did you mean 'service.yaml'?" in done.out
    assert "ok     service.yaml" in done.out


def test_validate_as_data(cli: Cli, home: Path) -> None:
    (home / "bad.yaml").write_text(BAD)
    (one,) = cli("validate", "bad.yaml", "-o", "json").data
    assert (one["file"], one["kind"], one["ok"]) == ("bad.yaml", "job spec", False)
    assert one["problems"][0] == {
        "where": "bad.yaml:1",
        "path": "comand",
        "message": "a job spec has no field 'comand'.",
        "hint": "Did you mean 'command'?",
    }


def test_validate_renders_what_can_be_rendered(cli: Cli, home: Path) -> None:
    """A template whose params all have defaults is tried: this one asks for a pool that there is not yet."""
    (home / "t.yaml").write_text(
        "params: {n: {default: 1}}\n"
        "builds:\n  up: {type: job, content: {command: 'true', docker_image: 'x:{{ params.n }}'}}\n"
        "  down: {type: script, content: 'true'}\n"
    )
    done = cli("validate", "t.yaml")
    assert done.code == 1
    assert "t.yaml:3" in done.out
    assert "docker_image" in done.out


def test_validate_for_a_pool_that_is_not_known_here(cli: Cli, home: Path, airflow_db: None) -> None:
    (home / "job.yaml").write_text("command: echo\nworker_pool: elsewhere\n")
    done = cli("validate", "job.yaml")
    assert done.code == 0
    assert "warning: The worker pool 'elsewhere' is not known here" in done.err
    assert cli("validate", "job.yaml", "--worker-pool", "elsewhere").code == 1


def test_render_a_template(cli: Cli, service_yaml: Path) -> None:
    done = cli("render", "service.yaml", "--params", "port=1,name=it's")
    assert done.out.startswith('# -- up (script)\necho "serving it\'s on 1"\n')
    assert "# -- purge (script)\necho purged\n" in done.out


def test_render_one_build_as_it_is(cli: Cli, service_yaml: Path) -> None:
    done = cli("render", "service.yaml", "--build", "up")
    assert done.out == 'echo "serving web on 8000"\nnohup sleep 300 >/dev/null 2>&1 &\n'
    done = cli("render", "service.yaml", "--build", "upp")
    assert (done.code, done.out) == (1, "")
    assert "the template has no build 'upp'. Did you mean 'up'?" in done.err


def test_render_keeps_secrets_references(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_VAR_TOKEN", "s3cret")
    (home / "t.yaml").write_text(
        "params: {token: {secret: true}}\nbuilds:\n"
        "  up: {type: script, content: 'login {{ params.token }}'}\n  down: {type: script, content: 'true'}\n"
    )
    done = cli("render", "t.yaml", "--params", "token=var:TOKEN", "-o", "json")
    assert done.data["builds"]["up"]["content"] == "login var:TOKEN"
    assert done.data["secrets"] == ["var:TOKEN"]
    assert "s3cret" not in done.out + done.err


def test_render_a_spec_and_a_pool(cli: Cli, home: Path) -> None:
    (home / "job.yaml").write_text("command: echo\n")
    (home / "pool.yaml").write_text("kind: local\n")
    done = cli("render", "job.yaml", "--set", "timeout=2h")
    assert yaml.safe_load(done.out) == {"command": "echo", "timeout_s": 7200}
    assert cli("render", "pool.yaml", "-o", "json").data["kind"] == "local"
    assert cli("render", "pool.yaml", "--params", "a=1").code == 2
    assert cli("render", "job.yaml", "--build", "up").code == 2


@pytest.mark.parametrize("words", [["run", "service.yaml"], ["up", "job.yaml"], ["up", "nope"], ["run", "broken.yaml"]])
def test_files_of_another_kind(cli: Cli, service_yaml: Path, home: Path, words: list[str]) -> None:
    (home / "job.yaml").write_text("command: echo\n")
    (home / "broken.yaml").write_text("command: [\n")
    done = cli(*words)
    assert (done.code, done.out) == (1, "")
    expected = {
        "service.yaml": "service.yaml: this is a template, expected a job spec; use: airflow jobdeploy up service.yaml",
        "job.yaml": "job.yaml: this is a job spec, expected a template; use: airflow jobdeploy run job.yaml",
        "nope": "there is no file 'nope'",
        "broken.yaml": "broken.yaml:",
    }
    assert done.err.startswith("error: ")
    assert expected[words[1]] in done.err
    assert "Traceback" not in done.err


def test_params_that_are_wrong(cli: Cli, service_yaml: Path) -> None:
    done = cli("up", "service.yaml", "--params", "prot=3,port=99999")
    assert done.code == 1
    assert "the template has no param 'prot'. Did you mean 'port'?" in done.err
    assert "99999 is more than 9000" in done.err
    assert cli("up", "service.yaml", "--params", "port").code == 2
    assert cli("up", "service.yaml", "--project-dir", ".", "--workdir", "/").code == 2


def test_validate_asks_the_pool_for_images_and_presets(cli: Cli, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"kind": "local", "host_images": ["ubuntu:*"], "presets": {"small": {"cpu": 1}}}
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    (home / "good.yaml").write_text("command: x\nworker_pool: lab\npreset: small\ndocker_image: ubuntu:24.04\n")
    done = cli("validate", "good.yaml")
    assert (done.code, "ubuntu:24.04 is not used" in done.out + done.err) == (0, True)
    (home / "bad.yaml").write_text(
        "command: x\nworker_pool: lab\npreset: smal\ndocker_image: debian:12\nwhere: {zone: a}\n"
    )
    (one,) = cli("validate", "bad.yaml", "-o", "json").data
    assert [problem["path"] for problem in one["problems"]] == ["preset", "docker_image", "where.zone"]
    assert "Did you mean 'small'?" in one["problems"][0]["hint"]
    assert "host_images: ['debian:12']" in one["problems"][1]["hint"]


def test_validate_says_what_the_pools_storage_cannot_do(cli: Cli, home: Path) -> None:
    (home / "task.yaml").write_text("password: hunter2\njob_data:\nvolumes: [storage:a:/mnt]\n")
    done = cli("validate", "task.yaml")
    assert done.code == 1
    assert "task.yaml:3: volumes: pool 'local' has no storage." in " ".join(done.out.split())
    assert "hunter2" not in done.out + done.err
