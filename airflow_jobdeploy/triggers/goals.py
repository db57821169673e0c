"""What is waited for, as plain words that survive serialization.

A goal is a list of statuses and reasons (`core.status`): it is reached when the job has one of them.
Whatever the goal, an ended job is waited for no longer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # operators name goals when a DAG file is parsed: nothing heavy is imported for that
    from airflow_jobdeploy.core.status import JobState

#: The job's end.
ENDED: tuple[str, ...] = ()
#: A job spec runs.
RUNNING: tuple[str, ...] = ("RUNNING",)
#: The builds of an `up` have ended; what they left may still run.
BUILT: tuple[str, ...] = ("Leftovers",)


def reached(goal: Sequence[str], state: JobState) -> bool:
    """Does the state have one of the goal's words?"""
    return state.status.value in goal or (bool(state.reason) and str(state.reason) in goal)


def settles(goal: Sequence[str]) -> Callable[[JobState], bool]:
    """Is there nothing more to wait for: the goal is reached, or never will be?"""
    from airflow_jobdeploy.core.policy import is_over

    return lambda state: is_over(state) or reached(goal, state)
