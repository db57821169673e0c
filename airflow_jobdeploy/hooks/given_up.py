"""Jobs that a person has given up with their workers, which will not come back: `airflow jobdeploy forget --lost`.

While a worker is silent all that is known of its jobs is with Airflow; so this is kept in a Variable, where tasks,
triggerers and commands find it. Who waits for such a job takes it for lost; should its worker answer again, the reaper
ends what still runs of it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.hooks import runtime

VARIABLE = "jobdeploy_given_up"

#: So long it is kept, in seconds; a worker that comes back later finds nobody who remembers.
KEEP_S = 365 * 86400.0

#: Two who write at once: whoever finds the other's only writes again, so often.
_TRIES = 5


def given_up() -> dict[str, str]:
    """Job id -> who has given it up; nothing when Airflow cannot be asked."""
    try:
        return {job_id: str(entry.get("by", "somebody")) for job_id, entry in _entries().items()}
    except runtime.CANNOT_ASK:
        return {}


def give_up(job_id: str, *, by: str) -> None:
    """Take a job for lost. JobDeployError when that cannot be written down."""
    for _ in range(_TRIES):
        now = time.time()
        kept = {name: entry for name, entry in _entries().items() if now - float(entry.get("at", now)) < KEEP_S}
        value = {**kept, job_id: {"by": by, "at": round(now)}}
        runtime.keep_variable(VARIABLE, json.dumps(value), "Jobs that were given up with their workers.")
        if job_id in _entries():
            return
    raise JobDeployError(f"the Variable {VARIABLE} could not be written: somebody else does all the time")


def _entries() -> Mapping[str, Mapping[str, Any]]:
    from airflow.sdk import Variable

    with runtime.lookup():
        text = Variable.get(VARIABLE, default=None)
    try:
        found = json.loads(text or "{}")
    except ValueError:  # a person has edited it
        return {}
    return {name: entry for name, entry in found.items() if _is_entry(entry)} if isinstance(found, dict) else {}


def _is_entry(value: object) -> bool:
    return isinstance(value, dict) and isinstance(value.get("at", 0), (int, float))
