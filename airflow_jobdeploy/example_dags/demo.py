"""The main job from end to end, without a server: python -m airflow_jobdeploy.example_dags.demo

Runs the DAG `train_on_demand` by `dag.test()` in an Airflow of its own (SQLite, in ./.demo or --home), on the pool
`local`: a template comes up and trains a small real model on real data, the artifacts are downloaded, and this says
where they are and how good the model is. Nothing outside that folder and the pool's root is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.sdk import DAG

HERE = Path(__file__).resolve().parent
DAG_ID = "train_on_demand"
#: Of all logs only those of our operators, as bare lines: what Airflow says of itself would bury the job's own words.
QUIET = {
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__LOGGING__NAMESPACE_LEVELS": (
        "airflow.task.operators.airflow_jobdeploy=INFO"
        # No Fernet key: nothing secret is kept here. Deprecations: Airflow's own.
        " airflow.models.crypto=ERROR airflow.sdk.crypto=ERROR py.warnings=ERROR"
    ),
    "AIRFLOW__LOGGING__LOG_FORMAT": "%(message)s",
}


def say(text: str) -> None:
    print(f"==> {text}", flush=True)


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_jobdeploy.example_dags.demo", description="Train a small real model through a DAG."
    )
    parser.add_argument("--home", type=Path, default=Path(".demo"), help="where Airflow and the model go (.demo)")
    parser.add_argument("--epochs", type=int, default=40, help="a parameter of the template (40)")
    parser.add_argument("--worker-pool", default="local", help="local, or the id of an ssh connection (local)")
    return parser.parse_args(argv)


def use_private_airflow(home: Path) -> None:
    """Point Airflow, before it is imported, at a folder of its own: the user's Airflow is not to be touched."""
    home.mkdir(parents=True, exist_ok=True)
    os.environ.update(
        {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW_CONFIG": str(home / "airflow.cfg"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(HERE),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}",
            **{key: os.environ.get(key, value) for key, value in QUIET.items()},
            # The demo's script asks for python3: the one that runs this is known to be there.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
        }
    )


@contextlib.contextmanager
def output_in(path: Path) -> Iterator[None]:
    """Send what this process and its libraries print to a file: descriptors, since loggers hold on to the streams."""
    kept = {stream.fileno(): os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)}
    with path.open("ab") as file:
        for number in kept:
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        for number, copy in kept.items():
            os.dup2(copy, number)
            os.close(copy)


def prepare_database() -> None:
    from airflow.utils.db import initdb

    initdb()


def load_dag() -> DAG:
    """The shipped DAG. Importing it runs its file, as Airflow's own processor would."""
    return importlib.import_module(f"airflow_jobdeploy.example_dags.{DAG_ID}").dag


def run(dag: DAG, conf: dict[str, Any]) -> str:
    """Run the DAG here and now; the run's id."""
    dag_run = dag.test(run_conf=conf)
    if dag_run.state != "success":
        failed = [ti.task_id for ti in dag_run.get_task_instances() if ti.state in {"failed", "upstream_failed"}]
        raise SystemExit(f"The demo failed in {', '.join(failed) or 'no task'}: the reason is in the log above.")
    return str(dag_run.run_id)


def tell(folder: Path, seconds: float) -> None:
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    print()
    say(f"done in {seconds:.0f} s")
    print(f"\nThe model tells {metrics['accuracy']:.1%} of {metrics['test_rows']} names it never saw by kind.")
    print(f"Always guessing the most frequent kind would be right for {metrics['baseline']:.1%}.\n")
    print(f"Artifacts in {folder}:")
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(f"  {path.relative_to(folder)}  ({path.stat().st_size:,} bytes)")


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    home = options.home.resolve()
    began = time.monotonic()
    say(f"a private Airflow in {home} (SQLite, no server)")
    use_private_airflow(home)
    with output_in(home / "setup.log"):
        prepare_database()
    say(f"running the DAG {DAG_ID} on the worker pool {options.worker_pool}")
    dag = load_dag()
    run_id = run(dag, {"epochs": options.epochs, "worker_pool": options.worker_pool})
    tell(home / "models" / DAG_ID / run_id, time.monotonic() - began)


if __name__ == "__main__":
    main()
