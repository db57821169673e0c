"""How the last jobs of this host ended: what a host says of its own health."""

from __future__ import annotations

import heapq
import os
from typing import Any, Dict, List, Tuple

from airflow_jobdeploy.hostside import files, layout
from airflow_jobdeploy.hostside.jobdir import age_s
from airflow_jobdeploy.hostside.layout import HostPaths


def last(host: HostPaths, most: int = 8) -> List[Dict[str, Any]]:
    """{"job", "status", "reason", "ago_s"} of the last `most`, newest first; without records that cannot be read."""
    found = []
    for _, name in heapq.nlargest(most, _ended(host)):
        try:
            record = files.read_json(host.job(name).exit) or {}
            told = {key: str(record.get(key) or "") for key in ("status", "reason")}
            found.append({"job": name, **told, "ago_s": age_s(record["ended"])})
        except (files.Damaged, KeyError, TypeError, OSError):
            continue
    return sorted(found, key=lambda end: end["ago_s"])


def _ended(host: HostPaths) -> List[Tuple[float, str]]:
    """(when, job) of all that have an exit record."""
    found = []
    try:
        names = os.listdir(host.jobs)
    except FileNotFoundError:
        return []
    for name in names:
        try:
            found.append((os.stat(host.job(name).exit).st_mtime, name) if layout.is_name(name) else (0.0, ""))
        except OSError:  # it has not ended, or is being forgotten
            continue
    return [each for each in found if each[1]]
