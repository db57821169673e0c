"""Killed: command, supervisor, both, sessions, submitter. One attempt each time, and no process of it lives on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_jobdeploy.core.plan import Limits, Plan, new_uid
from tests.contract.labs import HostedLab, Lab
from tests.contract.steps import at_once, launch, log, outcome, wait_ready
from tests.faults.processes import cmdline, descendants, eventually, is_alive, job_dir, members, pids, sh, supervisor

#: A command with a child, a grandchild in a session of its own, and a daemon.
FAMILY = "sleep 1000 &\nsetsid sh -c 'sleep 1000 & sleep 1000' &\n(setsid sleep 1000 &)\necho ready\nsleep 1000"


def start_family(lab: HostedLab, **options: object) -> tuple[str, set[int]]:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(sh(FAMILY), **options))
    wait_ready(backend, job_id)
    # All sleeps are there: a shell that was only to start one has ended by then.
    eventually(lambda: [cmdline(pid) for pid in members(job_id)].count(b"sleep\x001000\x00") == 5)
    return job_id, members(job_id) | {supervisor(lab.root, job_id)}


def nobody_left(family: set[int]) -> None:
    eventually(lambda: not any(is_alive(pid) for pid in family))


@pytest.mark.usefixtures("no_memory_kills")
def test_a_killed_command_is_seen(lab: HostedLab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(sh("echo ready; exec sleep 1000")))
    wait_ready(backend, job_id)
    eventually(lambda: any(b"sleep\0001000" in cmdline(pid) for pid in members(job_id)))
    for pid in members(job_id) - {supervisor(lab.root, job_id)}:
        os.kill(pid, signal.SIGKILL)
    state = outcome(backend, job_id)
    assert (state.status.value, state.reason, state.signal) == ("FAILED", "Signal", "SIGKILL")
    assert "Killed by SIGKILL" in state.message


def test_a_killed_supervisor_is_seen_and_its_tree_is_swept(lab: HostedLab) -> None:
    job_id, family = start_family(lab)
    os.kill(supervisor(lab.root, job_id), signal.SIGKILL)
    state = outcome(lab.backend(), job_id)
    assert (state.status.value, state.reason) == ("FAILED", "ProcessLost")
    nobody_left(family)


def test_everything_of_a_job_killed_at_once(lab: HostedLab) -> None:
    job_id, family = start_family(lab)
    for pid in (supervisor(lab.root, job_id), *family):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # the supervisor's children go with it
    state = outcome(lab.backend(), job_id)
    assert (state.status.value, state.reason) == ("FAILED", "ProcessLost")
    assert lab.backend().start(job_id).reason == "ProcessLost"
    nobody_left(family)


def test_a_stop_ends_the_whole_tree(lab: HostedLab) -> None:
    job_id, family = start_family(lab)
    backend = lab.backend()
    backend.stop(job_id, reason="enough", grace_s=2)
    assert outcome(backend, job_id).status.value == "CANCELLED"
    nobody_left(family)


def test_a_deadline_ends_the_whole_tree(lab: HostedLab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(sh(FAMILY), limits=Limits(timeout_s=3, grace_s=1)))
    assert outcome(backend, job_id).reason == "TimedOut"
    eventually(lambda: not members(job_id))


def test_what_a_command_leaves_behind_ends_with_it(lab: HostedLab) -> None:
    backend = lab.backend()
    is_sleep = "until grep -qx sleep /proc/$!/comm; do sleep 0.05; done"
    job_id = launch(backend, lab.plan(sh(f"setsid sleep 1000 &\n{is_sleep}\necho started"), limits=Limits(grace_s=1)))
    assert outcome(backend, job_id).exit_code == 0
    nobody_left(members(job_id))
    assert b"sleep" in log(backend, job_id), "what was ended is named"


def test_jobs_do_not_feel_the_end_of_all_sessions(lab: HostedLab) -> None:
    job_id, family = start_family(lab)
    # Supervisors look the same but are nobody's children by now.
    sessions = [pid for pid in descendants(os.getpid()) if cmdline(pid).endswith(b"\0jobdeploy\0")]
    assert sessions
    for pid in sessions:
        os.kill(pid, signal.SIGKILL)
    assert lab.backend().poll([job_id])[job_id].status.value == "RUNNING"
    assert all(is_alive(pid) for pid in family)


# -- the submitter --------------------------------------------------------------------------------------------------

_SUBMIT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from airflow_jobdeploy.core.plan import Plan, Step
from tests.contract.labs import HostedLab
from tests.servers.sshd import Sshd

def here(point):
    print(point, flush=True)
    if point == {point!r}:
        sys.stdin.read()

plan = Plan.from_wire({plan!r})
backend = {backend}
here("before the claim")
backend.claim(plan)
here("after the claim")
backend.start(plan.job_id)
here("after the start")
"""

