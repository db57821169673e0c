"""Many task processes that submit `true` to one SSH host in the same moment, as 500 mapped tasks do.

    python -m tests.service.crowd COUNT PORT USER KEY_FILE KNOWN_HOSTS ROOT

Forks COUNT processes; each submits a job of its own and follows it to its end. Prints how it went as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from typing import Any

import paramiko

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.channel import ParamikoClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.plan import JobKey
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.core.spec import load_spec
from airflow_jobdeploy.core.status import JobStatus


class Notebook:
    """The intent of one task."""

    value: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return self.value

    def save(self, value: Mapping[str, Any]) -> None:
        self.value = dict(value)


def submit_and_follow(number: int, where: dict[str, Any], root: str) -> None:
    """What one mapped task does."""

    def connected() -> paramiko.SSHClient:
        client = paramiko.SSHClient()
        client.load_host_keys(where["known_hosts"])
        login = {"username": where["user"], "key_filename": where["key_file"], "look_for_keys": False}
        client.connect("127.0.0.1", port=where["port"], allow_agent=False, timeout=10, **login)
        return client

    pool = WorkerPool.of_connection("crowded")
    key = JobKey(deployment="crowd", dag_id="crowd", run_id="one", task_id="true", map_index=number)
    work = service.prepare_run(load_spec({"command": "true"}), pool=pool, resolve_secret=str, key=key, owner="task")
    connect = lambda worker: HostedBackend(  # noqa: E731
        worker=worker.name, kind="ssh", connect=lambda: ParamikoClient(connected, name=worker.name), root=root
    )
    silent = lambda text: None  # noqa: E731
    with service.Workers(pool, connect) as workers:
        done = service.submit(work, workers, intents=Notebook(), epoch={}, say=silent)
        followed = service.follow(workers, done.handle, say_log=silent, say=silent)
    assert followed.state.status is JobStatus.SUCCEEDED, followed.state.message


def in_a_process(number: int, where: dict[str, Any], root: str, until: float) -> int:
    """Fork; the child begins at `until` (time.monotonic()), when all are there."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        time.sleep(max(0.0, until - time.monotonic()))
        submit_and_follow(number, where, root)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main(count: int, where: dict[str, Any], root: str) -> int:
    begun = time.monotonic() + 0.005 * count
    pids = [in_a_process(number, where, root, begun) for number in range(count)]
    failures = sum(os.waitpid(pid, 0)[1] != 0 for pid in pids)
    print(json.dumps({"count": count, "failures": failures, "seconds": round(time.monotonic() - begun, 1)}))
    return 1 if failures else 0


if __name__ == "__main__":
    number, port, user, key_file, known_hosts, root = sys.argv[1:]
    where = {"port": int(port), "user": user, "key_file": key_file, "known_hosts": known_hosts}
    sys.exit(main(int(number), where, root))
