"""A plan: one attempt of one job, all that a backend needs to run it, frozen, JSON both ways."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.hostside import layout


@dataclass(frozen=True, kw_only=True)
class JobKey:
    """Where a job comes from, for people and for the reaper. Empty outside Airflow."""

    deployment: str = ""
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1

    def __str__(self) -> str:
        mapped = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return "/".join(part for part in (self.deployment, self.dag_id, self.run_id, self.task_id) if part) + mapped

    def to_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


#: Of jobs that were started outside Airflow.
NO_KEY = JobKey()


@dataclass(frozen=True, kw_only=True)
class Step:
    """One thing the supervisor does.

    `kind` is one of
      script  `content` is written to `path` below the working directory and run by its shebang, else by sh
      file    `content` is written to `path`
      shell   `content` is sh text of a job spec; kept in the job's directory, never in argv
      entry   `path` (below the working directory) is run with `args`: by its shebang, .py by `python`, .sh by sh
      argv    `args` is the whole command line
      main    main(dataset_dir, model_output_dir) of main.py in the working directory is called, `args` in sys.argv
    """

    name: str
    kind: str
    content: str = ""
    path: str = ""
    args: tuple[str, ...] = ()
    python: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    #: Exit codes and signal numbers, beside 0, that count as success.
    ok_codes: tuple[int, ...] = ()
    ok_signals: tuple[int, ...] = ()
    timeout_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        lists = {key: list(data[key]) for key in ("args", "ok_codes", "ok_signals")}
        return {**data, **lists, "env": dict(self.env)}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that hold on the host too; seconds and bytes; None: no bound."""

    timeout_s: float | None = None
    setup_timeout_s: float | None = None
    schedule_timeout_s: float | None = None
    grace_s: float = 10.0
    signal: str = "SIGTERM"
    log_limit_bytes: int | None = None
    keep_for_s: float = 7 * 86400.0
    #: What is left of the job's life for this attempt; can be lengthened (Backend.extend).
    life_span_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {key: getattr(self, key) for key in self.__dataclass_fields__}


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a job's Python environment is made of (core.requirements); its worker makes it, or has it already."""

    #: Lines of a requirements file, with its options for the index, and of a constraints file.
    requirements: tuple[str, ...]
    constraints: tuple[str, ...] = ()
    #: The Python it is made with: a name (python3.11) or a path; empty: the first of python3 and python.
    python: str = ""

    def to_dict(self) -> dict[str, Any]:
        lists = {key: list(getattr(self, key)) for key in ("requirements", "constraints")}
        return {**lists, "python": self.python}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Environment:
        """Keys of newer releases are left out."""
        lists = {key: tuple(data.get(key, ())) for key in ("requirements", "constraints")}
        return cls(**lists, python=data.get("python", ""))


