"""The network: cut for a while and for good, slow, lossy, thin, a connection reset in the middle."""

from __future__ import annotations

import time

import pytest

from airflow_jobdeploy.core.status import JobStatus
from tests.faults.hosts.case import Case, counting
from tests.faults.hosts.conftest import Verdict

pytestmark = pytest.mark.netns


@pytest.mark.fault("cut for 2 s")
def test_cut_for_two_seconds(case: Case, verdict: Verdict) -> None:
    following = case.started(counting(60, 0.1))
    following.until_text("line 5\n")
    case.host.cut()
    time.sleep(2)
    case.host.heal()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"