_BACKENDS = {
    "local": 'HostedLab("local", Path({root!r})).connect()',
    "ssh": (
        'HostedLab("ssh", Path({root!r}), '
        "Sshd(dir=Path({dir!r}), port={port}, user={user!r}, home=Path({dir!r}), process=None)).connect()"
    ),
}


def _submitter(lab: HostedLab, plan: Plan, point: str) -> subprocess.Popen[bytes]:
    server = lab.server
    known = {"dir": str(server.dir), "port": server.port, "user": server.user} if server else {}
    backend = _BACKENDS[lab.kind].format(root=str(lab.root), **known)
    code = _SUBMIT.format(path=sys.path, point=point, plan=plan.to_wire(), backend=backend)
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize("point", ["before the claim", "after the claim", "after the start"])
def test_a_submitter_killed_anywhere_leaves_one_attempt(lab: HostedLab, tmp_path: Path, point: str) -> None:
    counter = tmp_path / "starts"
    plan = lab.plan(lab.words.count_start(counter))
    with _submitter(lab, plan, point) as first:
        assert first.stdout is not None
        while first.stdout.readline().decode().strip() != point:
            assert first.poll() is None
        first.kill()
    second = lab.backend()
    launch(second, plan)
    eventually(lambda: counter.exists() and counter.read_text() != "")
    assert second.poll([plan.job_id])[plan.job_id].status.value == "RUNNING"
    assert len(second.jobs()) == 1
    second.stop(plan.job_id, reason="seen", grace_s=1)
    outcome(second, plan.job_id)
    assert counter.read_text() == "x"


def test_two_submitters_of_one_intent_at_once(lab: HostedLab, tmp_path: Path) -> None:
    counter = tmp_path / "starts"
    plan = lab.plan(lab.words.count_start(counter))
    backends = [lab.backend() for _ in range(4)]
    for backend in backends:
        backend.facts()
    at_once(*[lambda b=backend: launch(b, plan) for backend in backends])
    eventually(lambda: counter.exists() and counter.read_text() != "")
    backends[0].stop(plan.job_id, reason="seen", grace_s=1)
    outcome(backends[0], plan.job_id)
    assert counter.read_text() == "x"
    assert len(backends[0].jobs()) == 1


# -- secrets --------------------------------------------------------------------------------------------------------


def test_secrets_are_in_no_command_line_and_gone_at_the_end(lab: HostedLab) -> None:
    secret = "S3CRET" + new_uid()
    backend = lab.backend()
    plan = lab.plan(sh('test -n "$TOKEN" && echo ready; sleep 1000'), secret_env={"TOKEN": secret})
    job_id = launch(backend, plan)
    wait_ready(backend, job_id)
    assert [pid for pid in pids() if secret.encode() in cmdline(pid)] == []
    holders = _holding(lab, secret)
    assert {path.stat().st_mode & 0o077 for path in (*holders, lab.root, job_dir(lab.root, job_id))} == {0}
    backend.stop(job_id, reason="seen", grace_s=1)
    outcome(backend, job_id)
    assert _holding(lab, secret) == []
    assert secret not in str(backend.jobs())


def _holding(lab: Lab, secret: str) -> list[Path]:
    assert isinstance(lab, HostedLab)
    return [path for path in lab.root.rglob("*") if path.is_file() and secret.encode() in _content(path)]


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # what is written beside, then renamed
        return b""
