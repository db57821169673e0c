"""The values of Apolo's SDK: what a job is to have, and what is told of one. Names, fields and words are theirs.

A field that is missing here is one that nothing stands behind: prices, organisations, addresses for HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any

from airflow_jobdeploy.core import volumes
from airflow_jobdeploy.core.status import JobStatus

_MIB = 1 << 20


class JobRestartPolicy(str, Enum):
    """After which ends a job is started again."""

    NEVER = "never"
    ON_FAILURE = "on-failure"
    ALWAYS = "always"

    def __str__(self) -> str:
        return self.value


class JobPriority(IntEnum):
    """Before which others a job starts."""

    LOW = 1
    NORMAL = 2
    HIGH = 3


@dataclass(frozen=True)
class RemoteImage:
    """An image by name; `str` gives it as engines know it. Made by `parse.remote_image`."""

    name: str
    tag: str | None = None
    registry: str | None = None
    digest: str | None = None

    def __str__(self) -> str:
        registry = f"{self.registry}/" if self.registry else ""
        tag = f":{self.tag}" if self.tag else ""
        return f"{registry}{self.name}{tag}" + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class Resources:
    """What a job needs. `memory` is in bytes, `memory_mb` the same in MiB: give one of them.

    `gpu` and `gpu_model` are older names of `nvidia_gpu` and `nvidia_gpu_model`.
    """

    memory: int = 0
    cpu: float = 0.0
    nvidia_gpu: int | None = None
    amd_gpu: int | None = None
    intel_gpu: int | None = None
    nvidia_gpu_model: str | None = None
    amd_gpu_model: str | None = None
    intel_gpu_model: str | None = None
    shm: bool = True
    tpu_type: str | None = None
    tpu_software_version: str | None = None
    memory_mb: int | None = None
    gpu: int | None = None
    gpu_model: str | None = None

    def __post_init__(self) -> None:
        if self.memory and self.memory_mb is not None and self.memory_mb != self.memory // _MIB:
            raise ValueError(f"memory is {self.memory} bytes and memory_mb {self.memory_mb}: give one of them")
        memory = self.memory or (self.memory_mb or 0) * _MIB
        object.__setattr__(self, "memory", memory)
        object.__setattr__(self, "memory_mb", memory // _MIB)


@dataclass(frozen=True, kw_only=True)
class Volume(volumes.Volume):
    """A folder of the pool's storage, and where the job sees it. `storage_uri` may be a `yarl.URL`.

    ValueError says what is wrong with either, in Apolo's words.
    """

    def __post_init__(self) -> None:
        uri = volumes.storage_uri(volumes.storage_path(str(self.storage_uri)))
        object.__setattr__(self, "storage_uri", uri)
        object.__setattr__(self, "container_path", volumes.container_path(str(self.container_path)))


@dataclass(frozen=True)
class Container:
    """What runs, in what, with what."""

    image: RemoteImage | str | None = None
    resources: Resources = Resources()
    entrypoint: str | None = None
    command: str | None = None
    working_dir: str | None = None
    http: Any = None
    env: Mapping[str, str] = field(default_factory=dict)
    volumes: Sequence[volumes.Volume] = ()
    secret_env: Mapping[str, Any] = field(default_factory=dict)
    secret_files: Sequence[Any] = ()
    disk_volumes: Sequence[Any] = ()
    tty: bool = False


@dataclass(frozen=True, kw_only=True)
class JobStatusItem:
    """One step of a job's history."""

    status: JobStatus
    transition_time: datetime
    reason: str = ""
    description: str = ""
    exit_code: int | None = None


@dataclass(frozen=True, kw_only=True)
class JobStatusHistory:
    """How a job came to where it is. Times are UTC, of this machine's clock."""

    status: JobStatus
    reason: str
    description: str
    restarts: int = 0
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run_time_seconds: int | None = None
    exit_code: int | None = None
    transitions: Sequence[JobStatusItem] = ()

    @property
    def changed_at(self) -> datetime | None:
        """When it came to its present status."""
        return self.transitions[-1].transition_time if self.transitions else self.created_at


@dataclass(frozen=True, kw_only=True)
class JobDescription:
    """A job at one moment."""

    #: The same for all attempts: that of the first.
    id: str
    owner: str
    #: The worker pool.
    cluster_name: str
    status: JobStatus
    history: JobStatusHistory
    container: Container
    uri: str
    name: str | None = None
    tags: Sequence[str] = ()
    description: str | None = None
    scheduler_enabled: bool = False
    restart_policy: JobRestartPolicy = JobRestartPolicy.NEVER
    #: Seconds, with what was added since; None: as long as it takes.
    life_span: float | None = None
    schedule_timeout: float | None = None
    preset_name: str | None = None
    preemptible_node: bool = False
    priority: JobPriority = JobPriority.NORMAL
    #: Names the job for operators and other methods of the hook.
    handle: Mapping[str, Any] = field(default_factory=dict, repr=False)
    #: What its worker says of the present attempt (core.status.JobState), in our own words.
    state: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def reason(self) -> str:
        """Why it has its status, in one word."""
        return self.history.reason
