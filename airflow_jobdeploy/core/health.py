"""When a worker is left alone for a while: two failures of its own in a row, by the records that it keeps itself.

Nobody has to remember anything: whoever asks the worker, of whatever deployment, comes to the same. The first job that
is sent there after the pause is the probe: its success brings the worker back, its failure doubles the pause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.core.status import JobStatus, Reason
from airflow_jobdeploy.core.words import duration

#: Ends that say something of the worker, not of the job.
_ITS_OWN = frozenset({Reason.PROCESS_LOST.value, Reason.WORKER_LOST.value, Reason.DISK_FULL.value})
#: Ends by order: they say nothing of either.
_NOTHING = frozenset({JobStatus.CANCELLED.value, JobStatus.SUSPENDED.value})
#: So many failures set a worker aside.
FAILURES = 2
#: Jobs that were lost within so many seconds were lost at once, by a reboot for instance.
_AT_ONCE_S = 60.0
_PAUSE_S, _LONGEST_S = 600.0, 7200.0


def is_its_own(end: Mapping[str, Any]) -> bool:
    """Does it say something of the worker?"""
    return end["reason"] in _ITS_OWN


def settles(end: Mapping[str, Any]) -> bool:
    """Does nothing matter that ended before it: did the worker do what it should?"""
    return not is_its_own(end) and end["status"] not in _NOTHING


def set_aside(ends: Sequence[Mapping[str, Any]]) -> str:
    """The evidence for which a worker is left alone now, in words; "" when it is not.

    `ends`: {"job", "status", "reason", "ago_s"} of its last jobs, newest first.
    """
    failures: list[Mapping[str, Any]] = []
    before_s = -_AT_ONCE_S
    for end in ends:
        if is_its_own(end):
            if end["ago_s"] - before_s >= _AT_ONCE_S:
                failures.append(end)
            before_s = end["ago_s"]
        elif settles(end):
            break
    if len(failures) < FAILURES:
        return ""
    left_s = min(_PAUSE_S * 2 ** (len(failures) - FAILURES), _LONGEST_S) - failures[0]["ago_s"]
    if left_s <= 0:
        return ""
    told = ", ".join(f"{end['job']} {end['reason']} {duration(end['ago_s'])} ago" for end in failures[:3])
    return f"{len(failures)} failures in a row ({told}); tried again in {duration(left_s)}"
