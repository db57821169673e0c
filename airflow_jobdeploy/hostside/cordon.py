"""A worker that takes no new jobs for a while: one file, which all sessions of the account read.

So whoever cordons it need not tell the other deployments that use the account. What runs goes on; what stands in its
line waits.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict

from airflow_jobdeploy.hostside import files

_MOST = 200


def change(path: str, ask: Dict[str, Any]) -> str:
    """{"by", "why"}: from now on no new jobs; {"lift": true}: take them again. What is told now.

    OSError when it cannot be written.
    """
    if not ask.get("lift"):
        files.write_json(path, record(ask), sync=True)
    elif os.path.lexists(path):
        os.unlink(path)
    return told(path)


def told(path: str) -> str:
    """By whom and why no new jobs are taken, in words; "" when they are."""
    try:
        found = files.read_json(path)
    except files.Damaged:
        return "%s cannot be read" % path
    return "" if found is None else in_words(found)


def record(ask: Dict[str, Any]) -> Dict[str, str]:
    """What is written down of an order."""
    return {"by": _plain(str(ask.get("by"))), "why": _plain(str(ask.get("why")))}


def in_words(found: Dict[str, Any]) -> str:
    """A record, for people."""
    why = _plain(str(found.get("why") or ""))
    return "cordoned by %s%s" % (_plain(str(found.get("by") or "")) or "somebody", ": " + why if why else "")


def _plain(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text).strip()[:_MOST]
