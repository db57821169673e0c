"""What a task does when Airflow tells it to end: `on_kill` of a task, without guessing.

A SIGTERM does not end `execute`: the handler calls `on_kill`, and execute goes on. So `on_kill` only
sets a flag and wakes the wait; the wait asks Airflow for the task's state and decides here.
(Seen on Airflow 3.3: a task that returns normally after the signal is marked SUCCESS; one that raises
loses a try; one that defers loses none.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from airflow_jobdeploy.hooks import runtime
from airflow_jobdeploy.service import Workers


class Parting(Enum):
    """How a task that was told to end leaves its job."""

    DEFER = "defer"  #: the job goes on, watched by a trigger; no try is lost
    RAISE = "raise"  #: the job goes on; the next try reattaches to it
    STOP = "stop"  #: the job is to end


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How to part, and the sentence that explains it in the task's log."""

    parting: Parting
    why: str


def judge(state: str | None, *, asked: bool, can_defer: bool) -> Verdict:
    """What to do after the signal. `state`: of the task instance; `asked`: could Airflow be asked at all?"""
    if not asked:
        return Verdict(
            parting=Parting.RAISE, why="Airflow cannot be asked for the task's state: this process is being shut down"
        )
    if state != "running":
        return Verdict(parting=Parting.STOP, why=f"the task was set to {state or 'no state, or its run was deleted'}")
    why = "this worker process is being shut down"
    return Verdict(parting=Parting.DEFER if can_defer else Parting.RAISE, why=why)


def ask_and_judge(context: Mapping[str, Any], *, can_defer: bool) -> Verdict:
    """`judge` with the state as Airflow tells it."""
    try:
        state = runtime.task_state(context["ti"])
    except runtime.CANNOT_ASK:
        return judge(None, asked=False, can_defer=can_defer)
    return judge(state, asked=True, can_defer=can_defer)


class Bell:
    """Set by `on_kill`, looked at by the wait. Its methods are safe in a signal handler of the waiting thread."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._rung = False

    def ring(self) -> None:
        """The task is to end."""
        self._rung = True
        self._workers.wake()

    def rung(self) -> bool:
        """Was the task told to end?"""
        return self._rung
