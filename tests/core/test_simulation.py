"""A small pool in virtual time, with bad luck: the rules of a host and the choices of waiters, together."""

from __future__ import annotations

import pytest

from benchmarks.simulate import simulate
from benchmarks.simulated import Scale


@pytest.mark.parametrize(
    "scale",
    [
        Scale(workers=21, jobs=300, seed=1, load=0.95, mean_s=600.0, kills=0.2, deaths=3.0),
        Scale(workers=7, jobs=200, seed=2, load=1.1, mean_s=600.0, deaths=0.0),
    ],
)
def test_all_jobs_start_and_no_lease_is_lost(scale: Scale) -> None:
    """Over-commit and starvation are asserted at every event."""
    outcome = simulate(scale)
    assert outcome.counts["ended"] == scale.jobs
    assert (outcome.unserved, outcome.leases_lost, outcome.leases_left) == (0, 0, 0)
    assert outcome.counts["fillers"] > 0
    assert outcome.counts["longest line"] > 3


def test_the_same_seed_is_the_same_story() -> None:
    scale = Scale(workers=7, jobs=40, seed=3, mean_s=60.0)
    first, second = simulate(scale), simulate(scale)
    assert (first.counts, first.wait_worst_s) == (second.counts, second.wait_worst_s)
