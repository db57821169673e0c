"""The `retry` field: what it reads, and what it says of what it cannot read."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_jobdeploy.core.sequels import CAUSES
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.errors import SpecError


def retry(value: Any) -> Any:
    return load_spec({"command": "x", "retry": value}).retry


def test_causes_and_exit_codes() -> None:
    rule = retry({"on": ["worker_lost", "out_of_memory", {"exit_code": [75, 76]}], "max": 5, "delay": "2m"})
    assert (rule.causes, rule.exit_codes) == (("worker_lost", "out_of_memory"), (75, 76))
    assert (rule.max, rule.delay_s) == (5, 120)


def test_a_number_is_so_many_times_for_any_cause() -> None:
    rule = retry(2)
    assert (set(rule.causes), rule.max) == (set(CAUSES), 2)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"on": ["worker_lots"]}, "Did you mean 'worker_lost'?"),
        ({"on": "worker_lost"}, "a list of causes"),
        ({"on": [{"exit_code": [0]}]}, "an exit code from 1 to 255"),
        ({"on": [{"exit_codes": [3]}]}, "a cause"),
        ({"onn": []}, "Did you mean 'on'?"),
        ({"max": -1}, "max"),
        (-1, "retry"),
        (True, "retry"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(value: Any, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        retry(value)
    assert said in str(caught.value)
