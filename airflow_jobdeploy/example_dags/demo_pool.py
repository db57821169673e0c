"""A pool of GPU hosts and its line, on this machine alone: python -m airflow_jobdeploy.example_dags.demo_pool

Four "hosts" are four network namespaces of this machine, with a folder each and two GPUs that are made up: the leases,
the line and the placement are the real ones. A sweep of eight real trainings competes for them; each step is shown.
Nothing is kept: the folder is removed, the namespaces end with this process. Linux with util-linux; no root needed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.channel import LocalChannel, LocalClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import JobDeployError, WorkerError

PROJECT = Path(__file__).resolve().parent / "examples" / "characters"
HOSTS = ("host-a", "host-b", "host-c", "host-d")
GPUS = 2
#: (learning rate, GPUs): more than there are GPUs at once.
SWEEP = ((0.03, 1), (0.05, 2), (0.1, 1), (0.15, 2), (0.2, 1), (0.3, 2), (0.5, 1), (1.0, 2))
_LOOK_S = 0.15

_NVIDIA_SMI = """#!/bin/sh
case "$1" in
  --query-gpu=*) cat "${0%/*}/gpus" ;;
esac
"""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m airflow_jobdeploy.example_dags.demo_pool", description="A sweep on a pool of made-up GPUs."
    )
    parser.add_argument("--epochs", type=int, default=20, help="of each training (20)")
    return parser.parse_args(argv)


# -- hosts ------------------------------------------------------------------------------------------------------------


class Inside(LocalClient):
    """Commands of this machine inside the namespaces of a process."""

    def __init__(self, name: str, pid: int) -> None:
        super().__init__(name)
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        self._enter = ["nsenter", "--target", str(pid), *user, "--net", "--"]

    def open(self, argv: Sequence[str]) -> LocalChannel:
        return super().open([*self._enter, *argv])


@dataclass(frozen=True)
class Host:
    """`pid` is in its namespaces, and ends with this process."""

    name: str
    folder: Path
    pid: int

    def backend(self) -> HostedBackend:
        path = os.pathsep.join([str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
        return HostedBackend(
            worker=self.name,
            kind="ssh",  # other machines than that of the task, as far as anybody can tell
            connect=lambda: Inside(self.name, self.pid),
            root=str(self.folder / "root"),
            path=path,
        )


@contextmanager
def host(name: str, folder: Path) -> Iterator[Host]:
    """A network namespace (leases are per namespace), a folder, an nvidia-smi."""
    (folder / "bin").mkdir(parents=True)
    uuids = [f"GPU-{name}-{number}" for number in range(GPUS)]
    rows = [f"{number}, {uuid}, 81920, 570.00, Disabled, Made-up A100" for number, uuid in enumerate(uuids)]
    (folder / "bin" / "gpus").write_text("".join(row + "\n" for row in rows), encoding="ascii")
    program = folder / "bin" / "nvidia-smi"
    program.write_text(_NVIDIA_SMI, encoding="ascii")
    program.chmod(0o755)
    user = [] if os.geteuid() == 0 else ["--user", "--map-current-user"]
    holder = ["unshare", *user, "--net", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        if process.stdout.readline() != b"\n":
            raise SystemExit("This machine lets this account make no namespaces (see unshare(1)): run it as root.")
        yield Host(name=name, folder=folder, pid=process.pid)
        process.communicate()


# -- jobs -------------------------------------------------------------------------------------------------------------


@dataclass
class Trial(threading.Thread):
    """One training of the sweep, submitted and followed as a task does."""

    letter: str
    rate: float
    gpus: int
    workers: service.Workers
    work: service.Work
    said: list[str] = field(default_factory=list)
    handle: Any = None
    state: Any = None
    error: str = ""

    def __post_init__(self) -> None:
        super().__init__(daemon=True)

    def __hash__(self) -> int:
        return hash(self.letter)

    def run(self) -> None:
        try:
            with self.workers as workers:
                submitted = service.submit(
                    self.work, workers, intents=Notes(), epoch={}, say=self.said.append, on_handle=self._claimed
                )
                followed = service.follow(
                    workers,
                    submitted.handle,
                    say_log=lambda text: None,
                    say=lambda text: None,
                    interrupted=lambda: False,
                )
                self.state = followed.state
        except JobDeployError as error:
            self.error = str(error)

    def _claimed(self, handle: Any) -> None:
        self.handle = handle

    @property
    def accuracy(self) -> float:
        result = self.state.result if self.state is not None else None
        return float(result["accuracy"]) if result else 0.0


class Notes:
    """Where a submitter keeps its intent; a task has Airflow's store."""

    def __init__(self) -> None:
        self._value: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return self._value

    def save(self, value: Mapping[str, Any]) -> None:
        self._value = dict(value)


