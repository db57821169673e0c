"""How long an attempt may run in all (`life_span`): what its plan says, and what was added to that since.

Additions are lines of a file that is only appended to, each with the token of its request: one that is sent again after
a connection was lost counts once. A supervisor reads them when its time is over, so that nobody has to wake it.
"""

from __future__ import annotations

import errno
import os
from typing import Any, Dict, Optional

from airflow_jobdeploy.hostside import layout
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.protocol import OpError

#: The most that one request may add: a year.
MOST_S = 366 * 86400.0
#: The end of a line.
_END = " ."


def bound_s(job: Job) -> Optional[float]:
    """Seconds that the attempt may run, from the start of its command; None: as long as it takes."""
    planned = (job.plan().get("limits") or {}).get("life_span_s")
    if not isinstance(planned, (int, float)):
        return None
    return planned + sum(_added(job).values())


def extend(job: Job, state: Dict[str, Any], seconds: Any, token: Any) -> None:
    """Let a job in `state` live longer. OpError where that means nothing; OSError on a full disk."""
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if not is_number or not 0 < seconds <= MOST_S:
        raise OpError("bad-request", "a life is lengthened by more than 0 and at most %d s, not %r" % (MOST_S, seconds))
    if bound_s(job) is None:
        raise OpError("bad-request", "job %s has no life_span that could be lengthened" % job.id)
    if state.get("phase") in (None, "ended"):
        text = "job %s is over (%s): its life cannot be lengthened" % (job.id, state.get("status"))
        raise OpError("bad-request", text)
    # Without its end it is none, so that what a full disk has cut in two counts for nothing.
    line = "\n%.3f %s%s\n" % (seconds, layout.checked_name(token), _END)
    fd = os.open(job.paths.life, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)
    if token not in _added(job):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), job.paths.life)


def _added(job: Job) -> Dict[str, float]:
    """Token -> seconds."""
    try:
        with open(job.paths.life, encoding="ascii", errors="replace") as file:
            lines = file.read().split("\n")
    except OSError:
        return {}
    found: Dict[str, float] = {}
    for line in lines:
        seconds, _, token = line.partition(" ")
        try:
            if token.endswith(_END):
                found.setdefault(token[: -len(_END)], float(seconds))
        except ValueError:
            continue
    return found
