"""Pools: what there is, whether it answers, and the commands on a real SSH host."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli, begun
from tests.faults.processes import environ, eventually, pids

Write = Callable[..., str]


@pytest.fixture
def stored(airflow_db: None) -> str:
    """The id of an ssh connection in the metadata database; Airflow shows those to processes of its own only."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import delete

    with create_session() as session:
        session.execute(delete(Connection).where(Connection.conn_id == "stored_host"))
        session.add(Connection(conn_id="stored_host", conn_type="ssh", host="127.0.0.1", port=1, login="me"))
    return "stored_host"


@pytest.mark.airflow
def test_pools_of_the_database_and_of_the_environment(cli: Cli, stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": {"kind": "ssh"}}))
    monkeypatch.setenv("AIRFLOW_CONN_BY_URI", "ssh://me@example.org")
    monkeypatch.setenv("AIRFLOW_CONN_DB", "postgres://me@example.org")
    rows = {row["worker_pool"]: row for row in cli("pools", "ls", "-o", "json").data}
    assert {"local", stored, "lab", "by_uri"} <= set(rows)
    assert "db" not in rows
    assert (rows[stored]["kind"], rows[stored]["workers"]) == ("ssh", [{"name": stored, "slots": None}])
    assert "an ssh pool needs workers" in rows["lab"]["error"]
    assert "_AIRFLOW_PROCESS_CONTEXT" not in os.environ  # jobs of pool local inherit the environment


@pytest.mark.airflow
def test_a_host_that_does_not_answer(cli: Cli, stored: str) -> None:
    done = cli("pools", "test", stored)
    assert done.code == 1
    assert "stored_host  silent" in done.out
    assert "error: cannot connect to stored_host" in done.err
    listed = cli("ls", "--worker-pool", stored)
    assert listed.code == 1
    assert "warning: worker stored_host cannot be asked" in listed.err


@pytest.mark.airflow
def test_a_job_is_given_up_with_its_worker(cli: Cli, stored: str) -> None:
    from airflow_jobdeploy.hooks.given_up import given_up

    first, second = "j" + "a" * 20, "j" + "b" * 20
    where = ("--worker-pool", stored)
    assert cli("forget", first, *where).code == 1  # it may be alive
    assert cli("forget", "jaaaa", "--lost", *where).code == 2
    assert not {first, second} & set(given_up())
    done = cli("forget", first, second, "--lost", *where)
    assert done.code == 0
    assert f"Job {first} is given up" in done.err
    assert f"Should its worker ({stored}) answer again" in done.err
    assert {first, second} <= set(given_up())


@pytest.mark.airflow
def test_a_list_of_those_given_up_that_a_person_has_edited_stops_nobody(cli: Cli, stored: str) -> None:
    from airflow.models.variable import Variable

    from airflow_jobdeploy.hooks.given_up import VARIABLE, given_up

    Variable.set(VARIABLE, '{"jold": {"by": "me", "at": "yesterday"}, "jodd": 3}')
    name = "j" + "c" * 20
    done = cli("forget", name, "--lost", "--worker-pool", stored)
    assert done.code == 0, done.err
    assert set(given_up()) == {name}, "and what was no entry is gone"


@pytest.mark.airflow
def test_what_answers_is_not_given_up(cli: Cli, home: Path, airflow_db: None) -> None:
    (home / "job.yaml").write_text("command: 'true'\n")
    name = cli("run", "job.yaml", "--detach").out.strip()
    cli("status", name, "--wait")
    done = cli("forget", name, "--lost")
    assert (done.code, f"job {name} is not lost: worker local answers" in done.err) == (1, True)
    assert cli("forget", name).code == 0


@pytest.mark.airflow
def test_a_pool_that_is_wrong_does_not_keep_others_from_being_asked(
    cli: Cli, stored: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": {"kind": "ssh"}}))
    monkeypatch.setenv("AIRFLOW_CONN_HUB", "docker://me@registry.example.org")
    done = cli("pools", "test")
    assert (done.code, "local " in done.out) == (1, True)
    assert "an ssh pool needs workers" in done.err
    assert "registry.example.org" not in done.err


def test_all_pools_that_are_not_there_are_told(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": {"kind": "ssh"}}))
    done = cli("pools", "test", "lob", "nowhere", "local", "lab", "-o", "json")
    assert (done.code, [row["worker"] for row in done.data]) == (1, ["local"])
    assert "there is no Airflow connection 'lob'. Did you mean 'lab'?" in done.err
    assert "there is no Airflow connection 'nowhere'" in done.err
    assert "an ssh pool needs workers" in done.err


def test_an_engine_has_no_root_of_ours(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"kind": "docker", "workers": [{"url": "tcp://a.example:2376"}]}
    monkeypatch.setenv("AIRFLOW_CONN_ENGINES", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    rows = {row["worker_pool"]: row for row in cli("pools", "ls", "-o", "json").data}
    assert (rows["engines"]["kind"], rows["engines"]["root"]) == ("docker", "")


def test_garbage_of_workers_that_cannot_be_asked(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"kind": "docker", "workers": [{"url": "tcp://127.0.0.1:1"}]}
    monkeypatch.setenv("AIRFLOW_CONN_ENGINES", json.dumps({"conn_type": "jobdeploy", "extra": pool}))
    done = cli("pools", "gc", "engines", "--dry-run")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("error: worker tcp://127.0.0.1:1: cannot connect")
    assert "is to go" not in done.err


def test_this_machine(cli: Cli) -> None:
    (row,) = cli("pools", "test", "local", "-o", "json").data
    assert (row["worker"], row["state"], row["error"]) == ("local", "ok", "")
    assert row["cpu_count"] > 0


def test_a_pool_that_is_not_there(cli: Cli) -> None:
    done = cli("ls", "--worker-pool", "nowhere")
    assert done.code == 1
    assert "there is no Airflow connection 'nowhere'" in done.err
    usage = cli("pools", "ls", "--usage", "--worker-pool", "nowhere")
    assert (usage.code, "error: worker pool 'nowhere': there is no" in usage.err) == (1, True)


@pytest.mark.sshd
def test_a_job_on_a_host(cli: Cli, host: str, job: Write, home: Path) -> None:
    project = home / "project"
    project.mkdir()
    (project / "x.txt").write_text("over ssh\n")
    spec = job('cat x.txt; cp x.txt "$JOBDEPLOY_OUTPUT_DIR"; exit 5', worker_pool=host)
    done = cli("run", spec, "--project-dir", "project")
    assert (done.code, done.out) == (5, "over ssh\n"), done.err
    (row,) = cli("ls", "--all", "--status", "failed", "--worker-pool", host, "-o", "json").data["jobs"]
    name, at = row["job_id"], ("--worker-pool", host)
    assert (row["worker"], row["exit_code"]) == (host, 5)
    assert cli("logs", name[:7], *at).out == "over ssh\n"
    assert cli("logs", name[:7], "-f", *at).code == 5
    assert cli("download", name[:7], "--dest", "out", *at).code == 0
    assert (home / "out/x.txt").read_text() == "over ssh\n"
    assert cli("rm", name[:7], *at).code == 0
    assert cli("status", name[:7]).code == 1  # it was never on this machine


@pytest.mark.sshd
def test_a_pool_of_several_hosts(cli: Cli, host: str, job: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them is dead: it is said, and the others are used."""
    dead = {"conn_type": "ssh", "host": "127.0.0.1", "port": 1, "login": "me"}
    extra = {"kind": "ssh", "workers": [{"conn_id": "dead"}, {"conn_id": host}]}
    monkeypatch.setenv("AIRFLOW_CONN_DEAD", json.dumps(dead))
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": extra}))
    done = cli("run", job("echo hi"), "--worker-pool", "lab", "-d")
    assert done.code == 0, done.err
    assert "Passed over worker dead" in done.err
    name = done.out.strip()
    listed = cli("ls", "--all", "--worker-pool", "lab", "-o", "json")
    assert listed.code == 1
    assert list(listed.data["silent"]) == ["dead"]
    assert name in [row["job_id"] for row in listed.data["jobs"]]
    assert cli("status", name, "--wait", "--worker-pool", "lab").code == 0
    missing = cli("status", "jnowhere", "--worker-pool", "lab")
    assert "worker dead cannot be asked" in missing.err
    assert cli("forget", name, "--worker-pool", "lab").code == 0


@pytest.mark.airflow
def test_reap(cli: Cli, job: Write, airflow_db: None) -> None:
    """A live job of a task that this Airflow no longer knows is stopped; one without a task is not."""
    from airflow_jobdeploy import service
    from airflow_jobdeploy.commands.attending import Notebook
    from airflow_jobdeploy.core.plan import JobKey
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    free = begun(cli, cli("run", job("exec sleep 300"), "-d").out.strip())
    assert cli("reap").err == "Every live job has a task that waits for it: nothing to stop.\n"
    hook = JobDeployHook("local")
    key = JobKey(deployment="tests", dag_id="gone", run_id="r", task_id="t")
    work = hook.prepare_run({"command": "exec sleep 300", "grace": 1}, key=key, owner="task")
    with hook.get_conn() as workers:
        orphan = service.submit(work, workers, intents=Notebook(), epoch={}, say=print).handle.job_id
    done = cli("reap")
    assert done.code == 0
    assert done.err == f"Job {orphan} is told to stop: its task is over.\n"
    assert cli("status", orphan, "--wait").code == 130
    assert cli("status", free, "-o", "json").data["status"] == "RUNNING"
    assert cli("stop", free).code == 0


def test_garbage_is_shown_and_goes(cli: Cli, job: Write, home: Path) -> None:
    # Who comes first to a worker has garbage looked for, by a process that may be late.
    assert cli("pools", "test", "local").code == 0
    eventually(lambda: not any(f"HOME={home}".encode() in environ(pid) for pid in pids()))
    assert cli("run", job("true", "kept.json", keep_for="1h")).code == 0
    assert cli("run", job("true", "old.json", keep_for=0)).code == 0
    shown = cli("pools", "gc", "local", "--dry-run")
    assert shown.code == 0
    assert "ended longer ago than its keep_for" in shown.out
    assert "would go" in shown.err
    rows = cli("pools", "gc", "local", "--dry-run", "-o", "json").data
    assert [(row["worker"], row["kind"]) for row in rows if row["kind"] == "job"] == [("local", "job")]
    old = next(row["name"] for row in rows if row["kind"] == "job")
    until = time.monotonic() + 60
    while old in cli("pools", "gc", "local").out + cli("pools", "gc", "local", "--dry-run").out:
        assert time.monotonic() < until
    assert "Nothing is to go" in cli("pools", "gc", "local").err
    assert cli("status", old).code == 1


@pytest.mark.airflow
def test_garbage_of_a_host_that_does_not_answer(cli: Cli, stored: str) -> None:
    done = cli("pools", "gc", stored)
    assert done.code == 1
    assert "error: worker stored_host: cannot connect to stored_host" in done.err
