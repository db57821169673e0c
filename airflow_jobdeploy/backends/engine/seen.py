"""What was seen of one attempt: its record, its container, its report. Pure: no request is made here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.engine import bare
from airflow_jobdeploy.backends.engine.times import seconds

#: Files of the report: hundredths of a second that were added to its life_span, each by one request.
LIFE = "life."
_GOING = ("removing", "dead")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one attempt."""

    job_id: str
    plan: Mapping[str, Any]
    #: When the claim was made, as the engine writes times.
    claimed: str
    #: The container as the engine inspects it; None: there is none.
    container: Mapping[str, Any] | None
    #: The files of the report; None: not read.
    report: Mapping[str, bytes] | None = None
    #: The engine's clock now, in seconds since 1970.
    now: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: The GPUs that its lease gave it; where it stands in the engine's line: {"position", "ahead", "why"}.
    gpus: tuple[str, ...] = ()
    line: Mapping[str, Any] = field(default_factory=dict)
    #: Since when it waits for a slot of its pool; "": it does not, or did not.
    queued: str = ""
    #: Since when its image was made; "": it needed none of its own.
    setup: str = ""

    @property
    def state(self) -> Mapping[str, Any]:
        return (self.container or {}).get("State") or {}

    @property
    def is_running(self) -> bool:
        return bool(self.state.get("Running"))

    @property
    def is_unstarted(self) -> bool:
        """Has its container never run? Also one that is being replaced has not."""
        if self.container is None or self.state.get("Status") not in ("created", *_GOING):
            return False
        return self.state.get("Status") == "created" or seconds(self.state.get("StartedAt")) is None

    def text(self, name: str) -> str:
        return (self.report or {}).get(name, b"").decode("utf-8", "replace")

    @property
    def has_begun(self) -> bool:
        return "history" in (self.report or {}) or self.is_bare

    @property
    def is_bare(self) -> bool:
        """Is, or was, the command itself process 1 of its container?"""
        return bare.MARK in (self.report or {}) and not self.is_unstarted

    @property
    def orders(self) -> dict[str, dict[str, Any]]:
        """What is to end it, by its names."""
        found = {name: self.json(f"{name}.json") for name in bare.ORDERS}
        return {name: order for name, order in found.items() if order is not None}

    @property
    def has_reported(self) -> bool:
        return "end" in (self.report or {})

    def json(self, name: str) -> dict[str, Any] | None:
        """A file of the report; None: there is none. What is no object of JSON is an empty one."""
        data = (self.report or {}).get(name)
        if data is None:
            return None
        try:
            return dict(json.loads(data))
        except (ValueError, TypeError):
            return {}


def life_span_s(seen: Seen) -> float | None:
    """How long the attempt may run: what was planned, and what was added since (orders.extend)."""
    planned = (seen.plan.get("limits") or {}).get("life_span_s")
    if planned is None:
        return None
    added = [text for name, data in (seen.report or {}).items() if name.startswith(LIFE) and (text := data.strip())]
    return float(planned) + sum(int(text) for text in added if text.isdigit()) / 100
