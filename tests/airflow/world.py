"""Airflow's side of a task or trigger, without an Airflow: the supervisor that answers, and the context.

Faked where Airflow's processes talk to each other (SUPERVISOR_COMMS); all of ours above it is real, and so
are the jobs. State is kept in a folder, so that a second process sees what a killed first one left.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

RUN = "manual__2026-01-01T00:00:00+00:00"


class World:
    """One task instance of a deployment, kept in a folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "world.json"
        if not self._path.exists():
            self._save(
                {
                    "variables": {},
                    "state": "running",
                    "ti": self.new_ti(),
                    "max_tries": 1,
                    "clear_number": 0,
                    "store": {},
                    "xcom": {},
                }
            )

    def new_ti(self) -> str:
        return str(uuid.uuid4())

    def _load(self) -> dict[str, Any]:
        return json.loads(self._path.read_text())

    def _save(self, value: dict[str, Any]) -> None:
        beside = self._path.with_suffix(".new")
        beside.write_text(json.dumps(value))
        beside.replace(self._path)

    def __getitem__(self, key: str) -> Any:
        return self._load()[key]

    def change(self, **values: Any) -> None:
        self._save({**self._load(), **values})

    def put(self, section: str, key: str, value: Any) -> None:
        self.change(**{section: {**self[section], key: json.loads(json.dumps(value))}})

    # -- what happens to tasks ---------------------------------------------------------------------------------

    def retry(self) -> None:
        """Another try of the same run: XComs go, the state store stays."""
        self.change(ti=self.new_ti(), state="running", xcom={})

    def clear(self) -> None:
        """A person cleared the task."""
        self.retry()
        self.change(clear_number=self["clear_number"] + 1, max_tries=self["max_tries"] + 1)

    def die(self, where: str) -> None:
        """kill -9 of this process, where a test asked for it (`change(die_at=...)`)."""
        if self._load().get("die_at") == where:
            os.kill(os.getpid(), signal.SIGKILL)

    # -- what a task sees --------------------------------------------------------------------------------------

    def ti(self) -> SimpleNamespace:
        def push(*, key: str, value: Any) -> None:
            self.put("xcom", key, value)
            self.die("push")

        return SimpleNamespace(
            id=self["ti"],
            dag_id="d",
            task_id="t",
            run_id=RUN,
            map_index=-1,
            max_tries=self["max_tries"],
            xcom_push=push,
        )

    def context(self) -> dict[str, Any]:
        world = self

        class Store:
            def get(self, key: str, default: Any = None) -> Any:
                return world["store"].get(key, default)

            def set(self, key: str, value: Any, *, retention: Any = None) -> None:
                world.put("store", key, value)
                world.die("save")

        run = SimpleNamespace(clear_number=self["clear_number"], run_id=RUN)
        return {"ti": self.ti(), "dag_run": run, "params": {}, "task_state_store": Store(), "run_id": RUN}

    @contextmanager
    def supervised(self) -> Iterator[World]:
        """In here Airflow answers, as `SUPERVISOR_COMMS`."""
        from airflow.sdk.execution_time import task_runner

        task_runner.SUPERVISOR_COMMS = Comms(self)  # type: ignore[assignment]
        try:
            yield self
        finally:
            del task_runner.SUPERVISOR_COMMS


class Comms:
    """Answers the questions that a task or a trigger asks."""

    def __init__(self, world: World) -> None:
        self.world = world
        #: Raised instead of an answer: the supervisor is gone.
        self.error: Exception | None = None

    def send(self, message: Any) -> Any:
        from airflow.sdk.execution_time import comms

        if self.error is not None or self.world["state"] == "unreachable":
            raise self.error or EOFError("Request socket closed before length")
        if isinstance(message, comms.GetTaskStates):
            states = {RUN: {"t": self.world["state"]}} if self.world["state"] else {}
            return comms.TaskStatesResult(task_states=states)
        if isinstance(message, comms.GetXCom):
            return comms.XComResult(key=message.key, value=self.world["xcom"].get(message.key))
        if isinstance(message, comms.SetXCom):
            self.world.put("xcom", message.key, message.value)
            return None
        if isinstance(message, comms.PutVariable):
            self.world.put("variables", message.key, message.value)
            return None
        if isinstance(message, comms.GetVariable):
            value = self.world["variables"].get(message.key)
            if value is None:
                return comms.ErrorResponse(error=comms.ErrorType.VARIABLE_NOT_FOUND, detail={})
            return comms.VariableResult(key=message.key, value=value)
        if isinstance(message, comms.GetConnection):
            return comms.ErrorResponse(error=comms.ErrorType.CONNECTION_NOT_FOUND, detail={})
        raise AssertionError(f"unexpected question: {message!r}")

    async def asend(self, message: Any) -> Any:
        return self.send(message)


def run_task(world: World, **arguments: Any) -> Any:
    """Run a JobRunOperator in this process, as the task runner does; SIGTERM calls its on_kill."""
    from airflow_jobdeploy.operators.job import JobRunOperator

    operator = JobRunOperator(task_id="t", **arguments)
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    with world.supervised():
        return call(operator, "execute", world.context())


def call(operator: Any, method: str, *arguments: Any, **named: Any) -> Any:
    """A method of the operator, past Airflow's guard against calling `execute` by hand."""
    function = getattr(type(operator), method)
    return getattr(function, "__wrapped__", function)(operator, *arguments, **named)


if __name__ == "__main__":
    from airflow.sdk.exceptions import TaskDeferred

    from airflow_jobdeploy.errors import JobDeployError

    try:
        result = run_task(World(Path(sys.argv[1])), **json.loads(sys.argv[2]))
        print("RETURNED", json.dumps(result))
    except TaskDeferred as deferred:
        print("DEFERRED", json.dumps(deferred.trigger.serialize()[1]))
    except JobDeployError as error:
        print("RAISED", type(error).__name__, error)
