"""Accounts on a real sshd: their login shells, their homes, and what they may not read of each other."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.plan import Plan, new_uid
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from tests.backends.clients import SHELLS, with_rc
from tests.contract.labs import ShellWords
from tests.contract.steps import launch, log, outcome
from tests.servers import sshd as servers

pytestmark = pytest.mark.sshd


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other accounts may enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory(prefix="jd-accounts-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@contextlib.contextmanager
def account(server: servers.Sshd, place: Path, shell: str) -> Iterator[str]:
    """A new account with this shell; who may not make one goes by their own."""
    if os.getuid() != 0:
        yield server.user
        return
    home = place / "account"
    home.mkdir()
    with servers.temporary_user(shell, home) as name:
        yield name


@contextlib.contextmanager
def backend(server: servers.Sshd, user: str, root: Path | str = "~/.jobdeploy") -> Iterator[HostedBackend]:
    made = HostedBackend(worker=user, kind="ssh", connect=lambda: server.client(user=user, timeout=10), root=str(root))
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_jobs_of_accounts_with_any_login_shell(place: Path, shell: str) -> None:
    home = place / "account"
    with servers.running(place / "sshd", env={"HOME": str(home)}) as server:
        (place / "sshd").chmod(0o755)
        with account(server, place, shutil.which(shell) or shell) as user, backend(server, user) as worker:
            with_rc(home, SHELLS[shell], "echo welcome\n")
            assert worker.facts().user == user
            assert worker.facts().root == str(home / ".jobdeploy")
            plan = Plan(uid=new_uid(), steps=(ShellWords().say("it's $HOME; `id`", 3),))
            assert outcome(worker, launch(worker, plan)).exit_code == 3
            assert log(worker, plan.job_id) == b"it's $HOME; `id`"
            assert (home / ".jobdeploy").stat().st_mode & 0o777 == 0o700


def test_an_account_that_may_not_log_in(place: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may make accounts")
    with servers.running(place / "sshd") as server:
        (place / "sshd").chmod(0o755)
        with account(server, place, "/usr/sbin/nologin") as user, backend(server, user) as worker:
            with pytest.raises(WorkerUnreachable, match="no login shell that runs commands"):
                worker.facts()


def test_the_root_of_another_account_is_refused(place: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root may make accounts")
    (place / "root").mkdir()
    with servers.running(place / "sshd") as server:
        (place / "sshd").chmod(0o755)
        with account(server, place, "/bin/sh") as user:
            with backend(server, user, place / "root") as worker:
                with pytest.raises(WorkerError, match="belongs to user 0, not to us"):
                    worker.facts()
