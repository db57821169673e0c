"""`logs` and `download`: bytes of jobs."""

from __future__ import annotations

import sys
from argparse import Namespace

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.commands.attending import Bell, detached, report, watch
from airflow_jobdeploy.commands.frame import command, exit_code
from airflow_jobdeploy.commands.lookup import locate, open_pool
from airflow_jobdeploy.commands.screen import Progress, complain, print_data, say
from airflow_jobdeploy.commands.sources import named_job, named_pool
from airflow_jobdeploy.core.status import JobState, size
from airflow_jobdeploy.hooks.destinations import below, target
from airflow_jobdeploy.service import Wanted, current, fetch, status

#: One request's worth of log, in bytes.
_CHUNK = 1 << 20
#: The step in which the last lines are looked for from the end.
_TAIL_STEP = 64 * 1024
#: A person who waits at a terminal knows sooner whether a silent worker is worth waiting for.
_PATIENCE_S = 120.0


@command
def logs(args: Namespace) -> int:
    """Show a job's log."""
    with open_pool(args.worker_pool or "local") as workers:
        found = locate(workers, args.id)
        handle = found.handle
        backend = workers.backend(handle.worker)
        state = status(workers, handle)
        start = 0 if args.tail is None else _tail_offset(backend, state, args.tail)
        if not args.follow:
            _copy(backend, handle.job_id, start)
            return 0
        with Bell(workers).armed() as bell:
            followed = watch(workers, handle, bell, say_log=print, offset=start)
    if not followed.over:
        return detached(handle, found.orphan_after_s)
    report(followed.state)
    return exit_code(followed.state)


def _copy(backend: Backend, job_id: str, offset: int) -> None:
    """The log from `offset` on, byte for byte."""
    sys.stdout.flush()
    while True:
        chunk = backend.read_log(job_id, offset, _CHUNK)
        if chunk.dropped_bytes:
            complain(f"{chunk.dropped_bytes} bytes were dropped at offset {offset} (log_limit)", "warning")
        if not chunk.data:
            return
        sys.stdout.buffer.write(chunk.data)
        sys.stdout.buffer.flush()
        offset = chunk.next_offset


def _tail_offset(backend: Backend, state: JobState, lines: int) -> int:
    """Where the last `lines` lines begin."""
    end = state.log_bytes
    tail, start = b"", end
    while start > state.log_dropped_bytes and tail.removesuffix(b"\n").count(b"\n") < lines:
        step = max(state.log_dropped_bytes, start - max(_TAIL_STEP, len(tail)))
        tail, start = _read(backend, state.job_id, step, start) + tail, step
    if lines <= 0:
        return end
    kept = tail.removesuffix(b"\n")
    places = [index for index, byte in enumerate(kept) if byte == 0x0A]
    return start + (places[-lines] + 1 if len(places) >= lines else 0)


def _read(backend: Backend, job_id: str, start: int, end: int) -> bytes:
    data = bytearray()
    while start + len(data) < end:
        chunk = backend.read_log(job_id, start + len(data), min(_CHUNK, end - start - len(data)))
        if not chunk.data or chunk.dropped_bytes:
            break
        data += chunk.data
    return bytes(data)


@command
def download(args: Namespace) -> int:
    """Fetch a job's output files."""
    wanted = Wanted(patterns=tuple(args.patterns or ("**",)), partial=args.partial)
    place = target(args.dest)
    with open_pool(named_pool(args)) as workers, Progress("Downloading") as progress:
        done = fetch(
            workers,
            current(workers, locate(workers, named_job(args)).handle),
            place,
            wanted,
            say=say,
            progress=lambda files, total, moved, to_move: progress.update(
                moved, to_move, f", {files} of {total} files"
            ),
            patience_s=_PATIENCE_S,
        )
    for path in done.left_out:
        complain(f"{path!r} changed whenever it was read, and is left out", "warning")
    if args.output in ("json", "yaml"):
        print_data(done.to_dict(), args.output)
        return 0
    for file in done.files:
        print(below(done.dest, file["path"]))
    count = len(done.files)
    there = f", {done.skipped} were there already" if done.skipped else ""
    say(f"{count} file{'s' * (count != 1)} in {done.dest}: {size(done.bytes)} downloaded{there}.")
    return 0
