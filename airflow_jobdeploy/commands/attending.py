"""Start work and stay with it: its log on stdout, what happens to it on stderr, its exit code at the end.

Ctrl-C ends the watching, never the job; while the project is still being sent nothing has started, and nothing will.
"""

from __future__ import annotations

import getpass
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from airflow_jobdeploy import service
from airflow_jobdeploy.commands.frame import INTERRUPTED, exit_code
from airflow_jobdeploy.commands.screen import WORDS, Progress, complain, print_data, say
from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.sequels import NO_SEQUEL, Sequel, after_end
from airflow_jobdeploy.core.status import JobHandle, JobState, duration, size
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.service import Followed, Interrupted, Work, Workers


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


class Notebook:
    """The intents of this process: nobody else comes back to its job."""

    def __init__(self) -> None:
        self._kept: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return self._kept

    def save(self, value: Mapping[str, Any]) -> None:
        self._kept = dict(value)


def attend(
    workers: Workers,
    work: Work,
    *,
    detach: bool = False,
    output: str = "table",
    after: Callable[[JobHandle], None] = lambda handle: None,
    announce: Callable[[JobHandle, str], None] | None = None,
) -> int:
    """Submit `work` and follow it, unless `detach`; the exit code. `after`: called when it goes on, or went well.

    `announce`: prints a detached job's handle in the form that `output` names, instead of its bare id.

    `output`: "json" or "yaml" prints the handle at the end; the log goes to stderr then.
    """
    is_data = output in ("json", "yaml")
    for warning in work.warnings:
        complain(warning, "warning")
    with Bell(workers).armed() as bell, Progress("Sending") as progress:
        errand = _Errand(workers, work, bell, progress)
        try:
            handle = errand.start()
            if detach:
                (announce or _print_handle)(handle, output)
                warn_of_silence(work.orphan_after_s)
                after(handle)
                return 0
            handle, followed = errand.follow(handle, _to_stderr if is_data else print)
        except Interrupted as interrupted:
            _withdraw(workers, interrupted.handle)
            return INTERRUPTED
    if not followed.over:
        return detached(handle, work.orphan_after_s)
    ended = handle.with_state(followed.state)
    report(followed.state)
    if is_data:
        print_data(ended.to_dict(), output)
    elif exit_code(followed.state) == 0:
        after(ended)
    return exit_code(followed.state)


class _Errand:
    """One piece of work over all its attempts: resumed when preempted, tried again for causes that its spec names."""

    def __init__(self, workers: Workers, work: Work, bell: Bell, progress: Progress) -> None:
        self._workers = workers
        self._progress = progress
        self._work = work
        self._bell = bell
        self._intents = Notebook()

    def start(self) -> JobHandle:
        """Interrupted when Ctrl-C came before the start."""
        return service.submit(self._work, self._workers, **self._manner()).handle

    def _manner(self) -> dict[str, Any]:
        common = {"intents": self._intents, "epoch": {}, "say": say}
        return {**common, "interrupted": self._bell.rung, "progress": self._show}

    def _show(self, done: int, todo: int) -> None:
        self._progress.update(done, todo)
        if done >= todo:
            self._progress.clear()

    def follow(self, handle: JobHandle, say_log: Callable[[str], Any]) -> tuple[JobHandle, Followed]:
        """The last attempt and where following it ended."""
        while True:
            followed = watch(self._workers, handle, self._bell, say_log=say_log)
            sequel = self._sequel(followed)
            if not sequel.again:
                return handle, followed
            if followed.state.status.is_finished:  # a preemption has been told
                report(followed.state)
            handle = service.submit(self._work, self._workers, sequel=sequel, **self._manner()).handle

    def _sequel(self, followed: Followed) -> Sequel:
        saved = self._intents.load()
        if not followed.over or saved is None:
            return NO_SEQUEL
        intent = Intent.from_dict(saved)
        counts = {"preemptions": intent.preemptions, "retries": intent.retries}
        sequel = after_end(followed.state, self._work.recovery, **counts)
        if sequel.why and not sequel.again:
            say(f"No further attempt: {sequel.why}.")
        return sequel


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _print_handle(handle: JobHandle, output: str) -> None:
    if output in ("json", "yaml"):
        print_data(handle.to_dict(), output)
    else:
        print(handle.job_id)


def warn_of_silence(orphan_after_s: float | None) -> None:
    """Some jobs end when nobody waits for them: who goes away is told."""
    if orphan_after_s is not None:
        text = f"the job stops itself when nobody follows it for {duration(orphan_after_s)} (on_orphan: stop); "
        complain(text + "with on_orphan: continue it would go on alone", "warning")


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


def detached(handle: JobHandle, orphan_after_s: float | None = None) -> int:
    """Say that the job goes on without us, and how to come back to it."""
    pool = "" if handle.worker_pool == "local" else f" --worker-pool {handle.worker_pool}"
    say(f"\nDetached: job {handle.job_id} goes on on worker {handle.worker}.", "yellow")
    say(f"  follow it:    airflow jobdeploy logs -f {handle.job_id}{pool}")
    say(f"  stop it:      airflow jobdeploy stop {handle.job_id}{pool}")
    if handle.resource:
        say(f"  take it down: airflow jobdeploy down {handle.resource}{pool}")
    warn_of_silence(orphan_after_s)
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
