"""The same case on this machine: what belongs to one root and one home."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, cast

from airflow_jobdeploy.backends.hosted import HostedBackend, local_backend
from airflow_jobdeploy.core.pool import WorkerPool
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.faults.hosts.case import Case
from tests.servers import kernel


class Here:
    """This machine, in the words of `netns.Host`."""

    name = "local"

    def __init__(self, directory: Path) -> None:
        self.home = directory / "home"
        self.root = directory / "root"
        self.home.mkdir()

    def processes(self) -> dict[int, bytes]:
        """Command lines of its supervisors (named by root), jobs (by home) and sessions (our children)."""
        root, home = str(self.root).encode(), f"HOME={self.home}".encode()
        sessions = {int(pid) for pid in kernel.read(os.getpid(), f"task/{os.getpid()}/children").split()}
        lines = {pid: kernel.read(pid, "cmdline") for pid in kernel.all_pids() if kernel.is_alive(pid)}
        return {
            pid: line
            for pid, line in lines.items()
            if root in line or home in kernel.read(pid, "environ").split(b"\0") or _is_session(pid, line, sessions)
        }

    def traces(self) -> list[str]:
        """Temporary directories of its jobs."""
        hosts = [HostPaths(str(self.root), path.name) for path in self.root.glob("hosts/*")]
        places = [host.temporary(os.geteuid(), job) for host in hosts for job in os.listdir(host.jobs)]
        return [place for place in places if os.path.exists(place)]


def _is_session(pid: int, line: bytes, children: set[int]) -> bool:
    # The thread that follows has children of its own, which /proc lists under it: ask for the parent instead.
    parent = kernel.read(pid, "stat").rpartition(b") ")[2].split()[1:2]
    return line.endswith(b"\0jobdeploy\0") and (pid in children or parent == [str(os.getpid()).encode()])


class LocalCase(Case):
    """A case on the pool `local`."""

    def __init__(self, directory: Path) -> None:
        here = Here(directory)
        super().__init__(host=cast(Any, here), way=cast(Any, None))
        self.pool = WorkerPool.local()
        self.env = {"HOME": str(here.home)}

    def backend(self) -> HostedBackend:
        self.connects += 1
        backend = local_backend(root=self.host.root)
        self._closing.append(backend.close)
        return backend
