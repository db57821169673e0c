"""What a DAG file that uses our operators costs the process that parses it, over airflow.sdk."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

from benchmarks.lab import CONN, ROOT, Lab
from benchmarks.measure import interleaved
from benchmarks.rows import Measured

_OURS = ("job", "template", "artifact")
_TASKS = 100

_IMPORT_OURS = (
    "\n".join(f"import airflow_jobdeploy.operators.{name}" for name in _OURS) + "\nimport airflow_jobdeploy.sensors.job"
)
_IMPORT_STOCK = "import airflow.providers.ssh.operators.ssh"

_DAG = """
from airflow.sdk import DAG
from {module} import {name}

with DAG("d", schedule=None) as dag:
    for number in range({count}):
        {name}(task_id=f"t{{number}}", {arguments})
"""

#: What stands in a process that parses DAG files before it reads the first one.
_TIMED = """
import json, sys, time
import airflow.sdk
from airflow.sdk import DAG, BaseOperator
source = sys.argv[1]
begun = time.perf_counter()
exec(compile(source, "dag.py", "exec"), {"__name__": "dag"})
print(json.dumps({"ms": (time.perf_counter() - begun) * 1000, "modules": sorted(sys.modules)}))
"""


def costs(lab: Lab, rounds: int = 5) -> Iterator[Measured]:
    """Fresh interpreters, warm page cache."""
    ours = _dag_file(
        "airflow_jobdeploy.operators.job", "JobRunOperator", f'job_spec={{"command": "true"}}, worker_pool="{CONN}"'
    )
    stock = _dag_file("airflow.providers.ssh.operators.ssh", "SSHOperator", f'command="true", ssh_conn_id="{CONN}"')
    sources = {"import": _IMPORT_OURS, "import_stock": _IMPORT_STOCK, "parse": ours, "parse_stock": stock}
    lab.say(f"{len(sources) * rounds} fresh interpreters")
    _no_heavy_modules(lab)
    found = interleaved({name: partial(_ms, source) for name, source in sources.items()}, rounds)
    yield Measured(row="import", ours=found["import"], reference=found["import_stock"])
    yield Measured(row="parse", ours=found["parse"], reference=found["parse_stock"])


def _dag_file(module: str, name: str, arguments: str) -> str:
    return _DAG.format(module=module, name=name, arguments=arguments, count=_TASKS)


def _ms(source: str) -> float:
    return float(_run(source)["ms"])


def _run(source: str) -> dict[str, Any]:
    command = [sys.executable, "-c", _TIMED, source]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _no_heavy_modules(lab: Lab) -> None:
    heavy = {"paramiko", "asyncssh", "docker"} & set(_run(_IMPORT_OURS)["modules"])
    if heavy:
        lab.say(f"our operator modules import {', '.join(sorted(heavy))}")
