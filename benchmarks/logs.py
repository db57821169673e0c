"""A million lines of 200 bytes into the task log, through Airflow's own pipeline.

A forked task logs over its JSON channel; its parent runs the supervisor's own reader, which writes the log file.
"""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.lab import CONN, ENGINE, Lab
from benchmarks.rows import Measured

_LINES = 1_000_000
_WIDTH = 199


def flood(lab: Lab, lines: int = _LINES) -> Iterator[Measured]:
    """Lines a second, lines lost, memory of the task: JobRunOperator against SSHOperator."""
    source = lab.ram / "flood.txt"
    with source.open("w") as file:
        file.writelines(f"{_line(number)}\n" for number in range(lines))
    found = {}
    for kind in ("ours", "stock"):
        log = lab.ram / f"{kind}.log"
        found[kind] = lab.apart("benchmarks.logs", kind=kind, source=str(source), log=str(log), lines=lines)
        log.unlink()
    source.unlink()
    ours, stock = found["ours"], found["stock"]
    yield Measured(row="log_rate", ours=lines / ours["wall_s"], reference=lines / stock["wall_s"])
    yield Measured(row="log_lost", ours=ours["lost"], reference=stock["lost"])
    yield Measured(row="log_rss", ours=ours["rss"] / 1e6, reference=stock["rss"] / 1e6)


def _line(number: int) -> str:
    return f"line {number:07d} ".ljust(_WIDTH, "x")


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """The parent: fork the task, read what it logs as a supervisor does, count."""
    from uuid import uuid4

    from airflow.sdk.execution_time import supervisor

    task = _Task(question)
    log = Path(question["log"])
    logger, file = supervisor._configure_logging(str(log), None)  # type: ignore[arg-type]
    begun = time.monotonic()
    process = supervisor.WatchedSubprocess.start(id=uuid4(), target=task.run, logger=logger)
    while process._open_sockets:
        process._service_subprocess(max_wait_time=1.0)
    wall_s = time.monotonic() - begun
    file.close()
    if process._exit_code:
        raise RuntimeError(f"the task ended with {process._exit_code}: {log.read_text()[-2000:]}")
    return {"wall_s": wall_s, "lost": question["lines"] - _whole_lines(log), **json.loads(task.report.read_text())}


class _Task:
    """What the forked process does. All is imported before the fork: only the work is measured."""

    def __init__(self, question: dict[str, Any]) -> None:
        from airflow_jobdeploy.operators.job import JobRunOperator
        from benchmarks import stock

        command = question.get("command") or f"cat {question['source']}"
        self.report = Path(question["log"] + ".report")
        self._folder = Path(question["log"] + ".task")
        makers = {
            "ours": lambda: JobRunOperator(task_id="t", job_spec={"command": command}, worker_pool=CONN),
            "stock": lambda: stock.ssh(command),
            "ours_on_engine": lambda: JobRunOperator(task_id="t", job_spec={"command": command}, worker_pool=ENGINE),
            "stock_on_engine": lambda: stock.docker(question["engine"], command),
        }
        self._operator = makers[question["kind"]]()

    def run(self) -> None:
        from benchmarks.lab import execute, task

        with task(self._folder, "t") as context:
            execute(self._operator, context)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self.report.write_text(json.dumps({"rss": peak, "pid": os.getpid()}))


def _whole_lines(log: Path) -> int:
    """How many of the lines, each with its number and in their order, the log file holds."""
    wanted = 0
    rest = ""
    with log.open() as records:
        for record in records:
            event = json.loads(record).get("event", "")
            for line in (rest + event).split("\n"):
                if line == _line(wanted):
                    wanted += 1
                    rest = ""
                elif line.startswith("line ") and len(line) < _WIDTH:
                    rest = line  # SSHOperator cuts lines where a read ended
    return wanted
