"""An Airflow of the tests' own: its home, its database and a HOME for what jobs leave, all in temporary folders.

The home must be set before Airflow is imported for the first time in the process.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.world import World

_HOME = Path(tempfile.mkdtemp(prefix="jobdeploy-airflow-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

SETTINGS = {
    "AIRFLOW_HOME": str(_HOME),
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME}/airflow.db",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    # Every dag.test() parses the dags folder again: keep it empty.
    "AIRFLOW__CORE__DAGS_FOLDER": str(_HOME / "dags"),
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    "AIRFLOW__JOBDEPLOY__DEPLOYMENT": "tests",
    "AIRFLOW__JOBDEPLOY__DEFER_AFTER": "0.2",
    "AIRFLOW__JOBDEPLOY__POLL_INTERVAL": "0.1",
}

if "airflow" not in sys.modules:
    (_HOME / "dags").mkdir()
    os.environ.update(SETTINGS)

# One for all modules: a fixture that each of them imports is another one for each.
from tests.airflow.far import far as far  # noqa: E402
from tests.airflow.standalone import airflow as airflow  # noqa: E402


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """The metadata database, made once a process (about 5 s)."""
    import airflow.settings
    from airflow.utils.db import initdb

    assert str(_HOME) in str(airflow.settings.SQL_ALCHEMY_CONN), "Airflow was imported before tests/airflow/conftest.py"
    initdb()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A HOME of the test's own: pool `local` keeps its jobs below it."""
    path = tmp_path / "home of ; 'nobody'"
    path.mkdir()
    monkeypatch.setenv("HOME", str(path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield path
    end_jobs(path / ".jobdeploy")


@pytest.fixture
def world(tmp_path: Path, home: Path) -> Iterator[World]:
    """Airflow's side of one task instance; what it leaves running on this machine is stopped."""
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    with World(tmp_path).supervised() as world:
        yield world
    hook = JobDeployHook("local")
    for row in hook.list(live_only=True):
        hook.stop(row["plan"]["job_id"])


def end_jobs(root: Path) -> None:
    """Kill the supervisors that a failed test left, by their pids."""
    import contextlib
    import json
    import signal

    for state in root.glob("hosts/*/jobs/*/state.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads(state.read_text())
            if not (state.parent / "exit.json").exists():
                os.kill(int(record["pid"]), signal.SIGTERM)


class Run:
    """A finished `dag.test()`."""

    def __init__(self, dag_run: Any, text: str) -> None:
        self.dag_run = dag_run
        self.state = str(dag_run.state)
        #: What was logged and printed.
        self.text = text

    def task(self, task_id: str) -> Any:
        return self.dag_run.get_task_instance(task_id)

    def states(self) -> dict[str, str]:
        return {ti.task_id: str(ti.state) for ti in self.dag_run.get_task_instances()}

    def xcom(self, task_id: str, key: str = "return_value") -> Any:
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            row = session.scalars(
                XComModel.get_many(
                    run_id=self.dag_run.run_id, dag_ids=self.dag_run.dag_id, task_ids=task_id, key=key
                ).with_only_columns(XComModel.value)
            ).first()
        import json

        return json.loads(row) if isinstance(row, str) else row


@pytest.fixture
def run_dag(
    airflow_db: None, home: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> Callable[..., Run]:
    """Serialize a DAG and run it by `dag.test()`: triggers run in this process."""

    def run(dag: Any, **given: Any) -> Run:
        sync_dag(dag)
        capfd.readouterr()
        caplog.clear()
        dag_run = dag.test(**given)
        out = capfd.readouterr()
        print(out.out, out.err)
        return Run(dag_run, out.out + out.err + caplog.text)

    return run


class Door(logging.Handler):
    """A file that is there once `dag.test()` runs a trigger: until then a job can wait for it, however long that takes.

    `waits`: sh text that does so.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.waits = f"until [ -e '{path}' ]; do sleep 0.05; done"

    def emit(self, record: logging.LogRecord) -> None:
        if "running trigger in line" in record.getMessage():
            self.path.touch()


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Door]:
    """Opened by the first trigger of `run_dag`, or by `path.touch()`."""
    made, log = Door(tmp_path / "door"), logging.getLogger("airflow.sdk.definitions.dag")
    log.addHandler(made)
    yield made
    log.removeHandler(made)


def sync_dag(dag: Any, bundle_name: str = "testing") -> None:
    """What the DAG processor does: `dag.test()` refuses DAGs that are not in the database."""
    from airflow.models.dagbundle import DagBundleModel
    from airflow.models.serialized_dag import SerializedDagModel
    from airflow.serialization.definitions.dag import SerializedDAG
    from airflow.serialization.serialized_objects import LazyDeserializedDAG
    from airflow.utils.session import create_session

    with create_session() as session:
        session.merge(DagBundleModel(name=bundle_name))
    with create_session() as session:
        lazy = LazyDeserializedDAG.from_dag(dag)
        SerializedDAG.bulk_write_to_db(bundle_name, None, [lazy], session=session)
        session.flush()
        SerializedDagModel.write_dag(lazy, bundle_name=bundle_name, session=session)
