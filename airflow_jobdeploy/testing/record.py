"""What is known of an attempt on a MemoryHost: its state, its log, its end.

The words of its states come from the same `hostside.verdict` as on real hosts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.core.leases import Lease
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside import verdict
from airflow_jobdeploy.hostside.messages import Digest
from airflow_jobdeploy.hostside.verdict import Evidence
from airflow_jobdeploy.testing.line import MemoryLine
from airflow_jobdeploy.testing.site import Site


class Record:
    """Every attribute is read and written while holding `host.changed`."""

    def __init__(self, host: Site, line: MemoryLine, plan: Plan) -> None:
        self._host = host
        self._line = line
        self.plan = plan
        self.job_id = plan.job_id
        self.resource_id = plan.resource_id or (plan.resource.id if plan.resource else "")
        self.owner = plan.owner
        #: The tree that `use_tree` gave as work, and files of steps; a resource has its own instead.
        self.own_files: dict[str, bytes] = {}
        #: The tree that `use_tree` gave as dataset.
        self.dataset: dict[str, bytes] = {}
        self.outputs: dict[str, bytes] = {}
        self.log = bytearray()
        self.dropped = 0
        self._phase = "claimed"
        self._end: dict[str, Any] = {}
        self._result: Any = None
        self._table = ["time,step,name,value"]
        self._digest = Digest(lambda *row: self._table.append(",".join(map(str, row))))
        self._history: list[tuple[float, str, str]] = []
        self._started = False
        self._began: float | None = None
        self._step_began = 0.0
        self._ended_at: float | None = None
        self._step = ""
        #: {"reason", "by", "grace_s"} of an order to end, and whether it is one to make room.
        self._stop: dict[str, Any] | None = None
        self._is_preempted = False
        self._checkpointed = False
        self._stopping = False
        self.moved_to: dict[str, Any] | None = None
        self.renewed_at = host.clock.now()
        #: Token of a request -> seconds that it has added to the job's life.
        self._added: dict[str, float] = {}
        self._killed = False
        self._lease: Lease | None = None
        #: Where it stands in the host's line.
        self._place: dict[str, Any] = {}
        #: Threads of the command and of what it left; and how the command ended.
        self._busy = 0
        self._seen: Evidence | None = None
        self._enter("claimed", "PENDING", Reason.STAGING.value)

    @property
    def files(self) -> dict[str, bytes]:
        """The working directory: a resource's own, else the job's."""
        shared = self._host.resource_files(self.resource_id)
        return self.own_files if shared is None else shared

    # -- what others see ------------------------------------------------------------------------------------------

    @property
    def has_ended(self) -> bool:
        return self._phase == "ended"

    @property
    def is_live(self) -> bool:
        return self._started and not self.has_ended

    def state(self) -> JobState:
        """As it would come over the wire."""
        now = self._host.clock.now()
        _, status, reason = self._history[-1]
        data = {
            "job_id": self.job_id,
            "uid": self.plan.uid,
            "attempt": self.plan.attempt,
            "status": status,
            "reason": reason,
            "phase": self._phase,
            "step": self._step,
            "log_bytes": self.dropped + len(self.log),
            "log_dropped_bytes": self.dropped,
            "running_s": None if self._began is None else (self._ended_at or now) - self._began,
            "result": self._result if self.has_ended else None,
            "messages": self._digest.summary(),
            "history": [{"status": s, "reason": r, "ago_s": now - at} for at, s, r in self._history],
            "machine": self._host.machine,
            "moved_to": self.moved_to,
            "grace_s": self.plan.limits.grace_s,
            "facts": self._held_facts(),
            "life_span_s": self._life_span_s(),
            **self._end,
        }
        return JobState.from_wire(json.loads(json.dumps(data)))

    def _held_facts(self) -> dict[str, Any]:
        if self._lease is None:
            return {"line": self._place} if self._place else {}
        return {"gpus": list(self._lease.gpus)} if self._lease.gpus else {}

    # -- what others do -------------------------------------------------------------------------------------------

    def extend(self, seconds: float, token: str) -> None:
        """Let it live longer; a request that comes twice counts once."""
        if self.has_ended or self.plan.limits.life_span_s is None or seconds <= 0:
            why = "is over" if self.has_ended else "has no life_span that could be lengthened"
            raise WorkerError(f"{self._host.name}: job {self.job_id} {why} (by {seconds} s)")
        self._added.setdefault(token, seconds)

    def _life_span_s(self) -> float | None:
        planned = self.plan.limits.life_span_s
        return None if planned is None else planned + sum(self._added.values())

    def kill(self, status: JobStatus, reason: Reason, *, signal: str | None = None) -> None:
        """Its processes are gone, whoever did it. A job that does not run is untouched."""
        if not self.is_live:
            return
        facts = {"swept": self._busy} if reason is Reason.PROCESS_LOST else {}
        self._close({"status": status.value, "reason": reason.value, "signal": signal, "facts": facts})

    def drop_log(self, until: int) -> None:
        """As a cap does: remove the head of the log."""
        count = max(0, until - self.dropped)
        del self.log[:count]
        self.dropped += count

    # -- the end --------------------------------------------------------------------------------------------------

    def _ordered(self, seen: Evidence) -> Evidence:
        """The evidence with the order to end, when there was one."""
        if self._is_preempted:
            return seen._replace(preempt={**(self._stop or {}), "checkpointed": self._checkpointed})
        return seen._replace(stop=self._stop)

    def _finish(self, seen: Evidence) -> None:
        self._close(verdict.judge(seen))

    def _close(self, judged: Mapping[str, Any]) -> None:
        self._killed = True
        self._line.leave(self)
        self._line.release(self.plan.lease.get("id", ""))  # which it has not claimed
        self._ended_at = self._host.clock.now()
        self._enter("ended", judged["status"], judged["reason"])
        wall_s = self._ended_at - self._began if self._began is not None else 0.0
        if len(self._table) > 1:
            self.outputs.setdefault("metrics.csv", "\n".join([*self._table, ""]).encode())
        size = sum(len(data) for data in self.outputs.values())
        self._end = {
            **judged,
            "facts": {**self._held_facts(), **(judged.get("facts") or {})},
            "step": judged.get("step") or self._step,
            "usage": {"wall_s": wall_s, "cpu_s": 0.0, "peak_memory_bytes": 0},
            "artifacts": {"files": len(self.outputs), "bytes": size},
        }

    def _enter(self, phase: str, status: str, reason: str) -> None:
        self._phase = phase
        self._history.append((self._host.clock.now(), status, reason))
        self._host.changed.notify_all()
