"""`make demo-pool`, with short trainings."""

from __future__ import annotations

from collections import Counter

import pytest

from airflow_jobdeploy.example_dags import demo_pool


@pytest.mark.netns
def test_a_sweep_competes_for_the_gpus_of_four_hosts(capsys: pytest.CaptureFixture[str]) -> None:
    trials = demo_pool.main(["--epochs", "1"])
    shown = capsys.readouterr().out
    assert [trial.accuracy > 0.8 for trial in trials] == [True] * 8
    assert {trial.handle.worker for trial in trials} == set(demo_pool.HOSTS)
    waits = Counter(line.rpartition("in line: ")[2].strip() for line in shown.splitlines() if "in line: " in line)
    assert waits["nobody"]
    assert any(line.startswith("Waiting for ") for trial in trials for line in trial.said), "8 GPUs, 12 are asked for"
    assert "==> all 8 trained" in shown
