"""A worker in memory, and what can happen to it."""

from __future__ import annotations

import io
import re
import tarfile
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.core.status import JobStatus, Reason
from airflow_jobdeploy.errors import StagingError, WorkerError
from airflow_jobdeploy.testing.clock import Clock, RealClock
from airflow_jobdeploy.testing.job import MemoryJob
from airflow_jobdeploy.testing.line import MemoryLine
from airflow_jobdeploy.testing.run import Program
from airflow_jobdeploy.testing.trees import MemoryStore

if TYPE_CHECKING:
    from airflow_jobdeploy.testing.memory import MemoryBackend


class MemoryHost:
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
        self.name = name
        self.programs: dict[str, Program] = dict(programs or {})
        #: Names of packages that can be installed here; None: all.
        self.packages: set[str] | None = None
        self.clock: Clock = clock or RealClock()
        self.machine = f"machine-of-{name}"
        self.boot = 1
        #: False: nobody can ask the host now; its jobs go on.
        self.plugged = True
        self.changed = threading.Condition(threading.RLock())
        self.jobs: dict[str, MemoryJob] = {}
        self.resources: dict[str, dict[str, Any]] = {}
        self.store = MemoryStore(name)
        self.line = MemoryLine(self, {"gpus": [], **(capacity or {})})
        self._checkpoints: dict[str, dict[str, bytes]] = {}

    def backend(self, *, machine: str | None = None) -> MemoryBackend:
        """A new connection."""
        from airflow_jobdeploy.testing.memory import MemoryBackend

        return MemoryBackend(self, machine=machine)

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

    def settle(self, timeout_s: float = 10.0) -> None:
        """Wait, in real time, until no job runs. TimeoutError with the jobs that still do."""
        with self.changed:
            if not self.changed.wait_for(lambda: not self.running(), timeout_s):
                raise TimeoutError(f"still running: {self.running()}")

    def running(self) -> list[str]:
        """The ids of the jobs that run."""
        with self.changed:
            return [job.job_id for job in self.jobs.values() if job.is_live]

    # -- jobs ----------------------------------------------------------------------------------------------------

    def job(self, job_id: str) -> MemoryJob:
        if job_id not in self.jobs:
            raise WorkerError(f"{self.name} has no job {job_id}")
        return self.jobs[job_id]

    def claim(self, plan: Plan) -> MemoryJob:
        if plan.job_id not in self.jobs:
            if plan.resource is not None:
                self._make_resource(plan)
            elif plan.resource_id and plan.resource_id not in self.resources:
                raise WorkerError(f"{self.name} has no resource {plan.resource_id}")
            self.jobs[plan.job_id] = MemoryJob(self, plan)
            self.line.untie(plan.lease.get("id", ""))
            for job in self.jobs.values():
                if job.plan.uid == plan.uid and job.plan.attempt < plan.attempt:
                    job.moved_to = {"job_id": plan.job_id, "attempt": plan.attempt, "worker": plan.worker}
            self.changed.notify_all()
        return self.jobs[plan.job_id]

    def _make_resource(self, plan: Plan) -> None:
        resource = plan.resource
        assert resource is not None
        record = resource.to_dict()
        builds = record.pop("builds")
        self.resources.setdefault(
            resource.id, {"record": {**record, "stopped": False, "jobs": []}, "builds": builds, "files": {}}
        )

    def steps(self, plan: Plan) -> tuple[Step, ...]:
        """A plan's own steps, or those that its resource has kept."""
        if not plan.build:
            return plan.steps
        builds = self.resources[plan.resource_id or (plan.resource.id if plan.resource else "")]["builds"]
        if plan.build not in builds:
            raise WorkerError(f"{self.name}: resource {plan.resource_id} has no build {plan.build!r}")
        return tuple(Plan.from_wire({**plan.to_wire(), "resource": None, "steps": builds[plan.build]}).steps)

    def files(self, plan: Plan) -> dict[str, bytes]:
        """The working directory: a resource's own, else the job's."""
        resource = self.resources.get(plan.resource_id or (plan.resource.id if plan.resource else ""))
        files: dict[str, bytes] = resource["files"] if resource else self.jobs[plan.job_id].own_files
        return files

    def checkpoint(self, uid: str) -> dict[str, bytes]:
        """The checkpoint directory of a job: all its attempts share it."""
        return self._checkpoints.setdefault(uid, {})

    def program(self, step: Step) -> Program | None:
        line = " ".join([step.path, *step.args]).strip() if step.kind in ("entry", "argv") else ""
        names = (step.content.strip(), line, step.path, step.name)
        return next((self.programs[name] for name in names if name in self.programs), None)

    def missing_package(self, plan: Plan) -> str:
        """The first requirement of a plan that cannot be installed here, or ""."""
        lines = plan.environment.requirements if plan.environment else ()
        offline = "--no-index" in lines and not any(line.startswith("--find-links") for line in lines)
        for line in lines:
            name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
            if not line.startswith("-") and (offline or (self.packages is not None and name not in self.packages)):
                return line
        return ""

    def taken_down(self, resource_id: str) -> None:
        """A `down` has succeeded: what its `up` left goes."""
        self.resources[resource_id]["record"]["stopped"] = True
        for job in self.jobs.values():
            if job.is_live and job.plan.build == "up" and job.resource_id == resource_id:
                job.order_stop(reason="taken down", by="", grace_s=None)


def pack(files: Mapping[str, bytes]) -> bytes:
    """Files as a tar stream."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:") as tar:
        for path, data in sorted(files.items()):
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return archive.getvalue()


def unpack(archive: bytes) -> dict[str, bytes]:
    """A project's files. StagingError when it is no whole tar, or a path would leave the project."""
    files: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            for member in tar:
                if member.name.startswith("/") or ".." in member.name.split("/"):
                    raise StagingError(f"refused: {member.name!r} would leave the project")
                content = tar.extractfile(member) if member.isreg() else None
                if content is not None:
                    files[member.name] = content.read()
    except (tarfile.TarError, EOFError) as error:
        raise StagingError(f"the project arrived damaged: {error}") from error
    return files
