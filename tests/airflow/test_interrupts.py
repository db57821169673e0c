"""What a signal means, as a table."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.operators.interrupts import Parting, judge

CASES = [
    # state seen inside, asked?, can defer? -> what to do
    ("running", True, True, Parting.DEFER),
    ("running", True, False, Parting.RAISE),
    ("restarting", True, True, Parting.STOP),
    ("failed", True, True, Parting.STOP),
    ("success", True, False, Parting.STOP),
    ("up_for_retry", True, False, Parting.STOP),
    (None, True, True, Parting.STOP),
    (None, False, True, Parting.RAISE),
    (None, False, False, Parting.RAISE),
]


@pytest.mark.parametrize(("state", "asked", "can_defer", "parting"), CASES)
def test_judge(state: str | None, asked: bool, can_defer: bool, parting: Parting) -> None:
    verdict = judge(state, asked=asked, can_defer=can_defer)
    assert verdict.parting is parting
    assert verdict.why
