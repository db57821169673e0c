"""Which workers are left alone for a while."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_jobdeploy.core.health import set_aside


def ends(*told: tuple[str, float]) -> list[dict[str, Any]]:
    """(reason or status, minutes ago), newest first."""
    statuses = ("SUCCEEDED", "CANCELLED", "SUSPENDED")
    return [
        {"job": f"j{at}", "status": word if word in statuses else "FAILED", "reason": word, "ago_s": minutes * 60}
        for at, (word, minutes) in enumerate(told)
    ]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([], ""),
        ([("ProcessLost", 1)], ""),
        ([("ProcessLost", 1), ("SUCCEEDED", 2), ("ProcessLost", 3)], ""),
        ([("SUCCEEDED", 1), ("ProcessLost", 2), ("DiskFull", 4)], ""),
        ([("ExitCode", 1), ("ExitCode", 2), ("OutOfMemory", 3), ("Setup", 4)], ""),
        # A reboot that takes all jobs with it is one failure.
        ([("WorkerLost", 1), ("WorkerLost", 1.5), ("WorkerLost", 2)], ""),
        (
            [("ProcessLost", 1), ("DiskFull", 4)],
            "2 failures in a row (j0 ProcessLost 60 s ago, j1 DiskFull 4 min ago); tried again in 9 min",
        ),
        ([("CANCELLED", 0.1), ("ProcessLost", 1), ("SUSPENDED", 2), ("DiskFull", 4)], "2 failures in a row"),
        ([("ProcessLost", 11), ("DiskFull", 14)], ""),  # now a job may try
        ([("ProcessLost", 11), ("DiskFull", 14), ("DiskFull", 40)], "3 failures in a row"),
        ([("ProcessLost", 119), *[("DiskFull", 200.0 + n * 10) for n in range(6)]], "tried again in 60 s"),
    ],
)
def test_two_failures_of_its_own_in_a_row(told: list[tuple[str, float]], said: str) -> None:
    found = set_aside(ends(*told))
    assert said in found
    assert bool(found) == bool(said)
