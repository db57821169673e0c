"""One attempt on a MemoryHost: a supervisor thread over a thread that runs the steps.

The words of its states come from the same `hostside.verdict` as on real hosts.
"""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow_jobdeploy.core.leases import Lease, SeekAnswer, Ticket
from airflow_jobdeploy.core.plan import Plan, Step
from airflow_jobdeploy.core.status import JobState, JobStatus, Reason
from airflow_jobdeploy.errors import WorkerError, nearest
from airflow_jobdeploy.hostside import verdict
from airflow_jobdeploy.hostside.messages import Digest
from airflow_jobdeploy.hostside.verdict import Evidence
from airflow_jobdeploy.testing.run import Killed, Program, Run, Stopped

if TYPE_CHECKING:
    from airflow_jobdeploy.testing.host import MemoryHost

_KILLED = -9


class MemoryJob:
    """Every attribute is read and written while holding `host.changed`."""

    def __init__(self, host: MemoryHost, plan: Plan) -> None:
        self._host = host
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

    # -- what others see ---------------------------------------------------------------------------------------

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

    # -- orders ------------------------------------------------------------------------------------------------

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

    def extend(self, seconds: float, token: str) -> None:
        """Let it live longer; a request that comes twice counts once."""
        if self.has_ended or self.plan.limits.life_span_s is None or seconds <= 0:
            why = "is over" if self.has_ended else "has no life_span that could be lengthened"
            raise WorkerError(f"{self._host.name}: job {self.job_id} {why} (by {seconds} s)")
        self._added.setdefault(token, seconds)

    def _life_span_s(self) -> float | None:
        planned = self.plan.limits.life_span_s
        return None if planned is None else planned + sum(self._added.values())

    def _ordered(self, seen: Evidence) -> Evidence:
        """The evidence with the order to end, when there was one."""
        if self._is_preempted:
            return seen._replace(preempt={**(self._stop or {}), "checkpointed": self._checkpointed})
        return seen._replace(stop=self._stop)

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

    # -- the supervisor ----------------------------------------------------------------------------------------

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
        line, ticket = self._host.line, Ticket.from_wire(self.plan.lease["ticket"])
        self._lease = line.claim(self.plan.lease.get("id", ""), ticket.uid, self.job_id)
        if self._lease is None:
            self._take(line.seek(ticket, self, lasting=True))
            self._enter("waiting", "PENDING", Reason.QUEUED.value)
        limit_s = self.plan.limits.schedule_timeout_s

        def done() -> bool:
            for answer in line.news(self).values():
                self._take(answer)
            return self._lease is not None or self._stop is not None or self.has_ended

        if not self._host.clock.wait(self._host.changed, done, limit_s):
            self._finish(Evidence(limit={"limit": "schedule_timeout", "limit_s": limit_s}))
        elif self._stop is not None and not self.has_ended:
            self._finish(self._ordered(Evidence()))
        return not self.has_ended

    def _take(self, answer: SeekAnswer) -> None:
        if answer.lease is not None:
            self._lease = self._host.line.claim(answer.lease.id, self.plan.lease["ticket"]["uid"], self.job_id)
        self._place = {"position": answer.position, "why": answer.why}

    def _has_slot(self) -> bool:
        slots = self.plan.slots
        if slots is None:
            return True
        self._enter("waiting", "PENDING", Reason.QUEUED.value)
        limit_s = self.plan.limits.schedule_timeout_s
        mine = (job for job in self._host.jobs.values() if job.plan.worker_pool == self.plan.worker_pool)
        rivals = [*mine]

        def done() -> bool:
            taken = sum(job._began is not None and not job.has_ended for job in rivals)
            return taken < slots or self._stop is not None or self.has_ended

        free = self._host.clock.wait(self._host.changed, done, limit_s)
        if not free:
            self._finish(Evidence(limit={"limit": "schedule_timeout", "limit_s": limit_s}))
        elif self._stop is not None:
            self._finish(self._ordered(Evidence()))
        return not self.has_ended

    def _await_command(self) -> dict[str, Any] | None:
        """Wait for the command; the limit that ran out, if one did."""
        while self._seen is None and self._stop is None and not self.has_ended:
            name, limit_s, left_s = self._nearest_limit()
            if not self._wait(self._step_is_over(self._step), left_s):
                if name == "life_span" and (self._life_span_s() or 0.0) > (limit_s or 0.0):
                    continue  # lengthened meanwhile
                if name != "lease":
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
        lease_s = self.plan.orphan_after_s
        limits += [("lease", lease_s, self.renewed_at + lease_s - now)] if lease_s is not None else []
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
            self._host.taken_down(self.resource_id)

    def _wait(self, done: Callable[[], bool], timeout_s: float | None) -> bool:
        """Until `done`, or there is another reason to go on. False: the time was over."""
        return self._host.clock.wait(
            self._host.changed, lambda: done() or self._stop is not None or self.has_ended, timeout_s
        )

    # -- the command -------------------------------------------------------------------------------------------

    def _spawn(self, body: Callable[[], None]) -> None:
        self._busy += 1
        threading.Thread(target=self._process, args=(body,), name=f"command-{self.job_id}", daemon=True).start()

    def _process(self, body: Callable[[], None]) -> None:
        try:
            body()
        except Killed:
            return
        finally:
            with self._host.changed:
                self._busy -= 1
                self._host.changed.notify_all()

    def _run_steps(self, steps: tuple[Step, ...]) -> None:
        seen = Evidence(status=0, is_ok=True)
        for step in steps:
            with self._host.changed:
                self._step, self._step_began = step.name, self._host.clock.now()
                self._host.changed.notify_all()
            seen = self._run_step(step)
            if not seen.is_ok:
                break
        with self._host.changed:
            self._seen = seen._replace(facts={"last_lines": self._last_lines()})
            self._host.changed.notify_all()

    def _run_step(self, step: Step) -> Evidence:
        files = self._host.files(self.plan)
        if step.kind in ("file", "script") and step.path:
            files[step.path] = step.content.encode()
        if step.kind == "file":
            return Evidence(status=0, is_ok=True, step=step.name)
        program = self._host.program(step)
        if program is None:
            asked = step.content.strip() or " ".join([step.path, *step.args]).strip()
            hint = nearest(asked, self._host.programs)
            text = f"{self._host.name} has no program for {asked!r} (step {step.name!r}).{hint}"
            return Evidence(setup=f"{text} Give it one: programs={{...}}", step=step.name)
        code = self._call(
            program, Run(self, args=step.args, env=self._environment(step), files=files, dataset=self.dataset)
        )
        is_ok = code == 0 or code in step.ok_codes or -code in step.ok_signals
        return Evidence(status=code, is_ok=is_ok, step=step.name)

    def _call(self, program: Program, run: Run) -> int:
        try:
            return program(run) or 0
        except Stopped:
            return -verdict.signal_number(self.plan.limits.signal)
        except Exception:  # noqa: BLE001 - any error of a user's program is an exit code, as in a process
            self.write(traceback.format_exc().encode())
            return 1

    def _environment(self, step: Step) -> dict[str, str]:
        ours = {"JOBDEPLOY_JOB_ID": self.job_id, "JOBDEPLOY_ATTEMPT": str(self.plan.attempt)}
        if self._lease is not None:
            gpus = ",".join(self._lease.gpus)
            ours.update(JOBDEPLOY_GPUS=gpus, CUDA_VISIBLE_DEVICES=gpus)
        return {**self.plan.env, **step.env, **self.plan.secret_env, **ours}

    def _last_lines(self) -> str:
        return "\n".join(bytes(self.log[-2000:]).decode(errors="replace").splitlines()[-5:])

    # -- what a Run asks for -----------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        with self._alive():
            self.log += data
            limit = self.plan.limits.log_limit_bytes
            if limit is not None and len(self.log) > limit:
                self.drop_log(self.dropped + len(self.log) - limit)
            self._host.changed.notify_all()

    def wait(self, timeout_s: float | None, *, deaf: bool) -> None:
        with self._alive():
            self._host.clock.wait(self._host.changed, lambda: self._killed or (self._stopping and not deaf), timeout_s)
            if self._killed:
                raise Killed
            if self._stopping and not deaf:
                raise Stopped

    def put_output(self, path: str, data: bytes) -> None:
        with self._alive():
            self.outputs[path] = data

    def tell(self, line: bytes) -> None:
        with self._alive():
            self._digest.feed(line)
            self._host.changed.notify_all()

    def put_checkpoint(self, path: str, data: bytes) -> None:
        with self._alive():
            self._host.checkpoint(self.plan.uid)[path] = data
            self._checkpointed = self._stopping
            self._host.changed.notify_all()

    def get_checkpoint(self) -> dict[str, bytes]:
        with self._alive():
            return dict(self._host.checkpoint(self.plan.uid))

    def put_result(self, value: Any) -> None:
        with self._alive():
            self._result = json.loads(json.dumps(value))

    def leave(self, program: Program) -> None:
        with self._alive():
            run = Run(self, args=(), env=self._environment(Step(name="left", kind="shell")), files=self.own_files)
            self._spawn(lambda: _ignore(self._call(program, run)))

    def _alive(self) -> threading.Condition:
        with self._host.changed:
            if self._killed:
                raise Killed
        return self._host.changed

    # -- the end -----------------------------------------------------------------------------------------------

    def _finish(self, seen: Evidence) -> None:
        self._close(verdict.judge(seen))

    def _close(self, judged: Mapping[str, Any]) -> None:
        self._killed = True
        self._host.line.leave(self)
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


def _ignore(code: int) -> None:
    """What a detached process returns reaches nobody."""
