"""What is brought to a claimed job as a tar stream: whole, under its name, or not at all."""

from __future__ import annotations

import os
from typing import Callable, Dict, Iterator

from airflow_jobdeploy.hostside import files, jobdir, pack
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths
from airflow_jobdeploy.hostside.protocol import OpError


def put(host: HostPaths, find: Callable[[], Job], into: object, blobs: Iterator[bytes]) -> Dict[str, int]:
    """Take a stream in to its end, whatever it comes to; how many files and bytes it had. OpError."""
    stream = pack.Stream(blobs)
    try:
        return _unpacked(host, find(), into, stream)
    finally:
        stream.drain()


def _unpacked(host: HostPaths, job: Job, into: object, stream: pack.Stream) -> Dict[str, int]:
    if into != "checkpoint":
        raise OpError("bad-request", "put into %r: only checkpoint is known" % (into,))
    fresh = os.path.join(files.private_dir(host.incoming), os.urandom(16).hex())
    try:
        total = pack.unpack(stream, fresh)
        if not job.has_ended and job.state().get("pid") is None:
            jobdir.replace(host, fresh, host.checkpoint(job.plan()["uid"]))
    except pack.BadArchive as error:
        raise OpError("bad-request", str(error)) from None
    finally:
        if os.path.isdir(fresh):
            files.remove_tree(fresh)
    return total
