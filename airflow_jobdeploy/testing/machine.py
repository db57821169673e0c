"""All that a MemoryHost has: its jobs, their line, its trees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.testing.clock import Clock
from airflow_jobdeploy.testing.job import MemoryJob
from airflow_jobdeploy.testing.line import MemoryLine
from airflow_jobdeploy.testing.run import Program
from airflow_jobdeploy.testing.site import Site
from airflow_jobdeploy.testing.trees import MemoryStore


class Machine(Site):
    """What the backends that talk to a host share, as a host is shared by its connections."""

    def __init__(
        self, *, name: str, programs: Mapping[str, Program], clock: Clock, capacity: Mapping[str, Any]
    ) -> None:
        super().__init__(name=name, programs=programs, clock=clock)
        self.boot = 1
        #: False: nobody can ask it now; its jobs go on.
        self.plugged = True
        self.jobs: dict[str, MemoryJob] = {}
        self.store = MemoryStore(name)
        self.line = MemoryLine(self, {"gpus": [], **capacity}, self._ends)

    def job(self, job_id: str) -> MemoryJob:
        if job_id not in self.jobs:
            raise WorkerError(f"{self.name} has no job {job_id}")
        return self.jobs[job_id]

    def running(self) -> list[str]:
        """The ids of the jobs that run."""
        with self.changed:
            return [job.job_id for job in self.jobs.values() if job.is_live]

    def claim(self, plan: Plan) -> MemoryJob:
        if plan.job_id not in self.jobs:
            if plan.resource is not None:
                self.make_resource(plan)
            elif plan.resource_id and plan.resource_id not in self.resources:
                raise WorkerError(f"{self.name} has no resource {plan.resource_id}")
            self.jobs[plan.job_id] = MemoryJob(self, self.line, plan, self.jobs)
            self.line.untie(plan.lease.get("id", ""))
            for job in self.jobs.values():
                if job.plan.uid == plan.uid and job.plan.attempt < plan.attempt:
                    job.moved_to = {"job_id": plan.job_id, "attempt": plan.attempt, "worker": plan.worker}
            self.changed.notify_all()
        return self.jobs[plan.job_id]

    def _ends(self) -> list[dict[str, Any]]:
        """How the last jobs ended, newest first."""
        ended = [state for job in self.jobs.values() if (state := job.state()).phase == "ended"]
        found = [
            {
                "job": state.job_id,
                "status": state.status.value,
                "reason": state.reason,
                "ago_s": float(state.history[-1]["ago_s"]),
            }
            for state in ended
        ]
        return sorted(found, key=lambda end: float(end["ago_s"]))[:8]
