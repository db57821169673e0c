"""One attempt on a MemoryHost: a supervisor thread over the threads of its command."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

from airflow_jobdeploy.core.leases import SeekAnswer, Ticket
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import Reason
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside.verdict import Evidence
from airflow_jobdeploy.testing.command import Command
from airflow_jobdeploy.testing.line import MemoryLine
from airflow_jobdeploy.testing.site import Site

_KILLED = -9


class MemoryJob(Command):
    """An attempt that takes orders, waits for what it needs, and keeps its limits, as a supervisor does.

    `fellows`: all jobs of its host, by their ids, itself among them.
    """

    def __init__(self, host: Site, line: MemoryLine, plan: Plan, fellows: Mapping[str, MemoryJob]) -> None:
        super().__init__(host, line, plan)
        self._fellows = fellows

    # -- orders ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        if self._started or self.has_ended:
            return
        if self.moved_to is not None:
            raise WorkerError(f"another attempt has taken the place of job {self.job_id}: it is not started again")
        self._started = True
        threading.Thread(target=self._supervise, name=f"supervisor-{self.job_id}", daemon=True).start()

    def order_stop(self, *, reason: str, by: str, grace_s: float | None) -> None:
        if self.has_ended or self._stop is not None:
            return
        self._stop = {"reason": reason, "by": by, "grace_s": grace_s}
        if self._started:
            self._host.changed.notify_all()
        else:
            self._finish(self._ordered(Evidence()))

    def order_preempt(self, *, reason: str, by: str, grace_s: float | None) -> None:
        if not self.has_ended and self._stop is None:
            self._is_preempted = True
            self.order_stop(reason=reason, by=by, grace_s=grace_s)

    # -- before the command ---------------------------------------------------------------------------------------

    def _supervise(self) -> None:
        with self._host.changed:
            try:
                steps = self._host.steps(self.plan)
            except WorkerError as error:
                self._finish(Evidence(setup=str(error)))
                return
            if not self._has_lease() or not self._has_slot() or not self._is_set_up():
                return
            self._began = self._host.clock.now()
            self._enter("running", "RUNNING", "")
            self._spawn(lambda: self._run_steps(steps))
            limit = self._await_command()
            if limit is None and self._stop is None:
                self._await_leftovers()
            self._end_all()
            seen = self._seen or Evidence(status=_KILLED, step=self._step)
            orphan = limit if limit and "orphaned_s" in limit else None
            seen = self._ordered(seen._replace(limit=None if orphan else limit, orphan=orphan))
            if not self.has_ended:
                self._take_down(seen)
                self._finish(seen)

    def _is_set_up(self) -> bool:
        """Is its environment made? Else that is its end."""
        if self.plan.environment is not None:
            self._enter("setup", "PENDING", Reason.SETUP.value)
        missing = self._host.missing_package(self.plan)
        if missing:
            self._finish(Evidence(setup=f"the environment could not be made: {missing} was not found"))
        return not missing

    def _has_lease(self) -> bool:
        """Does it hold what its plan says? It claims that, or waits in the host's line."""
        if not self.plan.lease:
            return True
        line, ticket = self._line, Ticket.from_wire(self.plan.lease["ticket"])
        self._lease = line.claim(self.plan.lease.get("id", ""), ticket.uid, self.job_id)
        if self._lease is None:
            self._take(line.seek(ticket, self, lasting=True))
            self._enter("waiting", "PENDING", Reason.QUEUED.value)

        def is_granted() -> bool:
            for answer in line.news(self).values():
                self._take(answer)
            return self._lease is not None

        return self._has_its_turn(is_granted)

    def _take(self, answer: SeekAnswer) -> None:
        if answer.lease is not None:
            self._lease = self._line.claim(answer.lease.id, self.plan.lease["ticket"]["uid"], self.job_id)
        self._place = {"position": answer.position, "why": answer.why}

    def _has_slot(self) -> bool:
        slots = self.plan.slots
        if slots is None:
            return True
        self._enter("waiting", "PENDING", Reason.QUEUED.value)
        rivals = [job for job in self._fellows.values() if job.plan.worker_pool == self.plan.worker_pool]

        def is_free() -> bool:
            return sum(job._began is not None and not job.has_ended for job in rivals) < slots

        return self._has_its_turn(is_free)

    def _has_its_turn(self, is_ready: Callable[[], bool]) -> bool:
        """Wait for what the job needs; False: that is its end: an order, schedule_timeout, nobody asks for it."""
        begun = self._host.clock.now()

        def done() -> bool:
            return self._stop is not None or self.has_ended or (is_ready() and self.moved_to is None)

        while not self._host.clock.wait(self._host.changed, done, self._patience_s(begun)):
            if (over := self._waited_out(begun)) is not None:
                self._finish(over)
        if self._stop is not None and not self.has_ended:
            self._finish(self._ordered(Evidence()))
        return not self.has_ended

    def _patience_s(self, begun: float) -> float | None:
        """Until a limit may have been reached, having waited since `begun`."""
        schedule_s, orphan_s = self.plan.limits.schedule_timeout_s, self.plan.orphan_after_s
        ends = [begun + schedule_s] if schedule_s is not None else []
        ends += [self.renewed_at + orphan_s] if orphan_s is not None else []
        return max(0.0, min(ends) - self._host.clock.now()) if ends else None

    def _waited_out(self, begun: float) -> Evidence | None:
        """How the job ends, if it has waited since `begun` for too long, or was not asked for."""
        now, limit_s, orphan_s = self._host.clock.now(), self.plan.limits.schedule_timeout_s, self.plan.orphan_after_s
        if limit_s is not None and now - begun >= limit_s:
            return Evidence(limit={"limit": "schedule_timeout", "limit_s": limit_s})
        if orphan_s is not None and now - self.renewed_at >= orphan_s:
            return Evidence(orphan={"orphaned_s": now - self.renewed_at})
        return None

    # -- while it runs, and after ---------------------------------------------------------------------------------

    def _await_command(self) -> dict[str, Any] | None:
        """Wait for the command; the limit that ran out, if one did."""
        while self._seen is None and self._stop is None and not self.has_ended:
            name, limit_s, left_s = self._nearest_limit()
            if not self._wait(self._step_is_over(self._step), left_s):
                if name == "life_span" and (self._life_span_s() or 0.0) > (limit_s or 0.0):
                    continue  # lengthened meanwhile
                if name != "orphan":
                    return {"limit": name, "limit_s": limit_s}
                if (silent := self._host.clock.now() - self.renewed_at) >= (limit_s or 0.0):
                    return {"orphaned_s": silent}
        return None

    def _step_is_over(self, step: str) -> Callable[[], bool]:
        return lambda: self._seen is not None or self._step != step

    def _nearest_limit(self) -> tuple[str, float | None, float | None]:
        now, whole = self._host.clock.now(), self.plan.limits.timeout_s
        assert self._began is not None
        limits = [("timeout", whole, self._began + whole - now)] if whole is not None else []
        steps = [step.timeout_s for step in self._host.steps(self.plan) if step.name == self._step]
        limits += [("timeout", one, self._step_began + one - now) for one in steps if one is not None]
        life_s = self._life_span_s()
        limits += [("life_span", life_s, self._began + life_s - now)] if life_s is not None else []
        orphan_s = self.plan.orphan_after_s
        limits += [("orphan", orphan_s, self.renewed_at + orphan_s - now)] if orphan_s is not None else []
        return min(limits, key=lambda limit: limit[2]) if limits else ("", None, None)

    def _await_leftovers(self) -> None:
        if self._busy and self.plan.leftovers == "wait" and not self.has_ended:
            self._enter("leftovers", "RUNNING", Reason.LEFTOVERS.value)
            self._wait(lambda: self._busy == 0, None)

    def _end_all(self) -> None:
        """Signal, grace, kill."""
        grace_s = (self._stop or {}).get("grace_s")
        self._stopping = True
        self._host.changed.notify_all()
        wait_s = self.plan.limits.grace_s if grace_s is None else grace_s
        self._host.clock.wait(self._host.changed, self._is_settled, wait_s)
        self._killed = True
        self._host.changed.notify_all()

    def _is_settled(self) -> bool:
        return self._busy == 0 or self._killed or (self._is_preempted and self._checkpointed)

    def _take_down(self, seen: Evidence) -> None:
        if self.plan.build == "down" and seen.is_ok and self._stop is None:
            self._host.resources[self.resource_id]["record"]["stopped"] = True
            for job in self._fellows.values():  # what its `up` left goes
                if job.is_live and job.plan.build == "up" and job.resource_id == self.resource_id:
                    job.order_stop(reason="taken down", by="", grace_s=None)

    def _wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Until `done`, or there is another reason to go on. False: the time was over."""
        return self._host.clock.wait(
            self._host.changed, lambda: done() or self._stop is not None or self.has_ended, timeout_s
        )
