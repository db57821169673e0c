"""The same case on a Docker engine: its own, or one that all tests of this process share."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from airflow_jobdeploy import service
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Plan, Step, new_uid
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.status import JobHandle
from tests.faults.hosts.case import Case, Following
from tests.servers.dockerd import IMAGE, Dockerd

#: As on hosts, without flock, which not every busybox has: what is not removed was killed, and nothing follows it.
_GUARD = """\
mkdir "$HOME/alive" || echo "$JOBDEPLOY_JOB_ID" >> "$HOME/overlaps"
echo "$JOBDEPLOY_JOB_ID" >> "$HOME/starts"
"""


@dataclass
class Home:
    """A folder of this machine that jobs see at the same place, in the words of `netns.Host`."""

    home: Path
    name: str = "engine"


class EngineCase(Case):
    """A case on a pool of one engine. `url`: how it is reached; read at each connect."""

    guard = _GUARD

    def __init__(self, engine: Dockerd, home: Path, image: str = IMAGE) -> None:
        super().__init__(host=cast(Any, Home(home)), way=cast(Any, None))
        self.engine, self.url = engine, engine.url
        self.pool = WorkerPool(name="lab", kind="docker", workers=(Worker(url=engine.url),), image=image)
        self.settings = Settings(image=image, shared=str(home))
        self.env = {"HOME": str(home)}
        #: Called with method and URL before each request: for what happens just then.
        self.before: Callable[[str, str], None] = lambda method, url: None

    def backend(self) -> DockerBackend:  # type: ignore[override]
        def connect() -> Any:
            self.connects += 1
            client = self.engine.client(10.0, self.url)
            ask = client.request
            client.request = lambda method, url, **options: (self.before(method, url), ask(method, url, **options))[1]
            return client

        backend = DockerBackend(worker=self.pool.workers[0].name, connect=connect, settings=self.settings)
        self._closing.append(backend.close)
        return backend

    # -- without a task: what a submitter does, step by step --------------------------------------------------------

    def plan(self, command: str, **options: Any) -> Plan:
        step = Step(name="job", kind="shell", content=self.guard + command)
        return Plan(**{"uid": new_uid(), "steps": (step,), "env": self.env, **options})

    def launched(self, plan: Plan) -> Following:
        """Claimed and started, by whoever; followed now."""

        def again() -> service.Submitted:
            backend = self.backend()
            before = backend.poll([plan.job_id])[plan.job_id]
            backend.claim(plan)
            state = backend.start(plan.job_id)
            return service.Submitted(handle=handle, state=state, reattached=state.status is before.status)

        worker = self.pool.workers[0].name
        handle = JobHandle(uid=plan.uid, job_id=plan.job_id, attempt=1, key="", worker_pool="lab", worker=worker)
        self._again = again
        return self.follow(handle)

    # -- what is true ----------------------------------------------------------------------------------------------

    def containers(self) -> dict[str, str]:
        """Name -> state, of all: an engine whose disk was full may list another one for ever."""
        client = self.engine.client()
        listed = client.containers(all=True)
        states = [client.inspect_container(entry["Id"])["State"]["Status"] for entry in listed]
        return {entry["Names"][0].lstrip("/"): state for entry, state in zip(listed, states, strict=True)}

    def job_id(self) -> str:
        """Of the only job of the engine."""
        [found] = [volume for volume in self._volumes() if len(volume) == 21 and volume.startswith("j")]
        return found

    def bytes_lost(self, following: Following) -> int:
        """Bytes of the log that the engine has and that were not told; none may be told twice."""
        if self.job_id() not in self.containers():
            return 0  # its log has gone with it: the test has read it by then
        log = self.engine.client().logs(self.job_id())
        there = Counter(log.splitlines(keepends=True))
        told = Counter(following.text.encode().splitlines(keepends=True))
        assert not told - there, f"told and not there, or twice: {list(told - there)[:3]}"
        return sum(len(line) * count for line, count in (there - told).items())

    def left_behind(self) -> list[str]:
        """Containers of ours that are not jobs, jobs that run, volumes without a name that nobody has."""
        self.close()
        found = [f"container {name} ({state})" for name, state in self.containers().items() if _is_left(name, state)]
        jobs = {
            entry["Mounts"][0].get("Name") for entry in self.engine.client().containers(all=True) if entry["Mounts"]
        }
        return found + [f"volume {name}" for name in self._volumes() if len(name) == 64 and name not in jobs]

    def _volumes(self) -> list[str]:
        return [volume["Name"] for volume in self.engine.client().volumes()["Volumes"] or ()]


def _is_left(name: str, state: str) -> bool:
    return name.startswith("jobdeploy-") or state not in ("exited", "dead")


def open_home(place: Path) -> Path:
    """A folder that jobs of any account may write to."""
    place.mkdir()
    os.chmod(place, 0o777)
    return place
