"""The machine: power lost and back, pids used again, a hang, a clock that is wrong, another machine under its name."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from airflow_jobdeploy.backends import hosted
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerError
from tests.faults.hosts import case as cases
from tests.faults.hosts.case import LATE_S, Case, counting, halves
from tests.faults.hosts.conftest import Verdict
from tests.servers import kernel
from tests.servers.netns import NewHost

pytestmark = pytest.mark.netns

FOR_EVER = "echo started; sleep 1000"


@pytest.mark.fault("power off and on")
def test_power_off_and_on(case: Case, verdict: Verdict) -> None:
    case.unknown_after_s = 0.0
    following = case.started(FOR_EVER)
    following.until_text("started\n")
    case.host.power_off()
    following.until_status(JobStatus.UNKNOWN)
    assert not any(update.over for update in following.updates), "silence is no evidence"
    case.host.power_on()
    answers = time.monotonic()
    following.watch.wake()
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "WorkerLost")
    assert "rebooted" in state.message
    assert following.times[-1] - answers < LATE_S
    verdict.seal(case, following)
    assert verdict.told == "UNKNOWN (Unreachable), FAILED (WorkerLost)"


@pytest.mark.fault("power off and on; the task's retry")
def test_a_retry_after_a_reboot_starts_the_next_attempt(case: Case, verdict: Verdict) -> None:
    command = 'echo "attempt $JOBDEPLOY_ATTEMPT"; [ $JOBDEPLOY_ATTEMPT = 2 ] || sleep 1000'
    case.started(command)
    case.close()
    case.host.power_off()
    case.host.power_on()
    again = case.submit(command)
    assert (again.handle.attempt, again.reattached) == (2, False)
    following = case.follow(again.handle)
    assert following.end().status is JobStatus.SUCCEEDED
    assert following.text == "attempt 2\n"
    verdict.seal(case, None, "FAILED (WorkerLost), attempt 2 SUCCEEDED", starts=2)


@pytest.mark.fault("reboot, and its pid is somebody else's")
def test_a_reboot_with_reused_pids(case: Case, verdict: Verdict) -> None:
    following = case.started(FOR_EVER)
    following.until_text("started\n")
    case.host.power_off()
    recorded = case.record("state")["pid"]
    case.host.power_on()
    # A pid namespace counts on from its first process: some forks later the number is there again.
    case.host.run(
        f"for i in $(seq 1 {recorded}); do sleep 1000 & [ $! -ge {recorded} ] && break; done >/dev/null 2>&1; true"
    )
    taken = {kernel.pid_inside(pid): line for pid, line in case.host.processes().items()}
    assert taken.get(recorded) == b"sleep\x001000\x00"
    following.watch.wake()
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "WorkerLost")
    bystanders = [line for line in case.host.processes().values() if line == b"sleep\x001000\x00"]
    assert len(bystanders) == len([line for line in taken.values() if line == b"sleep\x001000\x00"]), "none was killed"
    case.host.kill(lambda line: line == b"sleep\x001000\x00")
    verdict.seal(case, following)


@pytest.mark.fault("host hangs for 12 s")
def test_a_host_that_hangs(case: Case, verdict: Verdict) -> None:
    case.unknown_after_s = 0.0
    following = case.started(halves(30, 0.1))
    following.until_text("line 5\n")
    case.host.freeze()
    hung = time.monotonic()
    assert following.until_status(JobStatus.UNKNOWN) - hung < hosted.SILENCE_S + hosted.ANSWER_S + LATE_S
    case.let()
    time.sleep(max(0.0, hung + 12 - time.monotonic()))
    case.host.thaw()
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)
    assert verdict.told == "UNKNOWN (Unreachable), SUCCEEDED"


@pytest.mark.faketime
@pytest.mark.parametrize(
    "offset",
    [
        pytest.param("-3600", marks=pytest.mark.fault("host clock an hour late")),
        pytest.param("+3600", marks=pytest.mark.fault("host clock an hour early")),
    ],
)
def test_a_wrong_clock(new_host: NewHost, verdict: Verdict, offset: str) -> None:
    host = new_host(clock=offset)
    case = cases.case(host)
    wrong = int(host.run("date +%s").strip()) - time.time()
    assert abs(wrong - int(offset)) < 30
    following = case.started(counting(20, 0.1), timeout=30)
    state = following.end()
    assert state.status is JobStatus.SUCCEEDED
    assert state.running_s is not None
    assert 1 < state.running_s < 20
    assert all(0 <= entry["ago_s"] < 60 for entry in state.history)
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("its address leads to another machine")
def test_another_machine_under_its_address(case: Case, new_host: NewHost, verdict: Verdict) -> None:
    following = case.started(halves(40, 0.1))
    following.until_text("line 5\n")
    home, other = case.way, cases.case(new_host())
    case.way = replace(other.way)
    case.host.kill(lambda line: line.startswith(b"sshd: worker"))
    following.until_status(JobStatus.UNKNOWN)
    assert following.updates[-1].state.reason == "WorkerChanged"
    case.let()
    assert other.backend().jobs() == []
    case.way = home
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    other.close()
    verdict.seal(case, following)
    assert verdict.told == "UNKNOWN (WorkerChanged), SUCCEEDED"


@pytest.mark.fault("host key changed")
def test_a_changed_host_key(case: Case, verdict: Verdict) -> None:
    case.unknown_after_s = 1.0
    following = case.started(halves(40, 0.1))
    following.until_text("line 5\n")
    case.host.new_host_key()
    case.host.restart_sshd()
    case.let()
    following.until_status(JobStatus.UNKNOWN)
    assert "host key is another one than known" in following.updates[-1].state.message
    with pytest.raises(WorkerError, match="host key is another one than known"):
        case.submit(counting(40, 0.1), schedule_timeout=2)
    case.way.host_key = case.host.host_key()  # somebody has corrected the connection
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)


@pytest.mark.fault("login key rotated")
def test_a_rotated_login_key(case: Case, verdict: Verdict) -> None:
    following = case.started(halves(40, 0.1))
    following.until_text("line 5\n")
    old = case.way.key_file
    case.way.key_file = case.host.new_user_key()
    assert case.way.key_file != old
    case.host.restart_sshd()
    case.let()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"