# -- what is shown ----------------------------------------------------------------------------------------------------


class Board:
    """Which trial holds which GPU, and who is in line; a line whenever that changes."""

    def __init__(self, hosts: Sequence[Host], trials: Sequence[Trial]) -> None:
        self._backends = [(host.name, host.backend()) for host in hosts]
        self._trials = trials
        self._began = time.monotonic()
        self._shown = ""
        #: The most that were in line at once.
        self.longest = 0

    def look(self) -> None:
        rooms = [self._row(name, backend) for name, backend in self._backends]
        waiting = [trial for trial in self._trials if trial.handle is None and not trial.error and trial.is_alive()]
        self.longest = max(self.longest, len(waiting))
        line = " ".join(f"{trial.letter}({trial.gpus})" for trial in waiting) or "nobody"
        text = f"{'  '.join(rooms)}   in line: {line}"
        if text != self._shown:
            self._shown = text
            print(f"{time.monotonic() - self._began:6.1f} s  {text}", flush=True)

    def _row(self, name: str, backend: HostedBackend) -> str:
        letters = {trial.handle.job_id: trial.letter for trial in self._trials if trial.handle is not None}
        holders = {gpu: lease["job"] for lease in backend.room().leases for gpu in lease["gpus"]}
        marks = [f"GPU-{name}-{number}" for number in range(GPUS)]
        shown = "".join(letters.get(holders[mark], "?") if mark in holders else "." for mark in marks)
        return f"{name} [{shown}]"

    def close(self) -> None:
        for _, backend in self._backends:
            backend.close()


def tell(trials: Sequence[Trial]) -> None:
    print(f"\n{'':4}{'learning rate':>14}{'GPUs':>6}  {'ran on':<8}{'accuracy':>10}")
    for trial in sorted(trials, key=lambda trial: -trial.accuracy):
        where = trial.handle.worker if trial.handle is not None else ""
        print(f"  {trial.letter} {trial.rate:>14g}{trial.gpus:>6}  {where:<8}{trial.accuracy:>10.1%}  {trial.error}")


def main(argv: Sequence[str] | None = None) -> list[Trial]:
    options = parse(argv)
    with tempfile.TemporaryDirectory(prefix="jobdeploy-demo-") as folder, ExitStack() as stack:
        hosts = [stack.enter_context(host(name, Path(folder) / name)) for name in HOSTS]
        print(
            f"==> {len(hosts)} hosts with {GPUS} GPUs each, and a sweep of {len(SWEEP)} trainings: A(1) needs one GPU"
        )
        print("    [AB]: who holds them; '.': free; '?': granted to a training that is on its way")
        pool = WorkerPool(name="lab", kind="ssh", workers=tuple(Worker(host=each.name) for each in hosts))
        by_name = {each.name: each for each in hosts}
        trials = [
            Trial(
                letter=chr(ord("A") + number),
                rate=rate,
                gpus=gpus,
                workers=service.Workers(pool, lambda worker: by_name[worker.name].backend()),
                work=_work(pool, rate, gpus, options.epochs),
            )
            for number, (rate, gpus) in enumerate(SWEEP)
        ]
        board = Board(hosts, trials)
        try:
            _compete(trials, board)
        except BaseException:
            _stop_all(hosts)
            raise
        finally:
            board.close()
    tell(trials)
    failed = [trial for trial in trials if trial.state is None or trial.state.status is not JobStatus.SUCCEEDED]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(trials)} trials did not succeed.")
    print(f"\n==> all {len(trials)} trained; up to {board.longest} of them were in line at once")
    return trials


def _work(pool: WorkerPool, rate: float, gpus: int, epochs: int) -> service.Work:
    spec = {
        "job_name": f"rate {rate:g}",
        "command": f"exec python3 main.py --epochs {epochs} --learning-rate {rate}",
        "gpu_types": [{"type": "any", "count": gpus}],
    }
    return service.prepare_run(load_spec(spec), pool=pool, project_dir=PROJECT, resolve_secret=str)


def _compete(trials: Sequence[Trial], board: Board) -> None:
    for trial in trials:
        trial.start()
    while any(trial.is_alive() for trial in trials):
        board.look()
        time.sleep(_LOOK_S)  # it is a picture that is taken now and then
    board.look()


def _stop_all(hosts: Sequence[Host]) -> None:
    for each in hosts:
        backend = each.backend()
        try:
            for job in backend.jobs(live_only=True):
                backend.stop(job["plan"]["job_id"], reason="the demo was ended", grace_s=0)
        except WorkerError as error:
            print(f"{each.name}: {error}", file=sys.stderr)
        finally:
            backend.close()


if __name__ == "__main__":
    main()
