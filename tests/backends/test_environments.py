"""A virtual environment on a real SSH host, of an account that is not root."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from airflow_jobdeploy.core.plan import Environment, Plan, Step, new_uid
from airflow_jobdeploy.hostside import envs
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.backends.test_accounts import account, backend
from tests.backends.test_accounts import place as place
from tests.contract.steps import launch, log, outcome
from tests.hostside.test_envs import wait_for
from tests.hostside.wheels import PLAIN, wheel
from tests.servers import sshd as servers

pytestmark = pytest.mark.sshd


def plan(wheels: Path, text: str) -> Plan:
    environment = Environment(requirements=("--no-index", f"--find-links {wheels}", "beta"))
    step = Step(name="job", kind="shell", content=text)
    return Plan(uid=new_uid(), steps=(step,), environment=environment, env={"PATH": PLAIN})


def test_an_account_makes_and_shares_its_environment(place: Path) -> None:
    wheels = place / "wheels"
    wheel(wheels, "alpha")
    wheel(wheels, "beta", needs=["alpha"])
    home = place / "account"
    with servers.running(place / "sshd", env={"HOME": str(home)}) as server:
        (place / "sshd").chmod(0o755)
        with account(server, place, "/bin/sh") as user, backend(server, user) as worker:
            first = plan(wheels, 'python3 -c "import alpha, beta, os; print(alpha.VERSION, os.getuid())"')
            state = outcome(worker, launch(worker, first))
            assert state.exit_code == 0, log(worker, first.job_id)
            assert log(worker, first.job_id).endswith(f"1.0 {(home / '.jobdeploy').stat().st_uid}\n".encode())
            # Others import what is there: nobody adds to it.
            second = plan(wheels, 'touch "$(python3 -c "import alpha; print(alpha.__file__)").new"')
            ended = outcome(worker, launch(worker, second))
            text = log(worker, second.job_id).decode()
            assert "there already, 2 packages" in text
            assert ended.exit_code == (0 if os.getuid() == 0 and user == server.user else 1)
            assert "Permission denied" in text
            host = HostPaths(str(home / ".jobdeploy"), worker.facts().machine)
            (name,) = envs.names(host)
            wait_for(lambda: envs.evict(host, name))  # its supervisor holds it a moment longer
            assert not os.path.exists(host.env(name).dir)
