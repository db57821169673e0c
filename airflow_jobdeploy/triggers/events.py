"""The events of triggers: plain dicts, written and read here only.

It carries all that the task needs, so that `execute_complete` opens no connection when the log was
told whole, and so that it works in `dag.test()`, where the kwargs of `defer` are lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.core.status import JobHandle, JobState
from airflow_jobdeploy.service.line import Granted, Wait


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


@dataclass(frozen=True, kw_only=True)
class LineEvent:
    """How a wait for a worker ended: `granted`, or `timed_out` (a sentence)."""

    wait: Wait
    granted: Granted | None = None
    timed_out: str = ""
    #: Of the attempt that waits, where it is not the first.
    sequel: Sequel | None = None

    @staticmethod
    def is_one(event: Mapping[str, Any]) -> bool:
        """Is it of a wait for a worker, not for a job?"""
        return "wait" in event

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "version": 1,
            "wait": self.wait.to_dict(),
            "granted": self.granted.to_dict() if self.granted else None,
            "timed_out": self.timed_out,
            "sequel": asdict(self.sequel) if self.sequel else None,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LineEvent:
        """Read an event back."""
        granted, sequel = data.get("granted"), data.get("sequel")
        return cls(
            wait=Wait.from_dict(data["wait"]),
            granted=Granted.from_dict(granted) if granted else None,
            timed_out=str(data.get("timed_out") or ""),
            sequel=Sequel(**sequel) if sequel else None,
        )
