"""What a job says of itself: its messages file, read through the engine, and the metrics that become an artifact."""

from __future__ import annotations

import csv
import hashlib
import io
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.hostside import messages

#: Of a running job's messages so much is read; a flood is looked at when it has ended.
_LIVE = 4 * 1024 * 1024
METRICS = "metrics.csv"


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the messages come to."""

    #: Size and time of the file when it was read.
    seen: tuple[int, str] = (0, "")
    summary: dict[str, Any] | None = None
    #: metrics.csv, of a job that has ended; None: it told no metrics.
    metrics: bytes | None = None

    def artifact(self) -> ArtifactFile | None:
        """The metrics as a file of the output."""
        if self.metrics is None:
            return None
        digest = hashlib.sha256(self.metrics).hexdigest()
        return ArtifactFile(path=METRICS, size=len(self.metrics), sha256=digest)


NOTHING = Said()


def listen(places: Places, container: str, before: Said, *, has_ended: bool) -> Said:
    """What there is now."""
    seen = places.stat(container, names.MESSAGES)
    if seen is None or (not has_ended and (seen == before.seen or seen[0] > _LIVE)):
        return before
    limit = messages.MOST if has_ended else _LIVE
    data = places.small(container, names.MESSAGES, limit).get(names.MESSAGES.rpartition("/")[2], b"")
    rows: list[tuple[Any, ...]] = []
    digest = messages.Digest(lambda *row: rows.append(row))
    digest.feed(data)
    if has_ended:
        digest.end()
    return Said(seen=seen, summary=digest.summary(), metrics=_table(rows) if has_ended and rows else None)


def _table(rows: list[tuple[Any, ...]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["time", "step", "name", "value"])
    writer.writerows((time, step, name, repr(value)) for time, step, name, value in rows)
    return out.getvalue().encode("utf-8", "replace")
