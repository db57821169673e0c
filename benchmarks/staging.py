"""Code, data and environments up: a repository of 5,000 files, a dataset of 512 MiB; the same again, and changed."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.core.plan import Environment, Limits, Plan, Step, new_uid
from benchmarks import jobs
from benchmarks.lab import CONN, RAM_POOL, Lab
from benchmarks.measure import interleaved, wall_s
from benchmarks.rows import Measured

_FILES, _SMALL = 5000, 8 * 1024
_BIG = 512 * 1024 * 1024
#: linux/tcp.h, struct tcp_info: tcpi_bytes_acked, tcpi_bytes_received.
_ACKED, _RECEIVED = slice(120, 128), slice(128, 136)


def code(lab: Lab, rounds: int = 5) -> Iterator[Measured]:
    """Both ends in memory where the machine has room there, as for artifacts."""
    repo = _repository(lab)
    with _caches(lab):
        found = interleaved({"ours": lambda: _first(lab, lambda: _bundle(repo)), "git": _git(lab, repo)}, rounds)
        yield Measured(row="bundle_first", ours=found["ours"], reference=found["git"])
        again = interleaved({"again": lambda: wall_s(lambda: _sent(lambda: _bundle(repo)))}, rounds)["again"]
        yield Measured(row="bundle_again", ours=again, reference=found["git"])
        yield Measured(row="bundle_again_bytes", ours=_sent(lambda: _bundle(repo))["moved"] / 1000)
        (repo / "src7" / "file7").write_bytes(os.urandom(_SMALL))
        yield Measured(row="bundle_changed", ours=_sent(lambda: _bundle(repo))["files"])


def data(lab: Lab, rounds: int = 5) -> Iterator[Measured]:
    """A dataset of one large file, which the first time nobody has read."""
    from airflow_jobdeploy.packing import dataset

    folder = lab.ram / "dataset"
    folder.mkdir()
    with (folder / "big").open("wb") as file:
        for _ in range(_BIG // 2**24):
            file.write(os.urandom(2**24))
    with _caches(lab):
        cases = {
            "first": lambda: _first(lab, lambda: dataset.here(folder)),
            "another": lambda: _to_another(lab, lambda: dataset.here(folder)),
            "cat": _cat(lab, folder / "big"),
        }
        found = interleaved(cases, rounds)
    shutil.rmtree(folder)
    rates = {name: _BIG / taken / 1e6 for name, taken in found.items()}
    yield Measured(row="dataset_first", ours=rates["first"], reference=rates["cat"])
    yield Measured(row="dataset_up", ours=rates["another"], reference=rates["cat"])


def environments(lab: Lab, rounds: int = 7) -> Iterator[Measured]:
    """A job of `true` in an environment that is there, over the same without one. Nothing is installed: no network."""
    with jobs.backend(RAM_POOL) as host:
        _run(host, Environment(requirements=("# nothing",)))
        cases = {"with": Environment(requirements=("# nothing",)), "without": None}
        found = interleaved({name: _timed(host, wanted) for name, wanted in cases.items()}, rounds)
    yield Measured(row="environment", ours=found["with"] - found["without"])


# -- ours -----------------------------------------------------------------------------------------------------------


def _sent(made: Callable[[], TreeSource]) -> dict[str, float]:
    """Bring a tree to the worker over a connection of its own, as a submission does; files sent, bytes moved."""
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook
    from airflow_jobdeploy.service.sending import Sending

    with JobDeployHook(RAM_POOL).get_conn() as workers:
        workers.backend(CONN).facts()
        before = _moved(workers.backend(CONN))
        report = Sending(workers, CONN, say=_nothing).bring(made(), "tree")
        return {"files": report.sent_files, "moved": _moved(workers.backend(CONN)) - before}


def _bundle(repo: Path) -> TreeSource:
    from airflow_jobdeploy.packing.bundle import Code

    return Code(project_dir=repo).bundle()


def _nothing(line: str) -> None:
    """What would be said in a task's log."""


def _moved(backend: Any) -> int:
    """Bytes of the connection so far, both ways."""
    sock = backend._connection._client._transport.sock
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    return sum(int.from_bytes(info[part], "little") for part in (_ACKED, _RECEIVED))


def _first(lab: Lab, made: Callable[[], TreeSource]) -> float:
    """From nothing: neither the worker nor this machine has seen it."""
    shutil.rmtree(lab.ram / "cache", ignore_errors=True)
    return _to_another(lab, made)


def _to_another(lab: Lab, made: Callable[[], TreeSource]) -> float:
    """To a worker that has not seen it."""
    shutil.rmtree(lab.ram / "root" / "store", ignore_errors=True)
    return wall_s(lambda: _sent(made))


@contextmanager
def _caches(lab: Lab) -> Iterator[None]:
    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(lab.ram / "cache")
    try:
        yield
    finally:
        os.environ.pop("XDG_CACHE_HOME")
        if before is not None:
            os.environ["XDG_CACHE_HOME"] = before


def _timed(host: Any, wanted: Environment | None) -> Callable[[], float]:
    return lambda: wall_s(lambda: _run(host, wanted))


def _run(host: Any, wanted: Environment | None) -> None:
    plan = Plan(
        uid=new_uid(),
        steps=(Step(name="job", kind="shell", content="true"),),
        environment=wanted,
        worker_pool=RAM_POOL,
        worker=CONN,
        limits=Limits(grace_s=1.0),
    )
    host.claim(plan)
    host.start(plan.job_id)
    state = jobs.finished(host, plan.job_id)
    assert state.status == "SUCCEEDED", state.message


# -- the others -----------------------------------------------------------------------------------------------------


def _repository(lab: Lab) -> Path:
    lab.say("making a repository")
    repo = lab.ram / "repo"
    for number in range(_FILES):
        folder = repo / f"src{number % 50}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"file{number}").write_bytes(os.urandom(_SMALL))
    identity = ["-c", "user.name=bench", "-c", "user.email=bench@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-q", "-m", "all of it"]):
        subprocess.run(["git", "-C", str(repo), *command], check=True)
    return repo


def _git(lab: Lab, repo: Path) -> Callable[[], float]:
    dest = lab.ram / "unpacked"
    there = f"mkdir {shlex.quote(str(dest))} && tar -x -C {shlex.quote(str(dest))} -f -"
    return _piped(lab, f"git -C {shlex.quote(str(repo))} archive HEAD", there, dest)


def _cat(lab: Lab, file: Path) -> Callable[[], float]:
    dest = lab.ram / "unpacked"
    there = f"mkdir {shlex.quote(str(dest))} && cat > {shlex.quote(str(dest))}/big"
    return _piped(lab, f"cat {shlex.quote(str(file))}", there, dest)


def _piped(lab: Lab, here: str, there: str, dest: Path) -> Callable[[], float]:
    ssh = shlex.join([*lab.ssh, there])

    def run() -> float:
        shutil.rmtree(dest, ignore_errors=True)
        taken = wall_s(lambda: subprocess.run(f"{here} | {ssh}", shell=True, check=True))
        assert any(dest.iterdir())
        shutil.rmtree(dest)
        return taken

    return run
