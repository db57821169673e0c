"""Start work and stay with it: its log on stdout, what happens to it on stderr, its exit code at the end.

Ctrl-C ends the watching, never the job; while the project is still being sent nothing has started, and nothing will.
"""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.frame import INTERRUPTED, exit_code
from airflow_jobdeploy.commands.screen import WORDS, Progress, complain, print_data, say
from airflow_jobdeploy.core.status import JobHandle, JobState, size
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hooks.jobdeploy import Forgetful
from airflow_jobdeploy.service import Followed, Interrupted, Work, Workers

if TYPE_CHECKING:
    from airflow_jobdeploy.packing.project import ProjectArchive


class Bell:
    """Rung by the first Ctrl-C, which wakes the wait for a worker; the second one ends this process."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._rung = False

    def rung(self) -> bool:
        return self._rung

    def _ring(self, number: int, frame: FrameType | None) -> None:
        self._rung = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self._workers.wake()

    @contextmanager
    def armed(self) -> Iterator[Bell]:
        before = signal.signal(signal.SIGINT, self._ring)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, before)


def attend(
    workers: Workers,
    work: Work,
    *,
    detach: bool = False,
    output: str = "table",
    after: Callable[[JobHandle], None] = lambda handle: None,
) -> int:
    """Submit `work` and follow it, unless `detach`; the exit code. `after`: called when it goes on, or went well.

    `output`: "json" or "yaml" prints the handle at the end; the log goes to stderr then.
    """
    is_data = output in ("json", "yaml")
    for warning in work.warnings:
        complain(warning, "warning")
    with Bell(workers).armed() as bell:
        handle = _submitted(workers, work, bell)
        if handle is None:
            return INTERRUPTED
        if detach:
            _print_handle(handle, output)
            after(handle)
            return 0
        followed = watch(workers, handle, bell, say_log=_to_stderr if is_data else print)
    if not followed.over:
        return detached(handle)
    ended = handle.with_state(followed.state)
    report(followed.state)
    if is_data:
        print_data(ended.to_dict(), output)
    elif exit_code(followed.state) == 0:
        after(ended)
    return exit_code(followed.state)


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _print_handle(handle: JobHandle, output: str) -> None:
    if output in ("json", "yaml"):
        print_data(handle.to_dict(), output)
    else:
        print(handle.job_id)


def _submitted(workers: Workers, work: Work, bell: Bell) -> JobHandle | None:
    """The handle of the started job; None when Ctrl-C came before the start."""
    with Progress("Sending") as progress:
        try:
            done = service.submit(
                _metered(work, progress), workers, intents=Forgetful(), epoch={}, say=say, interrupted=bell.rung
            )
        except Interrupted as interrupted:
            _withdraw(workers, interrupted.handle)
            return None
    return done.handle


def _withdraw(workers: Workers, handle: JobHandle | None) -> None:
    """A claimed job that nobody will start is ended on its worker."""
    if handle is None:
        say("Interrupted: nothing was started.", "yellow")
        return
    try:
        state = service.stop(workers, handle, reason="interrupted while submitting", by=getpass.getuser(), wait_s=5.0)
        say(f"Interrupted: job {handle.job_id} was not started ({state.status}).", "yellow")
    except WorkerError as error:
        complain(f"interrupted; job {handle.job_id} is claimed on worker {handle.worker} and not started: {error}")


class _Metered:
    """A project archive that tells how much of it has gone."""

    def __init__(self, archive: ProjectArchive, progress: Progress) -> None:
        self._archive = archive
        self._progress = progress
        self.bytes = archive.bytes

    def __str__(self) -> str:
        return str(self._archive)

    def __iter__(self) -> Iterator[bytes]:
        moved = 0
        try:
            for chunk in self._archive:
                yield chunk
                moved += len(chunk)
                self._progress.update(min(moved, self.bytes), self.bytes)
        finally:
            self._progress.clear()


def _metered(work: Work, progress: Progress) -> Work:
    project = work.project
    if project is None:
        return work
    return replace(work, project=lambda: cast("ProjectArchive", _Metered(project(), progress)))


# -- following ------------------------------------------------------------------------------------------------------


def watch(
    workers: Workers, handle: JobHandle, bell: Bell, *, say_log: Callable[[str], Any], offset: int = 0
) -> Followed:
    """Follow a job to its end or to Ctrl-C."""

    def tell(text: str) -> None:
        say_log(text)
        if say_log is print:
            sys.stdout.flush()

    return service.follow(workers, handle, offset=offset, say_log=tell, say=say, interrupted=bell.rung)


def detached(handle: JobHandle) -> int:
    """Say that the job goes on without us, and how to come back to it."""
    pool = "" if handle.worker_pool == "local" else f" --worker-pool {handle.worker_pool}"
    say(f"\nDetached: job {handle.job_id} goes on on worker {handle.worker}.", "yellow")
    say(f"  follow it:    airflow jobdeploy logs -f {handle.job_id}{pool}")
    say(f"  stop it:      airflow jobdeploy stop {handle.job_id}{pool}")
    if handle.resource:
        say(f"  take it down: airflow jobdeploy down {handle.resource}{pool}")
    return INTERRUPTED


def report(state: JobState) -> None:
    """How a job ended, whose log has just been shown."""
    word = state.status.value
    say(f"Job {state.job_id} {word}: {short(state)}", WORDS.get(word, ""))
    if state.artifacts.get("files"):
        say(f"Its output: {described_files(state)}.")


def short(state: JobState) -> str:
    """What became of a job, without the lines of its log."""
    said = state.message.partition("; last lines:")[0]
    return said if said.endswith(".") else f"{said}."


def described_files(state: JobState) -> str:
    """ "3 files, 1.2 MiB" """
    count = int(state.artifacts.get("files", 0))
    return f"{count} file{'s' * (count != 1)}, {size(state.artifacts.get('bytes', 0))}"
