"""Programs on the host: sshd, serve, the supervisor, killed, stopped, restarted; a sshd that allows one session."""

from __future__ import annotations

import os
import signal
import time

import pytest

from airflow_jobdeploy.core.status import JobStatus
from tests.faults.hosts.case import LATE_S, Case, counting, halves
from tests.faults.hosts.conftest import Verdict
from tests.servers import kernel

FAMILY = "echo started; setsid sleep 1000 & (setsid sleep 1000 &) ; sleep 1000"


@pytest.mark.netns
@pytest.mark.fault("sshd restarted, with its sessions")
def test_sshd_restarted(case: Case, verdict: Verdict) -> None:
    following = case.started(halves(40, 0.1))
    following.until_text("line 5\n")
    case.host.restart_sshd()
    case.let()
    assert following.end().status is JobStatus.SUCCEEDED
    assert case.connects >= 3
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.netns
@pytest.mark.fault("MaxSessions 1")
def test_one_session_a_connection(case: Case, verdict: Verdict) -> None:
    case.host.write_config(MaxSessions=1)
    case.host.restart_sshd()
    following = case.follow(case.submit(counting(2000)).handle)
    assert following.end().status is JobStatus.SUCCEEDED
    assert case.connects == 2
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("serve killed")
def test_serve_killed(any_case: Case, verdict: Verdict) -> None:
    following = any_case.started(halves(40, 0.1))
    following.until_text("line 5\n")
    supervisor = any_case.supervisor()
    for pid, line in any_case.host.processes().items():
        if line.endswith(b"\0jobdeploy\0") and pid != supervisor:
            os.kill(pid, signal.SIGKILL)
    any_case.let()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(any_case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("supervisor killed")
def test_supervisor_killed(any_case: Case, verdict: Verdict) -> None:
    following = any_case.started(FAMILY)
    following.until_text("started\n")
    os.kill(any_case.supervisor(), signal.SIGKILL)
    killed = time.monotonic()
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "ProcessLost")
    assert following.times[-1] - killed < LATE_S
    verdict.seal(any_case, following)


@pytest.mark.fault("supervisor stopped and continued")
def test_supervisor_stopped_and_continued(any_case: Case, verdict: Verdict) -> None:
    following = any_case.started(halves(50, 0.1))
    following.until_text("line 5\n")
    supervisor = any_case.supervisor()
    os.kill(supervisor, signal.SIGSTOP)
    any_case.let()
    following.until_text("line 50\n")
    with pytest.raises(AssertionError, match="not within"):
        following.end(timeout_s=3)  # its exit status is known to nobody yet, and nobody guesses
    os.kill(supervisor, signal.SIGCONT)
    state = following.end()
    assert (state.status, state.exit_code) == (JobStatus.SUCCEEDED, 0)
    verdict.seal(any_case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("job stopped by us while its supervisor is stopped")
def test_a_stop_reaches_a_stopped_supervisor(any_case: Case, verdict: Verdict) -> None:
    following = any_case.started(FAMILY)
    following.until_text("started\n")
    os.kill(any_case.supervisor(), signal.SIGSTOP)
    following.watch.stop_job(following.updates[-1].state.job_id, reason="enough", by="pytest")
    assert following.end(timeout_s=20).status is JobStatus.CANCELLED
    verdict.seal(any_case, following)


@pytest.mark.fault("everything of the job killed at once")
def test_all_killed_at_once(any_case: Case, verdict: Verdict) -> None:
    following = any_case.started(FAMILY)
    following.until_text("started\n")
    marked = [pid for pid in any_case.host.processes() if b"JOBDEPLOY_JOB_ID=" in kernel.read(pid, "environ")]
    for pid in (any_case.supervisor(), *marked):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue  # it goes with the supervisor
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "ProcessLost")
    verdict.seal(any_case, following)
