"""The event of a trigger: one plain dict, written and read here only.

It carries all that the task needs, so that `execute_complete` opens no connection when the log was
told whole, and so that it works in `dag.test()`, where the kwargs of `defer` are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from airflow_jobdeploy.core.status import JobHandle, JobState


@dataclass(frozen=True, kw_only=True)
class Followed:
    """One job as the trigger left it. `offset`: the first byte of its log that was not told."""

    handle: JobHandle
    state: JobState | None
    offset: int = 0

    @property
    def log_left(self) -> bool:
        """Is there log that was not told?"""
        return self.state is not None and self.offset < self.state.log_bytes

    def to_dict(self) -> dict[str, Any]:
        state = self.state.to_dict() if self.state else None
        return {"handle": self.handle.to_dict(), "state": state, "offset": self.offset}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Followed:
        state = data.get("state")
        return cls(
            handle=JobHandle.from_dict(data["handle"]),
            state=JobState.from_wire(state) if state else None,
            offset=int(data.get("offset", 0)),
        )


@dataclass(frozen=True, kw_only=True)
class JobEvent:
    """What a trigger has to say at its end."""

    jobs: tuple[Followed, ...]
    #: True when this triggerer is another machine than the one that has the jobs: the task must look itself.
    elsewhere: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"version": 1, "elsewhere": self.elsewhere, "jobs": [job.to_dict() for job in self.jobs]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobEvent:
        """Read an event back."""
        jobs = tuple(Followed.from_dict(job) for job in data["jobs"])
        return cls(jobs=jobs, elsewhere=bool(data.get("elsewhere")))
