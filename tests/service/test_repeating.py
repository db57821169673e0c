"""What is said of something that is tried again and again."""

from __future__ import annotations

import pytest

from airflow_jobdeploy.service import repeating
from airflow_jobdeploy.service.repeating import AGAIN_S, Repeating


def test_the_same_trouble_is_said_once_a_minute_and_another_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(repeating.time, "monotonic", lambda: now)
    said: list[str] = []
    say = Repeating(said.append)
    for trouble in ("down", "down", "refused", "refused", "down"):
        say(trouble)
        now += AGAIN_S / 10
    assert said == ["down", "refused", "down"]
    now += AGAIN_S
    say("down")
    assert said == ["down", "refused", "down", "down"]
