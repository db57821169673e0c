"""`JobSpec`: what to run, with what, on what. The table of all fields is the class itself.

The fields are primeway's, and ours. Each is declared once, with how it is read, what it means, and what it `needs`
where this release cannot honour it yet: parsing, problems, JSON Schema and the reference are made from that.
`core.spec` reads specs, `core.spec_rules` holds what fields mean to each other, `core.support` what a pool can
honour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.engines import AptPackage, ImageName
from airflow_jobdeploy.core.fields import declared, fields_of, plain
from airflow_jobdeploy.core.git_names import Dirty, Ref, Repository
from airflow_jobdeploy.core.gpus import GB, GPUS, GpuWish, gpu_wishes
from airflow_jobdeploy.core.kinds import (
    Anything,
    Duration,
    Flag,
    Many,
    Number,
    ShellText,
    Size,
    Text,
    Words,
)
from airflow_jobdeploy.core.labels import Where
from airflow_jobdeploy.core.requirements import Requirements
from airflow_jobdeploy.core.retry import Retry, RetryRule, retry_from_dict
from airflow_jobdeploy.core.spec_kinds import SIGNAL, Python, RelativePath
from airflow_jobdeploy.core.variables import SECRETS, Variables
from airflow_jobdeploy.core.volumes import VOLUMES, DatasetLocation, Volume
from airflow_jobdeploy.errors import Problem, SpecError

_DOCKER = "a docker pool"
_CONTAINERS = ("docker",)
_CONTAINER = "a container: a docker pool. A host's packages are for its owner to install, once"
_SERVICES = "services (a later release)"


@dataclass(frozen=True, kw_only=True)
class JobSpec:
    """One job, normalised: seconds, bytes, tuples. Made by `load_spec`; equal specs are equal values."""

    # What it is called.
    job_name: str | None = declared(Text(), "A name for people and logs.")
    description: str | None = declared(Text(lines=True), "What the job is for.")
    tags: tuple[str, ...] = declared(Many(), "Words to find the job by.", ())
    framework: str | None = declared(Text(), "What the project is written with (pytorch, tensorflow, ...): a label.")

    # What to run.
    job_type: str = declared(
        Text(("run", "deploy")), "`run`: until it ends. `deploy`: a service.", "run", needs=_SERVICES
    )
    project_dir: str | None = declared(
        Text(lines=True),
        "The project's folder on the Airflow machine, sent to the worker; with `repo`: its folder in that repository.",
    )
    repo: str | None = declared(Repository(), "A git repository to take the project from, instead of a folder here.")
    ref: str | None = declared(
        Ref(),
        "The branch, tag or commit of the project that is sent: what was committed, whatever lies there now.",
        option=True,
    )
    dirty: str = declared(
        Dirty(),
        "Changes of the project that are not committed (untracked files count): `include` sends them and says so, "
        "`refuse` is an error that names them, be they anywhere in the repository. true and false mean the same. "
        "`refuse` is the default in a file with `job_data`.",
        "include",
        option=True,
    )
    bundle_limit_bytes: int = declared(
        Size(), "The most that the project may measure (2 GB); a number is bytes.", 2 * GB, option=True
    )
    workdir: str | None = declared(Text(lines=True), "A folder that is on the worker already, to run in.")
    entry_script: str | None = declared(
        RelativePath(), "The script to run, in the project: by its shebang; .py by `python`; .sh by sh."
    )
    args: tuple[str, ...] | None = declared(
        Words(), "Arguments of the script, as sh would split them, or a list. Without a script: the command line."
    )
    command: str | None = declared(ShellText(), "sh text; wins over `entry_script` and `args`.")
    python: str | None = declared(
        Python(), "The Python of .py scripts and `requirements`: 3.11, a name or a path; else python3, or python."
    )
    call_main: bool = declared(
        Flag(),
        "Call main(dataset_dir, model_output_dir) of main.py at the project's root, as DDL does; the default in a file "
        "with `job_data`. `args` are its sys.argv.",
        False,
    )
    env: Mapping[str, str] = declared(Variables(), "Environment variables, values as written.", {}, option=True)
    secret_env: Mapping[str, str] = declared(
        SECRETS,
        "Environment variables from Airflow: conn:<id>.password (login, host, extra.<key>) or var:<key>.",
        {},
        option=True,
    )

    # Where, and for how long.
    worker_pool: str | None = declared(Text(), "The pool: a connection's id, or `local`.")
    timeout_s: float | None = declared(Duration(), "The longest the command may run, per attempt.", option=True)
    setup_timeout_s: float | None = declared(
        Duration(), "The longest that sending the project may take, and making its environment, each.", option=True
    )
    schedule_timeout_s: float | None = declared(Duration(), "The longest wait for a free worker.", option=True)
    grace_s: float = declared(Duration(zero=True), "From the stop signal to KILL.", 10, option=True)
    signal: str = declared(SIGNAL, "The stop signal.", "SIGTERM")
    log_limit_bytes: int | None = declared(
        Size(), "Keep only the last bytes of the log; a number is bytes.", option=True
    )
    leftovers: str = declared(
        Text(("wait", "stop")),
        "What the command left running: `stop` it, or `wait` for it (the default of templates).",
        "stop",
        option=True,
    )
    keep_for_s: float | None = declared(
        Duration(zero=True), "How long the job's directory stays on the worker after its end.", option=True
    )

    # When a worker goes away.
    on_orphan: str | None = declared(
        Text(("continue", "stop")),
        "When nobody asks for the job any more: `continue`, or `stop` after `worker_lost_after`. The default is `stop` "
        "for preemptible jobs and for those with `retry: {on: [worker_lost]}`, else `continue`.",
        option=True,
    )
    worker_lost_after_s: float | None = declared(
        Duration(),
        "Silence until the worker counts as lost; a job with `on_orphan: stop` has ended itself by then (90 s).",
    )
    preemptible: bool = declared(
        Flag(), "May be stopped to make room; a reboot of its worker counts as that, too.", False, option=True
    )
    on_preemption: str = declared(
        Text(("resume", "retry", "fail")),
        "After a preemption: `resume` as a new attempt in the same Airflow try, fail the try for Airflow to `retry`, "
        "or `fail`.",
        "resume",
    )
    max_preemptions: int | None = declared(
        Number(whole=True, minimum=0), "How often it is resumed; as often as it takes by default."
    )
    retry: RetryRule | None = declared(  # noqa: RUF009
        Retry(), "For which causes it is run again within one Airflow try: {on, max, delay}."
    )
    restart_policy: str = declared(
        Text(("never", "on-failure", "always")),
        "Whoever waits for it starts it again after a failure, or after any end, but not when it was stopped; with "
        "growing pauses, as long as its `life_span` lasts.",
        "never",
    )
    life_span_s: float | None = declared(
        Duration(),
        "The longest it may run, counted from its command's start, all attempts together; can be lengthened while it "
        "runs.",
    )

    # With what.
    docker_image: str | None = declared(
        ImageName(),
        "The image to run in: a name as registries have it, or a short one of the pool's `images`.",
        needs=_DOCKER,
        honoured_by=_CONTAINERS,
        option=True,
    )
    pull: str | None = declared(
        Text(("always", "missing", "never")),
        "When to pull the image.",
        needs=_DOCKER,
        honoured_by=_CONTAINERS,
        option=True,
    )
    dockerfile: str | None = declared(
        RelativePath(),
        "Build the image from this file of the project, with the project as its context.",
        needs=_DOCKER,
        honoured_by=_CONTAINERS,
        option=True,
    )
    shm_size_bytes: int | None = declared(
        Size(), "/dev/shm of the container; a number is bytes.", needs=_DOCKER, honoured_by=_CONTAINERS, option=True
    )
    pids_limit: int | None = declared(
        Number(whole=True, minimum=1),
        "Processes in the container.",
        needs=_DOCKER,
        honoured_by=_CONTAINERS,
        option=True,
    )
    requirements: tuple[str, ...] | str | None = declared(
        Requirements(),
        "Python packages to install: a list, or the path of a requirements file in the project.",
    )
    apt_packages: tuple[str, ...] = declared(
        Many(AptPackage()),
        "Debian packages to install into the image.",
        (),
        needs=_CONTAINER,
        honoured_by=_CONTAINERS,
        option=True,
    )
    memory_bytes: int | None = declared(Size(GB), "Memory; a number is GB (2^30 bytes).", option=True)
    disk_space_bytes: int | None = declared(Size(GB), "Disk space; a number is GB (2^30 bytes).", option=True)
    cpu_count: float | None = declared(Number(above=0), "CPU cores; may be fractional.", option=True)
    gpu_types: tuple[GpuWish, ...] = declared(
        GPUS,
        "GPUs: a list of {type, count, memory}. They are alternatives: the first that can be had. `type: any` is any; "
        "memory is each one's: the least, or a range (`24GB..`, `..40GB`, `16GB..24GB`).",
        (),
        option=True,
    )
    preset: str | None = declared(Text(), "A preset of the pool.")
    team: str | None = declared(
        Text(),
        "The team whose quota of the pool counts the job, beside its owner's. Where Airflow has teams it is the DAG's.",
        option=True,
    )
    priority: str | None = declared(
        Text(("low", "normal", "high")), "Before which others it starts.", missing_on=_CONTAINERS, same=("normal",)
    )
    where: Mapping[str, tuple[str, ...]] = declared(
        Where(),
        "Which workers of the pool, by their labels: {zone: a, disk: [ssd, nvme]}; of a list any will do. "
        "`worker` is a worker's name.",
        {},
    )
    worker_required: int = declared(
        Number(whole=True, minimum=1),
        "Workers that run it together.",
        1,
        needs="jobs over several workers (a later release)",
    )
    volumes: tuple[Volume, ...] = declared(
        VOLUMES, "Folders of the pool's storage: a list of `storage:dir:/mnt/data[:ro|rw]`.", ()
    )
    dataset_location: str | None = declared(
        DatasetLocation(),
        "The dataset, to be read in $JOBDEPLOY_DATASET_DIR: a file or folder here, storage:path of the pool's storage, "
        "or the URL of an object storage (s3://connection@bucket/key).",
    )

    # Services.
    port: int | None = declared(Number(whole=True, minimum=1, maximum=65535), "The service's port.", needs=_SERVICES)
    health_endpoint: str | None = declared(Text(), "The path that says whether it is well.", needs=_SERVICES)
    idle_timeout_s: float | None = declared(Duration(), "Stop it this long after the last request.", needs=_SERVICES)
    schedule_start: str | None = declared(
        Text(), "When to start it.", needs="Airflow's own schedule: DAG(schedule=...)"
    )
    schedule_end: str | None = declared(Text(), "When to end it.", needs="Airflow's own schedule: DAG(schedule=...)")

    #: What is odd, but no error; each names file and line.
    warnings: tuple[str, ...] = field(default=(), compare=False)
    #: The fields that were given -> where ("file:line"), by their names in files.
    given: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)
    #: Was it read from a file of DDL's, one with `job_data`?
    of_ddl: bool = field(default=False, compare=False)
    #: Files it was read from that hold a password or the like: they are never sent, either.
    with_credentials: tuple[Path, ...] = field(default=(), compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the fields that differ from their defaults, by attribute (`timeout_s`)."""
        return {
            entry.attribute: plain(getattr(self, entry.attribute))
            for entry in fields_of(JobSpec).values()
            if getattr(self, entry.attribute) != entry.default
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobSpec:
        """The spec of a `to_dict`. Raises SpecError for what no `to_dict` gives."""
        # What is not read yet is kept as it is; all other lists were made tuples.
        free = [field.attribute for field in fields_of(JobSpec).values() if isinstance(field.kind, Anything)]
        try:
            values: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) and name not in free else value
                for name, value in data.items()
            }
            values["retry"] = retry_from_dict(values.get("retry"))
            values["gpu_types"] = gpu_wishes(values.get("gpu_types"))
            values["where"] = {name: tuple(each) for name, each in (values.get("where") or {}).items()}
            values["volumes"] = tuple(Volume(**volume) for volume in values.get("volumes", ()))
            return cls(**values)
        except TypeError as error:
            raise SpecError([Problem("<record>", "", f"is not a job spec of this release: {error}.")]) from None


@dataclass(frozen=True, kw_only=True)
class TemplateOptions:
    """A template's `options`: those fields of job specs that make sense for all its builds."""

    timeout_s: float | None = None
    setup_timeout_s: float | None = None
    schedule_timeout_s: float | None = None
    grace_s: float = 10
    log_limit_bytes: int | None = None
    leftovers: str = "wait"
    keep_for_s: float | None = None
    on_orphan: str | None = None
    preemptible: bool = False
    ref: str | None = None
    dirty: str = "include"
    bundle_limit_bytes: int = 2 * GB
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, str] = field(default_factory=dict)
    docker_image: str | None = None
    pull: str | None = None
    dockerfile: str | None = None
    apt_packages: tuple[str, ...] = ()
    cpu_count: float | None = None
    memory_bytes: int | None = None
    disk_space_bytes: int | None = None
    shm_size_bytes: int | None = None
    pids_limit: int | None = None
    gpu_types: tuple[GpuWish, ...] = ()
    team: str | None = None

    #: As in JobSpec.
    given: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON, by attribute."""
        return {entry.name: plain(getattr(self, entry.name)) for entry in fields(self) if entry.name != "given"}
