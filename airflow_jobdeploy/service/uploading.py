"""Output files from their worker straight to an object store, where the store can sign URLs and the worker reach it.

The credentials stay here: the worker gets a URL for each object, good for an hour. What cannot go this way goes through
this machine.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from typing import Protocol
from urllib.parse import urlsplit

from airflow_jobdeploy.backends.base import ArtifactFile, Backend, Upload, UploadNews
from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.artifacts import Download, Progress, Target

#: How long a URL is good for; each is made just before its batch is sent.
_EXPIRES_S = 3600.0
_BATCH_FILES = 64
_BATCH_BYTES = 20 * 2**30


class Store(Protocol):
    """What of a target is needed here; a folder has none of it."""

    def signed(self, file: ArtifactFile, expires_s: float) -> str: ...
    def confirmed(self, files: Sequence[ArtifactFile], tags: dict[str, str]) -> list[ArtifactFile]: ...


class Straight:
    """Sends what can go straight; `run` may be called again after a connection was lost."""

    def __init__(
        self,
        download: Download[ArtifactFile],
        *,
        must: bool,
        say: Callable[[str], None],
        progress: Progress,
        check: Callable[[], None],
    ) -> None:
        self._download, self._must = download, must
        self._say, self._progress, self._check = say, progress, check
        self._over = False

    def run(self, backend: Backend) -> None:
        """Send what is missing, and say why the rest goes another way. StagingError where it must go straight."""
        store = _store(self._download.target)
        if store is None and self._must:
            raise StagingError(f"{self._download.target.name} is no object store: files cannot go straight there")
        if store is None or self._over:
            return
        files = self._download.listed(backend)
        todo = sorted(self._download.missing(files), key=lambda file: file.size)
        if not todo:
            return
        self._download.target.open(sum(file.size for file in todo))
        why = self._sent(backend, store, todo, len(files))
        self._over = True
        if why and self._must:
            raise StagingError(f"the files of job {self._download.job_id} cannot go straight to their place: {why}")
        if why:
            self._say(f"Files go through this machine: {why}.")

    def _sent(self, backend: Backend, store: Store, todo: list[ArtifactFile], total: int) -> str:
        """Why not all was sent, or ""."""
        url = store.signed(todo[0], _EXPIRES_S)
        if not url:
            return "the store signs no URLs for it"
        host = urlsplit(url).hostname or ""
        if not self._must and backend.capabilities.reachable_from_anywhere and _is_here(host):
            return f"{host} is another machine there"
        trouble = self._batch(backend, store, todo[:1], (total, todo))  # the smallest tells whether it works at all
        if trouble:
            return trouble
        self._say(f"The worker sends its files straight to {self._download.target.name}.")
        reasons = [self._batch(backend, store, batch, (total, todo)) for batch in _batches(todo[1:])]
        return next((reason for reason in reasons if reason), "")

    def _batch(
        self, backend: Backend, store: Store, files: list[ArtifactFile], whole: tuple[int, list[ArtifactFile]]
    ) -> str:
        """Send these files; why one of them was not sent, or ""."""
        total, todo = whole
        download, goal = self._download, sum(file.size for file in todo)
        orders = [
            Upload(path=file.path, size=file.size, sha256=file.sha256, url=url)
            for file in files
            if (url := store.signed(file, _EXPIRES_S))
        ]
        tags: dict[str, str] = {}
        trouble = "some files are larger than one request may be" if len(orders) < len(files) else ""
        before = download.moved
        with closing(self._news(backend, orders)) as news:
            for told in news:
                self._check()
                download.moved = before + told.sent
                self._progress(total - len(todo) + len(tags), total, download.moved, goal)
                if told.error:
                    trouble = f"{told.path!r} was not sent ({told.error}): {told.message}"
                elif told.path:
                    tags[told.path] = told.tag
        sent = [file for file in files if file.path in tags]
        there = store.confirmed(sent, tags)
        download.target.delivered(there)
        for file in there:
            download.delivered(file)
        download.moved = before + sum(file.size for file in there)
        if len(tags) < len(orders):
            trouble = trouble or "the worker ended early"
        return trouble or ("" if len(there) == len(sent) else "the store has other objects than were sent")

    def _news(self, backend: Backend, orders: list[Upload]) -> Generator[UploadNews, None, None]:
        if orders:
            yield from backend.upload(self._download.job_id, orders)


def _store(target: Target) -> Store | None:
    return target if hasattr(target, "signed") else None  # type: ignore[return-value]  # a Store by what it has


def _batches(files: Sequence[ArtifactFile]) -> Iterator[list[ArtifactFile]]:
    batch: list[ArtifactFile] = []
    for file in files:
        if batch and (len(batch) == _BATCH_FILES or sum(f.size for f in batch) + file.size > _BATCH_BYTES):
            yield batch
            batch = []
        batch.append(file)
    if batch:
        yield batch


def _is_here(host: str) -> bool:
    """Does this name mean another machine on each machine?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
