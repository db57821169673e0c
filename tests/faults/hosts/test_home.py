"""The home directory: full, and read-only, before a job and under it."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerError
from tests.faults.hosts.case import Case, counting, halves
from tests.faults.hosts.conftest import Verdict
from tests.servers.netns import USER

pytestmark = pytest.mark.netns

_FILL = (
    "head -c 100000000 /dev/zero > ~/filler 2>/dev/null; dd if=/dev/zero of=~/filler2 bs=1 count=4096 2>/dev/null; true"
)


@pytest.mark.fault("home full before the submission")
def test_full_before_the_submission(case: Case, verdict: Verdict) -> None:
    case.backend().facts()
    case.host.run(_FILL)
    with pytest.raises(WorkerError, match="full"):
        case.submit(counting(5))
    assert case.starts() == 0
    assert list(case.host.root.glob("hosts/*/incoming/*")) == []
    case.host.run("rm -f ~/filler ~/filler2")
    following = case.follow(case.submit(counting(5)).handle)
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following, "an error that says so; SUCCEEDED once there is room")


@pytest.mark.fault("home full under a job")
def test_full_under_a_job(case: Case, verdict: Verdict) -> None:
    following = case.started(
        f"echo started; while [ ! -e ~/filler ]; do sleep 0.1; done; sleep 2; {counting(3000)}; exit 3"
    )
    following.until_text("started\n")
    case.host.run(_FILL)
    state = following.end()
    assert (state.status, state.reason, state.exit_code) == (JobStatus.FAILED, "DiskFull", 3)
    verdict.seal(case, following)


@pytest.mark.fault("home read-only before the submission")
def test_read_only_before_the_submission(case: Case, verdict: Verdict) -> None:
    case.backend().facts()
    case.close()
    case.host.protect()
    with pytest.raises(WorkerError, match="read-only"):
        case.submit(counting(5))
    case.host.unprotect()
    following = case.follow(case.submit(counting(5)).handle)
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following, "an error that says so; SUCCEEDED once it may be written")


@pytest.mark.fault("home read-only under a job")
def test_read_only_under_a_job(case: Case, verdict: Verdict) -> None:
    following = case.started(halves(30, 0.1) + "; exit 3")
    following.until_text("line 5\n")
    case.host.protect()
    case.let()
    following.until_text("line 30\n")
    with pytest.raises(AssertionError, match="not within"):
        following.end(timeout_s=3)  # the end cannot be written down, so it is not told
    case.host.unprotect()
    state = following.end()
    assert (state.status, state.exit_code) == (JobStatus.FAILED, 3)
    verdict.seal(case, following)
    assert USER in case.host.run("id")
