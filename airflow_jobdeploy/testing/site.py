"""What an attempt finds on a MemoryHost: time, programs, packages, resources and checkpoints."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.testing.clock import Clock
from airflow_jobdeploy.testing.run import Program


class Site:
    """Read and written while holding `changed`."""

    def __init__(self, *, name: str, programs: Mapping[str, Program], clock: Clock) -> None:
        self.name = name
        self.programs: dict[str, Program] = dict(programs)
        #: Names of packages that can be installed here; None: all.
        self.packages: set[str] | None = None
        self.clock = clock
        self.machine = f"machine-of-{name}"
        self.changed = threading.Condition(threading.RLock())
        self.resources: dict[str, dict[str, Any]] = {}
        self._checkpoints: dict[str, dict[str, bytes]] = {}

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

    def checkpoint(self, uid: str) -> dict[str, bytes]:
        """The checkpoint directory of a job: all its attempts share it."""
        return self._checkpoints.setdefault(uid, {})

    # -- resources -----------------------------------------------------------------------------------------------

    def make_resource(self, plan: Plan) -> None:
        resource = plan.resource
        assert resource is not None
        record = resource.to_dict()
        builds = record.pop("builds")
        self.resources.setdefault(
            resource.id, {"record": {**record, "stopped": False, "jobs": []}, "builds": builds, "files": {}}
        )

    def resource_files(self, resource_id: str) -> dict[str, bytes] | None:
        """The working directory that the builds of a resource share; None: there is no such resource."""
        files: dict[str, bytes] | None = self.resources.get(resource_id, {}).get("files")
        return files

    def steps(self, plan: Plan) -> tuple[Step, ...]:
        """A plan's own steps, or those that its resource has kept."""
        if not plan.build:
            return plan.steps
        builds = self.resources[plan.resource_id or (plan.resource.id if plan.resource else "")]["builds"]
        if plan.build not in builds:
            raise WorkerError(f"{self.name}: resource {plan.resource_id} has no build {plan.build!r}")
        return tuple(Plan.from_wire({**plan.to_wire(), "resource": None, "steps": builds[plan.build]}).steps)
