"""A worker in memory, and what can happen to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.core.status import JobStatus, Reason
from airflow_jobdeploy.testing.clock import Clock, RealClock
from airflow_jobdeploy.testing.machine import Machine
from airflow_jobdeploy.testing.memory import MemoryBackend
from airflow_jobdeploy.testing.run import Program


class MemoryHost(Machine):
    """What really happens; shared by all backends that talk to it, as a host is by its connections.

    `programs`: what steps do, by the text of a script, the path or command line of an entry, or the step's
    name, looked up in this order. A step that has none fails as a missing command does. All waiting is
    done on `clock`. `capacity`: {"cpu", "memory", "disk", "gpus": [{"index", "uuid", "model", "memory_bytes"}]}, what
    leases are given of; what is not said has no bound, and there are no GPUs.
    """

    def __init__(
        self,
        *,
        name: str = "memory",
        programs: Mapping[str, Program] | None = None,
        clock: Clock | None = None,
        capacity: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(name=name, programs=programs or {}, clock=clock or RealClock(), capacity=capacity or {})

    def backend(self, *, machine: str | None = None) -> MemoryBackend:
        """A new connection."""
        return MemoryBackend(self, machine=machine)

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait, in real time, until no job runs. TimeoutError with the jobs that still do."""
        with self.changed:
            if not self.changed.wait_for(lambda: not self.running(), timeout_s):
                raise TimeoutError(f"still running: {self.running()}")

    # -- what may befall it --------------------------------------------------------------------------------------

    def unplug(self) -> None:
        """Nobody can ask it; its jobs go on."""
        with self.changed:
            self.plugged = False
            self.changed.notify_all()

    def plug_in(self) -> None:
        with self.changed:
            self.plugged = True
            self.changed.notify_all()

    def reboot(self) -> None:
        """All processes go; jobs that ran are lost, and the host knows it."""
        with self.changed:
            self.boot += 1
            for job in self.jobs.values():
                job.kill(JobStatus.FAILED, Reason.WORKER_LOST)
            self.line.reboot()

    def kill_supervisor(self, job_id: str) -> None:
        """As `kill -9` of the job's supervisor."""
        with self.changed:
            self.jobs[job_id].kill(JobStatus.FAILED, Reason.PROCESS_LOST)

    def kill(self, job_id: str, signal: str = "SIGKILL") -> None:
        """As `kill -9` of the job's command by a stranger."""
        with self.changed:
            self.jobs[job_id].kill(JobStatus.FAILED, Reason.SIGNAL, signal=signal)
