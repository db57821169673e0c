"""What a session can be asked about the files of a job: its log, its output, its checkpoint."""

from __future__ import annotations

from typing import Iterator

from airflow_jobdeploy.hostside import files, finish, jobdir, logs, pack, putting, relay
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.protocol import Reply

#: The most bytes of a log that one request gets.
LOG_LIMIT = 4 * 1024 * 1024


class FileOps:
    """For one session."""

    def __init__(self, host: HostPaths) -> None:
        self._host = host

    def _job(self, ask: dict) -> Job:
        return jobdir.known(self._host, ask["job"])

    def log(self, ask: dict) -> Reply:
        job = self._job(ask)
        limit = min(LOG_LIMIT, max(0, int(ask["limit"])))
        start, dropped, size, data = logs.read(job.paths, max(0, int(ask["offset"])), limit)
        reply = Reply(offset=start, dropped=dropped, size=size, bytes=len(data))
        reply.after = lambda send: send(data)
        return reply

    def manifest(self, ask: dict) -> Reply:
        job, match = self._job(ask), ask.get("match")
        known = files.read_json(job.paths.manifest) if job.has_ended else None
        listed = known["files"] if known else finish.manifest(job.paths.output, match)[0]
        return Reply(files=listed, ended=job.has_ended)

    def get(self, ask: dict) -> Reply:
        job = self._job(ask)
        paths = [str(path) for path in ask["paths"]]
        offset = max(0, int(ask.get("offset") or 0))
        pack.check_files(job.paths.output, paths)
        reply = Reply(files=len(paths))
        reply.after = lambda send: pack.send_files(job.paths.output, paths, send, offset)
        return reply

    def upload(self, ask: dict) -> Reply:
        job, orders = self._job(ask), [dict(order) for order in ask["files"]]
        reply = Reply(files=len(orders))
        reply.after = lambda send: relay.relay("upload", job, orders, send)
        return reply

    def checkpoint(self, ask: dict) -> Reply:
        job = self._job(ask)
        folder = self._host.checkpoint(job.plan()["uid"])
        paths = [entry["path"] for entry in finish.manifest(folder)[0]]
        reply = Reply(files=len(paths))
        reply.after = lambda send: pack.send_files(folder, paths, send)
        return reply

    def put(self, ask: dict, blobs: Iterator[bytes]) -> Reply:
        return Reply(putting.put(self._host, lambda: self._job(ask), ask.get("into"), blobs))