@dataclass(frozen=True, kw_only=True)
class ResourcePlan:
    """What an `up` leaves on its worker: the record and all builds, flattened to steps."""

    id: str
    template: str
    digest: str
    subdir: str
    project: str
    params: Mapping[str, Any] = field(default_factory=dict)
    #: build name -> its steps in order (a sequence is flattened)
    builds: Mapping[str, tuple[Step, ...]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        builds = {name: [step.to_dict() for step in steps] for name, steps in self.builds.items()}
        return {**data, "params": dict(self.params), "builds": builds}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One attempt. Either `steps` (a job spec) or `build` of a `resource_id` (a template's build)."""

    uid: str
    attempt: int = 1
    name: str = "job"
    key: JobKey = NO_KEY
    worker_pool: str = "local"
    worker: str = ""
    #: "task": the reaper may stop the job when its task is terminal or gone; "none": lives by itself.
    owner: str = "none"
    steps: tuple[Step, ...] = ()
    #: The build to run, of the resource named by `resource_id`; its steps are stored on the worker.
    build: str = ""
    resource_id: str = ""
    #: Given for `up` only: makes the resource.
    resource: ResourcePlan | None = None
    #: A directory on the worker; empty: the shipped project, else an empty directory of the job's own.
    workdir: str = ""
    #: Is a project tree sent before the start?
    ships_project: bool = False
    #: The tree of the project's code, by name: the job gets a writable copy of it to run in. "": none.
    bundle: str = ""
    #: {"tree": name} ("" while its files have not all been read), {"storage": relative path}, or empty: none.
    dataset: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    #: The Python packages that the job needs; None: none.
    environment: Environment | None = None
    #: Values that must not be shown: sent beside the plan, kept 0600 on the worker until the end.
    secret_env: Mapping[str, str] = field(default_factory=dict, repr=False)
    limits: Limits = Limits()
    #: "wait": what the command left is waited for (templates' `up`); "stop": it gets grace, then KILL.
    leftovers: str = "stop"
    #: The pool's storage on the worker: {"root", "shared"}; empty where the job needs none.
    storage: Mapping[str, Any] = field(default_factory=dict)
    #: Folders of the storage: {"path", "link", "read_only"}; `link` is below $JOBDEPLOY_VOLUMES_DIR.
    volumes: tuple[Mapping[str, Any], ...] = ()
    #: For workers that run jobs in containers: image, pull, cpu_count, memory_bytes, shm_size_bytes, pids_limit,
    #: disk_space_bytes, each only where it was asked for.
    container: Mapping[str, Any] = field(default_factory=dict)
    #: What it holds of the worker while it runs (core.leases.lease_of); empty: nothing is counted for it.
    lease: Mapping[str, Any] = field(default_factory=dict)
    #: Jobs at once of this pool on the worker; None: no bound.
    slots: int | None = None
    #: The job stops itself when nobody has asked for it for so many seconds; None: it goes on.
    orphan_after_s: float | None = None
    #: Seconds that the worker waits before it starts the job (a retry's delay).
    delay_s: float = 0.0
    #: For people: what was asked for (spec or template params), without secrets.
    description: Mapping[str, Any] = field(default_factory=dict)

    @property
    def job_id(self) -> str:
        """Follows from uid and attempt: whoever knows both knows it."""
        return layout.job_id(self.uid, self.attempt)

    def next_attempt(self, attempt: int) -> Plan:
        """The same work as another attempt."""
        return replace(self, attempt=attempt)

    def to_wire(self) -> dict[str, Any]:
        """As JSON, without secret values (see `secret_env`)."""
        data = {key: getattr(self, key) for key in self.__dataclass_fields__ if key != "secret_env"}
        return {
            **data,
            "layout": layout.LAYOUT,
            "job_id": self.job_id,
            "key": self.key.to_dict(),
            "steps": [step.to_dict() for step in self.steps],
            "resource": self.resource.to_dict() if self.resource else None,
            "env": dict(self.env),
            "environment": self.environment.to_dict() if self.environment else None,
            "storage": dict(self.storage),
            "volumes": [dict(volume) for volume in self.volumes],
            "container": dict(self.container),
            "lease": dict(self.lease),
            "secret_names": sorted(self.secret_env),
            "limits": self.limits.to_dict(),
            "dataset": dict(self.dataset),
            "description": dict(self.description),
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Plan:
        """Read a plan back; keys of newer releases are left out."""
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        known["key"] = JobKey(**data.get("key", {}))
        known["limits"] = Limits(**data.get("limits", {}))
        known["steps"] = tuple(_step(step) for step in data.get("steps", ()))
        environment = data.get("environment")
        known["environment"] = Environment.from_dict(environment) if environment else None
        known["volumes"] = tuple(data.get("volumes", ()))
        resource = data.get("resource")
        known["resource"] = _resource(resource) if resource else None
        return cls(**known)


def _step(data: Mapping[str, Any]) -> Step:
    tuples = {key: tuple(data.get(key, ())) for key in ("args", "ok_codes", "ok_signals")}
    return Step(**{**data, **tuples})


def _resource(data: Mapping[str, Any]) -> ResourcePlan:
    builds = {name: tuple(_step(step) for step in steps) for name, steps in data["builds"].items()}
    return ResourcePlan(**{**data, "builds": builds})


def new_uid() -> str:
    """A job's uid: 128 random bits as 32 hexadecimal digits. Written down before anything is submitted."""
    return secrets.token_hex(16)


def new_resource_id() -> str:
    """A resource's id: short enough for a person to type, 40 random bits."""
    alphabet = "abcdefghijkmnpqrstuvwxyz23456789"
    return "".join(secrets.choice(alphabet) for _ in range(8))
