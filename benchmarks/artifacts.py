"""Artifacts down: one large file, many small ones, and the same again; against cat and tar through ssh."""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import jobs
from benchmarks.lab import RAM_POOL, Lab
from benchmarks.measure import interleaved, wall_s
from benchmarks.rows import Measured

_BIG = 512 * 1024 * 1024
_FILES, _SMALL = 5000, 8 * 1024


def down(lab: Lab, rounds: int = 5) -> Iterator[Measured]:
    """Both ends in memory where the machine has room there: the disk is nobody's merit."""
    with jobs.backend(RAM_POOL) as host:
        big = _made(
            lab, host, f'head -c {_BIG // 2} /dev/urandom > "$0/big"; head -c {_BIG // 2} /dev/zero >> "$0/big"'
        )
        many = f'for n in $(seq {_FILES}); do head -c {_SMALL} /dev/urandom > "$0/file$n"; done'
        small = _made(lab, host, many)
    found = interleaved(
        {
            "ours": _ours(lab, big),
            "cat": _shell(lab, big, "cat big", "cat > {dest}/big"),
            "tar": _shell(lab, big, "tar -cf - .", "tar -C {dest} -xf -"),
        },
        rounds,
    )
    best = min(found["cat"], found["tar"])
    yield Measured(row="big_file", ours=_BIG / found["ours"] / 1e6, reference=_BIG / best / 1e6)
    yield Measured(row="unchanged_big", ours=_again(lab, big), reference=best)
    found = interleaved(
        {"ours": _ours(lab, small), "tar": _shell(lab, small, "tar -cf - .", "tar -C {dest} -xf -")}, rounds
    )
    yield Measured(row="small_files", ours=found["ours"], reference=found["tar"])
    yield Measured(row="unchanged_small", ours=_again(lab, small), reference=found["tar"])


def _made(lab: Lab, host: Any, command: str) -> Any:
    lab.say("making artifacts")
    text = f'sh -c {shlex.quote(command)} "$JOBDEPLOY_OUTPUT_DIR"'
    handle = jobs.start(host, text, RAM_POOL)
    state = jobs.finished(host, handle.job_id)
    assert state.status == "SUCCEEDED", state.message
    return handle.with_state(state)


def _ours(lab: Lab, handle: Any) -> Callable[[], float]:
    """A connection of its own each time, as the others have it; each file verified."""

    def run() -> float:
        dest = lab.dest()
        taken = wall_s(lambda: _download(handle, dest))
        assert any(dest.iterdir())
        return taken

    return run


def _download(handle: Any, dest: Path) -> None:
    from airflow_jobdeploy.hooks.jobdeploy import JobDeployHook

    JobDeployHook(RAM_POOL).download(handle.to_dict(), dest)


def _again(lab: Lab, handle: Any) -> float:
    dest = lab.dest()
    _download(handle, dest)
    return interleaved({"again": lambda: wall_s(lambda: _download(handle, dest))}, 5)["again"]


def _shell(lab: Lab, handle: Any, there: str, here: str) -> Callable[[], float]:
    (output,) = (lab.ram / "root").glob(f"hosts/*/jobs/{handle.job_id}/output")
    command = shlex.join([*lab.ssh, f"cd {shlex.quote(str(output))} && {there}"])

    def run() -> float:
        dest = lab.dest()
        begun = time.perf_counter()
        subprocess.run(f"{command} | {here.format(dest=shlex.quote(str(dest)))}", shell=True, check=True)
        taken = time.perf_counter() - begun
        assert sum(1 for _ in dest.iterdir()) in (1, _FILES)
        return taken

    return run
