"""Which live jobs are stopped because nobody waits for them any more. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

#: States of a task instance after which nobody comes back for its job.
TERMINAL_TASK_STATES = frozenset({"success", "failed", "upstream_failed", "skipped", "removed"})

#: Said of a task instance that Airflow no longer knows: its run was deleted.
GONE = "gone"


@dataclass(frozen=True, kw_only=True)
class Reaping:
    """What a look at the owners of live jobs comes to."""

    #: job id -> why it is to be stopped
    stop: Mapping[str, str]
    #: Jobs whose owner seems gone, to be looked at once more before they are stopped.
    suspects: frozenset[str]


def reaping(
    owners: Mapping[str, str | None], suspects: frozenset[str], given_up: Mapping[str, str] | None = None
) -> Reaping:
    """Which live jobs to stop. `owners`: job id -> state of its task instance (None: no state yet, GONE: unknown);
    `given_up`: job id -> who took it for lost while its worker was silent: another attempt may run by now.

    A terminal owner is the end; one that is gone must be seen gone twice, since a question to a database
    that is being restored, or to a run that is just being made, may find nothing.
    """
    stop: dict[str, str] = {}
    doubtful = set()
    for job_id, state in owners.items():
        if given_up and job_id in given_up:
            stop[job_id] = f"it was given up by {given_up[job_id]} while its worker was silent"
        elif state in TERMINAL_TASK_STATES:
            stop[job_id] = f"its task instance is {state}, and nobody waits for it"
        elif state == GONE and job_id in suspects:
            stop[job_id] = "its task instance is gone, and nobody waits for it"
        elif state == GONE:
            doubtful.add(job_id)
    return Reaping(stop=stop, suspects=frozenset(doubtful))
