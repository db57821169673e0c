"""`plan`: every worker says why or why not, and nothing happens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

Write = Callable[..., str]


def test_this_machine_would_do(cli: Cli, job: Write, home: Path) -> None:
    project = home / "project"
    project.mkdir()
    (project / "big.bin").write_bytes(b"x" * 100_000)
    done = cli("plan", job("cat big.bin"), "--project-dir", "project")
    assert done.code == 0, done.err
    head, row = done.out.splitlines()
    assert head.split() == ["WORKER", "FIT", "WHY", "TO", "SEND"]
    assert row.startswith("local   now  ")
    assert row.endswith("97.7 KiB")
    assert done.err == "The job asks for nothing in particular. It would start on local.\n"
    assert cli("ls", "--all", "-o", "json").data["jobs"] == []
    # What is there need not be sent.
    assert cli("run", job("cat big.bin"), "--project-dir", "project").code == 0
    (row,) = cli("plan", job("cat big.bin"), "--project-dir", "project", "-o", "json").data["workers"]
    assert (row["worker"], row["fit"], row["send_bytes"]) == ("local", "now", 0)


@pytest.mark.sshd
def test_workers_that_cannot_be_asked_come_last(
    cli: Cli, host: str, job: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = {"conn_type": "ssh", "host": "127.0.0.1", "port": 1, "login": "me"}
    extra = {"kind": "ssh", "workers": [{"conn_id": "dead"}, {"conn_id": host}]}
    monkeypatch.setenv("AIRFLOW_CONN_DEAD", json.dumps(dead))
    monkeypatch.setenv("AIRFLOW_CONN_LAB", json.dumps({"conn_type": "jobdeploy", "extra": extra}))
    found = cli("plan", job("true"), "--worker-pool", "lab", "-o", "json").data
    assert [(row["worker"], row["fit"]) for row in found["workers"]] == [(host, "now"), ("dead", "passing")]
    assert "cannot be asked: cannot connect to dead" in found["workers"][1]["why"]
    done = cli("plan", job("true"), "--worker-pool", "dead")
    assert done.code == 1
    assert done.err.startswith("error: no worker can take it now.")


def test_what_is_no_job_spec_is_told(cli: Cli, job: Write) -> None:
    done = cli("plan", job("true", timout=3))
    assert done.code == 1
    assert "Did you mean 'timeout'?" in done.err
