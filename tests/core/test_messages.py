"""What is said in a task's log of what its job says."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.core.messages import Announcer, metrics_text, progress_text


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        ({"value": 0.416}, "42 %"),
        ({"value": 0.42, "done": 21.0, "total": 50.0}, "42 % (21 of 50)"),
        ({"value": 1.0, "text": "writing"}, "100 %: writing"),
    ],
)
def test_progress(progress: dict[str, object], text: str) -> None:
    assert progress_text(progress) == text


def test_metrics() -> None:
    assert metrics_text({"loss": [0.123456789, 3], "acc": ["nan", 120]}) == "loss=0.123457, acc=nan (step 120)"
    assert metrics_text({f"m{n}": [1.0, ""] for n in range(10)}).endswith("m7=1 and 2 more")
    assert metrics_text({}) == ""


def test_progress_is_said_now_and_then_and_never_twice() -> None:
    announcer = Announcer()
    said = []
    for now in range(20):
        announcer.take({"progress": {"value": now / 20}})
        said += announcer.lines(float(now))
    assert said == ["Progress: 0 %", "Progress: 25 %", "Progress: 50 %", "Progress: 75 %"]
    assert announcer.is_pending
    assert announcer.lines(19.0, is_last=True) == ["Progress: 95 %"]
    assert not announcer.is_pending
    assert announcer.lines(99.0, is_last=True) == []


def test_what_was_held_back_is_said_later() -> None:
    announcer = Announcer()
    for value in (0.1, 0.2):
        announcer.take({"progress": {"value": value}})
        announcer.lines(0.0)
    announcer.take({})
    assert announcer.lines(4.9) == []
    assert announcer.lines(5.0) == ["Progress: 20 %"]


def test_outputs_and_assets_are_said_once_each() -> None:
    announcer = Announcer()
    announcer.take({"outputs": [{"path": "m.pt", "text": "the best so far"}], "assets": [{"uri": "s3://b/m"}]})
    assert announcer.lines(0.0) == ["Output m.pt: the best so far", "Asset s3://b/m"]
    announcer.take({"outputs": [{"path": "m.pt", "text": ""}, {"path": "n.pt", "text": ""}]})
    assert announcer.lines(0.0) == ["Output n.pt"]
