"""What has been found out of the container of one attempt, and whether it must be asked again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.backends.engine import reports, said
from airflow_jobdeploy.backends.engine.listing import LIVE
from airflow_jobdeploy.backends.engine.logs import Log


@dataclass
class Known:
    """What has been found out of one container."""

    container: str = ""
    listed: str = ""
    inspected: Mapping[str, Any] | None = None
    report: Mapping[str, bytes] | None = None
    log: Log | None = None
    #: The state of an end, but for what may still change, and when it was made.
    ended: dict[str, Any] | None = None
    ended_at: float = 0.0
    #: When it was last asked for beside the listing, whatever that said.
    looked_at: float = field(default_factory=time.monotonic)
    secrets: tuple[str, ...] = ()
    said: said.Said = said.NOTHING
    facts: dict[str, Any] = field(default_factory=dict)
    #: Output files of an attempt that has ended, by path, as far as somebody has asked for them.
    files: dict[str, ArtifactFile] = field(default_factory=dict)
    #: It was let go just now: its first state is told without its report, which has hardly begun and is dear to read.
    has_just_begun: bool = False

    def may_move(self, plan: Mapping[str, Any]) -> bool:
        """May a running container's report have changed, without the engine telling?"""
        if self.listed not in LIVE:
            return False
        several = plan.get("leftovers") == "wait" or plan.get("build") or len(plan.get("steps", ())) > 1
        return bool(several) or not _is_settled(self.report)


def _is_settled(report: Mapping[str, bytes] | None) -> bool:
    """Does the command run, so that the next news is that it has ended?"""
    told = reports.standing(report)
    return told is not None and told.phase == "running" and not told.reason
