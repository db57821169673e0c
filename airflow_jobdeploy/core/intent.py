"""What a submitter writes down before it does anything on a worker: the way back to the job after any crash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.hostside import layout


@dataclass(frozen=True, kw_only=True)
class Intent:
    """Of one attempt of a job, saved before its claim."""

    uid: str
    attempt: int
    worker: str
    worker_pool: str
    machine: str = ""
    #: Where the attempt before was: its checkpoint is there.
    previous_worker: str = ""
    resource: str = ""
    #: Silence of the worker, in seconds, after which the attempt has surely stopped itself; None: never.
    lost_after_s: float | None = None
    #: How often the job was preempted, and tried again for a cause, within its Airflow try.
    preemptions: int = 0
    retries: int = 0
    #: Seconds that are left of its `life_span`; None: nothing has used any of it up, or it has none.
    life_left_s: float | None = None
    #: Is it started again also after a success (`restart_policy: always`)?
    unending: bool = False
    #: The trees of the code and the dataset, by name: all attempts between two clears use the same. "": none.
    bundle: str = ""
    dataset: str = ""
    #: Where the code was taken from (packing.bundle), to make the same tree again.
    code: Mapping[str, Any] = field(default_factory=dict)
    #: The Python packages of the attempt (core.plan.Environment); empty: none.
    environment: Mapping[str, Any] = field(default_factory=dict)
    #: How the attempt ended ("FAILED"), where the task has seen it end otherwise than well: a later try need not ask.
    ended: str = ""
    #: {"max_tries", "clear_number"} of the task instance: equal ones mean a retry, others a clear.
    epoch: Mapping[str, int] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        """The id of the attempt that this intent names."""
        return layout.job_id(self.uid, self.attempt)

    @property
    def previous_job_id(self) -> str:
        """The id of the attempt before."""
        return layout.job_id(self.uid, self.attempt - 1)

    def to_dict(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        mappings = {key: dict(data[key]) for key in ("code", "environment", "epoch")}
        return {**data, **mappings, "version": 1}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Intent:
        return cls(**{key: data[key] for key in cls.__dataclass_fields__ if key in data})

    def handle(self, key: str = "") -> JobHandle:
        """The handle of the attempt that this intent names."""
        return JobHandle(
            uid=self.uid,
            job_id=self.job_id,
            attempt=self.attempt,
            key=key,
            worker_pool=self.worker_pool,
            worker=self.worker,
            machine=self.machine,
            resource=self.resource,
            lost_after_s=self.lost_after_s,
        )

    def following(self, **changes: Any) -> Intent:
        """The intent of another attempt of the same job."""
        return replace(self, **{"ended": "", **changes})
