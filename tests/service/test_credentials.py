"""Passwords that stand in a job's file: in no byte that leaves for a worker, and nowhere on it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.channel import LocalChannel, LocalClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.spec import load_spec
from tests.service.conftest import Desk

SECRETS = ("hunter2", "ann@example.org", "t0ken")
TASK = "email: ann@example.org\npassword: hunter2\nprimeway_api_token: t0ken\njob_data: {password: hunter2}\n"


class _Tapped(LocalChannel):
    def __init__(self, argv: Sequence[str], heard: bytearray) -> None:
        super().__init__(argv)
        self._heard = heard

    def write(self, data: bytes, timeout_s: float) -> None:
        self._heard += data
        super().write(data, timeout_s)


class _Tap(LocalClient):
    """Hears all that is said to the worker."""

    def __init__(self) -> None:
        super().__init__("this host")
        self.heard = bytearray()

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return _Tapped(argv, self.heard)


@pytest.fixture
def tap(desk: Desk, tmp_path: Path) -> _Tap:
    tap = _Tap()
    root = str(tmp_path / "root")
    desk.connect = lambda worker: HostedBackend(worker="local", kind="local", connect=lambda: tap, root=root)
    return tap


def committed(folder: Path) -> Path:
    """The project, its task.yaml committed with everything else."""
    folder.mkdir()
    (folder / "task.yaml").write_text(TASK)
    (folder / "main.py").write_text("def main(dataset_dir, model_output_dir): return 'well'\n")
    for words in (
        ["init", "-q"],
        ["add", "-A"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "All"],
    ):
        subprocess.run(["git", *words], cwd=folder, check=True)
    return folder


def found(text: str) -> list[str]:
    return [secret for secret in SECRETS if secret in text]


def test_credentials_reach_no_wire_record_handle_or_log(desk: Desk, tap: _Tap, tmp_path: Path) -> None:
    project = committed(tmp_path / "project")
    spec = load_spec(project / "task.yaml")
    work = service.prepare_run(spec, pool=desk.pool, project_dir=project, resolve_secret=str)
    handle = desk.submit(work).handle
    followed: Any = desk.follow(handle)
    assert followed.state.result == "well"
    heard = tap.heard.decode("latin-1")
    assert "def main" in heard, "the project was sent, and in clear text"
    assert found(heard) == []
    told = [*desk.said, *desk.log, *work.warnings, json.dumps(handle.to_dict()), json.dumps(desk.notebook.value)]
    assert found("".join(told)) == []
    kept = b"".join(path.read_bytes() for path in (tmp_path / "root").rglob("*") if path.is_file())
    assert b"def main" in kept
    assert found(kept.decode("latin-1")) == []
