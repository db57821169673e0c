"""Helpers that work for one request: a role of the runner as a child, its news on the way to who asked."""

from __future__ import annotations

import json
import os
from typing import Any, Callable

from airflow_jobdeploy.hostside import launch
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.protocol import OpError

#: What a helper is given of our environment.
_ENVIRONMENT = ("PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR")


def relay(role: str, job: Job, orders: Any, send: Callable[[bytes], None]) -> None:
    """Start a role with its orders on stdin, and give what it prints to `send`. It ends with us."""
    import subprocess

    env = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    words = launch.complaints(job)
    try:
        child = subprocess.Popen(
            launch.role(role, job), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, env=env, cwd="/"
        )
    finally:
        os.close(words)
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        try:
            child.stdin.write(json.dumps(orders).encode() + b"\n")
            child.stdin.flush()
        except BrokenPipeError:
            raise OpError("failed", "the helper %r of job %s ended at once" % (role, job.id)) from None
        for line in child.stdout:
            send(line)
    finally:
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout):
            try:
                stream.close()
            except OSError:
                pass  # what it was to read still lay in the buffer
