"""The one place that touches what Airflow does not promise: private imports and awkward calls of 3.3.

Each function says what it relies on, so that a new Airflow is met here and nowhere else.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow.sdk.exceptions import AirflowRuntimeError, AirflowTaskTimeout

#: What a question to Airflow raises when nobody is there to answer: the supervisor is gone, or the API said no.
CANNOT_ASK = (EOFError, OSError, AirflowRuntimeError)


class StateStore:
    """A JSON object kept in the task instance's state store for ever: it survives retries and clears."""

    def __init__(self, context: Mapping[str, Any], key: str) -> None:
        self._store = context["task_state_store"]
        self._key = key
        #: What this process has loaded or saved last. Nobody else writes it while this task instance runs.
        self.last: Mapping[str, Any] | None = None
        self._was_asked = False

    def load(self) -> dict[str, Any] | None:
        """The object, or None when nothing was kept. Airflow is asked once."""
        if not self._was_asked:
            value = self._store.get(self._key)
            self.last = dict(value) if isinstance(value, Mapping) else None
            self._was_asked = True
        return dict(self.last) if self.last is not None else None

    def save(self, value: Mapping[str, Any]) -> None:
        """Keep the object; it replaces the one before."""
        from airflow.sdk import NEVER_EXPIRE  # type: ignore[attr-defined]  # there at run time

        self._store.set(self._key, dict(value), retention=NEVER_EXPIRE)
        self.last, self._was_asked = dict(value), True


def epoch(context: Mapping[str, Any]) -> dict[str, int]:
    """What tells a retry (both numbers as before) from a clear (any of them changed)."""
    return {
        "max_tries": int(context["ti"].max_tries or 0),
        "clear_number": int(getattr(context["dag_run"], "clear_number", 0) or 0),
    }


def team(context: Mapping[str, Any]) -> str:
    """The team that the DAG of a task belongs to, by its bundle; "" where Airflow has no teams ([core] multi_team)."""
    return str(getattr(context["dag_run"], "team_name", None) or "")


def dag_bundle(ti: Any) -> dict[str, str]:
    """The DAG bundle of a task, if it has versions: {"name", "version", "path", "url"}; a git bundle's is a commit."""
    bundle = getattr(ti, "bundle_instance", None)
    version = getattr(bundle, "version", None)
    if bundle is None or not version:
        return {}
    url = str(getattr(bundle, "repo_url", None) or "")
    return {"name": str(bundle.name), "version": str(version), "path": str(bundle.path), "url": url}


def time_left(ti: Any, execution_timeout: timedelta | None) -> timedelta | None:
    """What is left of execution_timeout for a deferral: Airflow counts that anew, from the deferral on.

    The start of a task instance is that of its try; a deferral does not change it.
    """
    started = getattr(ti, "start_date", None)
    if execution_timeout is None or started is None:
        return execution_timeout
    return max(execution_timeout - (datetime.now(timezone.utc) - started), timedelta(seconds=1))


def task_state(ti: Any) -> str | None:
    """The state of a task instance as Airflow sees it now; None: no such task instance, or no state.

    Works in a task and in plain threads of a triggerer. Raises one of CANNOT_ASK when it cannot be asked.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    states = RuntimeTaskInstance.get_task_states(
        dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=ti.map_index
    )
    name = f"{ti.task_id}_{ti.map_index}" if ti.map_index is not None and ti.map_index >= 0 else ti.task_id
    state = states.get(ti.run_id, {}).get(name)
    return str(getattr(state, "value", state)) if state is not None else None


def states_of_runs(dag_id: str, run_ids: list[str]) -> dict[str, dict[str, Any]]:
    """run id -> task (`name`, `name_3` when mapped) -> state, for all tasks of some runs; unknown runs are missing.

    For triggerers, from any thread. Raises one of CANNOT_ASK when Airflow cannot be asked.
    """
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    return dict(RuntimeTaskInstance.get_task_states(dag_id=dag_id, run_ids=run_ids))


def states_in_database(dag_id: str, run_ids: list[str]) -> dict[str, dict[str, Any]]:
    """The same for the command line, which may use the database (tasks and triggerers may not)."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    names: dict[str, dict[str, Any]] = {}
    with create_session() as session:
        rows = session.execute(
            select(TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state).where(
                TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids)
            )
        )
        for run_id, task_id, map_index, state in rows:
            names.setdefault(run_id, {})[f"{task_id}_{map_index}" if map_index >= 0 else task_id] = state
    return names


async def task_state_async(ti: Any) -> str | None:
    """The same, from a trigger, without holding its event loop."""
    from asgiref.sync import sync_to_async

    return await sync_to_async(task_state)(ti)


_CONTEXT = "_AIRFLOW_PROCESS_CONTEXT"
_in_command = False
_lookups = 0
_lookups_lock = threading.Lock()


def ask_the_database() -> None:
    """From now on `lookup` finds connections and Variables of the metadata database, too: this process is a command."""
    global _in_command
    _in_command = True


def is_a_program() -> bool:
    """Is this process neither task, trigger, command, nor part of Airflow? It sees no connections of the database then.

    As airflow.sdk.execution_time.supervisor.ensure_secrets_backend_loaded finds out.
    """
    from airflow.sdk.execution_time import task_runner

    in_task = getattr(task_runner, "SUPERVISOR_COMMS", None) is not None
    return not (in_task or _in_command or _CONTEXT in os.environ)


