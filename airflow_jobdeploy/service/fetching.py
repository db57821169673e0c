"""Bring what a job has left to where it is wanted, whatever the way there does meanwhile."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass

from airflow_jobdeploy.backends.base import ArtifactFile
from airflow_jobdeploy.core.policy import is_over
from airflow_jobdeploy.core.status import JobHandle
from airflow_jobdeploy.core.words import duration
from airflow_jobdeploy.errors import StagingError, WorkerUnreachable
from airflow_jobdeploy.packing.artifacts import Download, DownloadReport, Progress, Target
from airflow_jobdeploy.service.asking import status
from airflow_jobdeploy.service.pace import Pace
from airflow_jobdeploy.service.uploading import Straight
from airflow_jobdeploy.service.watching import backoff_s
from airflow_jobdeploy.service.workers import Workers

#: How long a worker is asked that does not answer; counted anew whenever something has come.
PATIENCE_S = 600.0


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which output files. `partial`: also of a job that still runs, what is there now.

    `direct`: from the worker straight to an object store. None: where that can be; True: or an error; False: never.
    """

    patterns: Sequence[str] = ("**",)
    partial: bool = False
    direct: bool | None = None


def fetch(
    workers: Workers,
    handle: JobHandle,
    target: Target,
    wanted: Wanted,
    *,
    say: Callable[[str], None],
    progress: Progress | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    patience_s: float = PATIENCE_S,
) -> DownloadReport:
    """Bring the output files of one job to `target`.

    A connection that breaks is made again, with growing delays, and the download goes on where it was cut.
    `progress`: None says a line every few seconds. `interrupted` is looked at while bytes move, and after
    `workers.wake()`. Raises StagingError (also when interrupted), and WorkerUnreachable after `patience_s` seconds
    in which nothing came.
    """

    def check() -> None:
        if interrupted():
            raise StagingError(f"told to end while fetching from job {handle.job_id}: what is there is whole")

    told = progress or Pace(say)
    download: Download[ArtifactFile] = Download(
        handle.job_id, target, wanted.patterns, partial=wanted.partial, progress=told, check=check
    )
    straight = None
    if wanted.direct is not False:
        straight = Straight(download, must=bool(wanted.direct), say=say, progress=told, check=check)
    with closing(download):
        return _Asking(workers, handle, straight, say, check, patience_s).run(download)


class _Asking:
    """Connects again and again, for as long as patience lasts."""

    def __init__(
        self,
        workers: Workers,
        handle: JobHandle,
        straight: Straight | None,
        say: Callable[[str], None],
        check: Callable[[], None],
        patience_s: float,
    ) -> None:
        self._workers, self._handle, self._straight = workers, handle, straight
        self._say, self._check = say, check
        self._patience_s = patience_s

    def run(self, download: Download[ArtifactFile]) -> DownloadReport:
        moved, failures, begun = 0, 0, time.monotonic()
        while True:
            self._check()
            try:
                return self._pass(download)
            except WorkerUnreachable as error:
                self._workers.drop(self._handle.worker)
                if download.moved > moved:
                    moved, failures, begun = download.moved, 0, time.monotonic()
                failures += 1
                if time.monotonic() - begun >= self._patience_s:
                    raise
                pause_s = backoff_s(failures, random.random())
                self._say(f"Worker {self._handle.worker} cannot be asked, again in {duration(pause_s)}: {error}")
                self._workers.pause(pause_s)

    def _pass(self, download: Download[ArtifactFile]) -> DownloadReport:
        if not download.partial:
            state = status(self._workers, self._handle)
            if not is_over(state):
                raise StagingError(
                    f"job {state.job_id} is {state.status}: what it writes is not complete. Wait for its end"
                    f" (airflow jobdeploy status {state.job_id} --wait), or take what is there now (partial=True,"
                    " --partial)"
                )
        backend = self._workers.backend(self._handle.worker, self._handle.machine)
        if self._straight is not None:
            self._straight.run(backend)
        return download.run(backend)
