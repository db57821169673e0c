"""The command of an attempt on a MemoryHost: threads that run its steps, and what their programs ask for."""

from __future__ import annotations

import json
import threading
import traceback
from collections.abc import Callable
from typing import Any

from airflow_jobdeploy.core.plan import Step
from airflow_jobdeploy.errors import nearest
from airflow_jobdeploy.hostside import verdict
from airflow_jobdeploy.hostside.verdict import Evidence
from airflow_jobdeploy.testing.record import Record
from airflow_jobdeploy.testing.run import Killed, Program, Run, Stopped


class Command(Record):
    """An attempt that can run its steps."""

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
        files = self.files
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

    # -- what a Run asks for --------------------------------------------------------------------------------------

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


def _ignore(code: int) -> None:
    """What a detached process returns reaches nobody."""