@contextmanager
def lookup() -> Iterator[None]:
    """Around each look-up of a connection or Variable. In a command Airflow asks its database only when told so.

    Told by an environment variable, as Airflow's own commands do; ours is gone after the look-up, since jobs of
    pool `local` inherit the environment.
    """
    global _lookups
    if not _in_command or (_CONTEXT in os.environ and not _lookups):
        yield
        return
    with _lookups_lock:
        _lookups += 1
        os.environ[_CONTEXT] = "server"
    try:
        yield
    finally:
        with _lookups_lock:
            _lookups -= 1
            if not _lookups:
                os.environ.pop(_CONTEXT, None)


def keep_variable(key: str, value: str, description: str) -> None:
    """Set a Variable, from a task, a trigger or a command. One of CANNOT_ASK when that cannot be done."""
    if not _in_command:
        from airflow.sdk import Variable

        Variable.set(key, value, description=description)
        return
    from airflow.models.variable import Variable as StoredVariable
    from airflow.utils.session import create_session
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_session() as session:
            StoredVariable.set(key, value, description=description, session=session)
    except SQLAlchemyError as error:
        raise OSError(str(error).splitlines()[0]) from error


def connections_of_type(*conn_types: str) -> dict[str, str]:
    """Connection id -> type, of those in the metadata database. OSError when that cannot be read."""
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    wanted = select(Connection.conn_id, Connection.conn_type).where(Connection.conn_type.in_(conn_types))
    try:
        with create_session() as session:
            return {str(conn_id): str(conn_type) for conn_id, conn_type in session.execute(wanted)}
    except SQLAlchemyError as error:
        raise OSError(str(error).splitlines()[0]) from error


def airflow_pool_slots(name: str) -> int | None:
    """The slots of a pool of Airflow's own; None: there is none. For commands. OSError when that cannot be read."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_session() as session:
            return session.scalar(select(Pool.slots).where(Pool.pool == name))
    except SQLAlchemyError as error:
        raise OSError(str(error).splitlines()[0]) from error


def keep_airflow_pool(name: str, slots: int, description: str) -> None:
    """Make, or change, a pool of Airflow's own in which deferred tasks count, too. For commands. OSError as above."""
    from airflow.models.pool import Pool
    from sqlalchemy.exc import SQLAlchemyError

    try:
        Pool.create_or_update_pool(name=name, slots=slots, description=description, include_deferred=True)
    except SQLAlchemyError as error:
        raise OSError(str(error).splitlines()[0]) from error


def _xcom_place(ti: Any, key: str) -> dict[str, Any]:
    # The triggerer has no task state store: an XCom of the own task instance is what a trigger can keep.
    return {
        "key": key,
        "dag_id": ti.dag_id,
        "task_id": ti.task_id,
        "run_id": ti.run_id,
        "map_index": ti.map_index if ti.map_index is not None else -1,
    }


async def read_xcom(ti: Any, key: str) -> Any:
    """An XCom of the trigger's own task instance; None when there is none."""
    from airflow.sdk.execution_time.xcom import XCom

    return await XCom.aget_one(**_xcom_place(ti, key))


async def write_xcom(ti: Any, key: str, value: Any) -> None:
    """Write an XCom of the trigger's own task instance. About 10 ms for the whole triggerer: seldom, please."""
    from airflow.sdk.execution_time.xcom import XCom

    await XCom.aset(value=value, **_xcom_place(ti, key))


def is_dag_test() -> bool:
    """Does this task run inside `dag.test()`, where triggers run in the same process?"""
    from airflow.sdk.execution_time import task_runner

    comms = getattr(task_runner, "SUPERVISOR_COMMS", None)
    return type(comms).__name__ == "InProcessSupervisorComms"


def is_local_executor(task: Any) -> bool:
    """Does the LocalExecutor run this task, so that a triggerer of the same machine is likely?"""
    from airflow.sdk.configuration import conf

    configured = [name.strip() for name in conf.get("core", "executor", fallback="").split(",") if name.strip()]
    wanted = getattr(task, "executor", None)
    chosen = configured[:1] if wanted is None else [e for e in configured if wanted in _executor_names(e)] or [wanted]
    return any("LocalExecutor" in _executor_names(entry) for entry in chosen)


def _executor_names(entry: str) -> set[str]:
    """What an entry of [core] executor may be called: `Class`, `module.Class` or `alias:module.Class`."""
    alias, _, path = entry.rpartition(":")
    return {alias, path, path.rpartition(".")[2]} - {""}


def in_task_timeout() -> bool:
    """Inside `on_kill`: is it called because execution_timeout has passed?"""
    return isinstance(sys.exc_info()[1], AirflowTaskTimeout)


def mask(value: str) -> None:
    """Show `***` instead of this value in the logs of this process."""
    from airflow.sdk.log import mask_secret

    mask_secret(value)


def on_loop(loop: Any, call: Callable[[Any], None]) -> Callable[[Any], None]:
    """`call` made callable from other threads: it runs in `loop`, or not at all once that is closed."""

    def forward(value: Any) -> None:
        try:
            loop.call_soon_threadsafe(call, value)
        except RuntimeError:
            # The loop is closed: whoever waited there is gone (dag.test, a triggerer that ends).
            return

    return forward
