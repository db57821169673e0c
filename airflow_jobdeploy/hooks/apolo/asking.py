"""From what Apolo's `start` and `run` take to a job spec: there is no second way to run a job."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.volumes import Volume
from airflow_jobdeploy.errors import Problem, SpecError, nearest
from airflow_jobdeploy.hooks.apolo.values import Container, JobPriority, JobRestartPolicy, Resources

#: Apolo's rule for names of jobs.
_NAME, _SHORTEST, _LONGEST = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*"), 3, 40
#: What engines give /dev/shm where `shm=True` was asked for and no memory; docker's own 64 MB are too few for training.
_SHM_BYTES = 2 << 30
_LATER = "Services come in a later release."
_NOBODY = "Who may use a pool is said by its Airflow connection."
#: Arguments and fields of Apolo's that nothing here stands behind -> what to do.
REFUSED: Mapping[str, str] = {
    "http": _LATER,
    "secret_files": "Keep the value in Airflow and name it in secret_env.",
    "disk_volumes": "Give a folder of the pool's storage: storage:dir:/mnt/data.",
    "tty": "Jobs have no terminal.",
    "pass_config": "A job has no account to act for.",
    "privileged": "The pool's owner says what containers may do.",
    "energy_schedule_name": "Use Airflow's own schedule: DAG(schedule=...).",
    "org_name": _NOBODY,
    "project_name": _NOBODY,
    "org_names": _NOBODY,
    "project_names": _NOBODY,
    "tpu_type": "Ask for GPUs.",
    "tpu_software_version": "Ask for GPUs.",
}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Arguments that `start` and `run` share."""

    container: Container
    preset_name: str | None = None
    name: str | None = None
    tags: Sequence[str] = ()
    description: str | None = None
    schedule_timeout: float | None = None
    restart_policy: JobRestartPolicy | str = JobRestartPolicy.NEVER
    life_span: float | None = None
    priority: JobPriority | str | None = None
    preemptible: bool = False
    project_dir: str | Path | None = None

    def spec(self, *, kind: str) -> dict[str, Any]:
        """The fields of a job spec, for a pool of `kind`. SpecError names what means nothing here."""
        problems = [*_refused(vars(self.container)), *_refused(vars(self.container.resources)), *self._wrong()]
        if problems:
            raise SpecError(problems)
        place = self.container
        fields = {
            "job_name": self.name,
            "description": self.description,
            "tags": list(self.tags),
            "docker_image": str(place.image) if place.image is not None else None,
            "args": self._words(),
            "workdir": place.working_dir,
            "env": {name: str(value) for name, value in (place.env or {}).items()},
            "secret_env": {name: str(reference) for name, reference in (place.secret_env or {}).items()},
            "volumes": [_mapping(volume) for volume in place.volumes],
            "preset": self.preset_name,
            "schedule_timeout": self.schedule_timeout or None,
            "life_span": self.life_span or None,
            "restart_policy": str(self.restart_policy),
            "priority": _priority(self.priority),
            "preemptible": self.preemptible,
            # Nobody may be asking for it for hours: it is the caller's to look at when he likes.
            "on_orphan": "continue" if self.preemptible else None,
            **_amounts(place.resources, kind),
        }
        return {name: value for name, value in fields.items() if value not in (None, [], {}, "")}

    def _words(self) -> list[str] | None:
        """The command line: Apolo gives it to no shell either. None: the image's own."""
        words = [*shlex.split(self.container.entrypoint or ""), *shlex.split(self.container.command or "")]
        return words or None

    def _wrong(self) -> list[Problem]:
        found = []
        name = self.name
        if name is not None and not (_NAME.fullmatch(name) and _SHORTEST <= len(name) <= _LONGEST):
            rule = f"{_SHORTEST} to {_LONGEST} small letters, digits and single dashes, a letter first."
            found.append(_problem("name", f"Invalid job name {name!r}.", rule))
        for variable, reference in (self.container.secret_env or {}).items():
            if str(reference).startswith("secret:"):
                hint = "Keep it in Airflow: conn:<id>.password or var:<key>."
                found.append(_problem(f"secret_env.{variable}", f"there are no platform secrets ({reference}).", hint))
        if len(_gpus(self.container.resources)) > 1:
            found.append(_problem("resources", "GPUs of several makers are asked for.", "Keep one kind."))
        for what in ("entrypoint", "command"):
            try:
                shlex.split(getattr(self.container, what) or "")
            except ValueError as error:
                found.append(_problem(what, f"is no command line: {error}.", "Close its quotes."))
        return found


def check_others(others: Mapping[str, Any], known: Sequence[str]) -> None:
    """SpecError for arguments that mean nothing here, unless they ask for nothing; TypeError for those nobody knows."""
    for name in others:
        if name not in REFUSED:
            raise TypeError(f"unexpected argument {name!r}.{nearest(name, [*known, *REFUSED])}")
    problems = _refused(others)
    if problems:
        raise SpecError(problems)


def _refused(given: Mapping[str, Any]) -> list[Problem]:
    return [_problem(name, "has no meaning here.", REFUSED[name]) for name in given if name in REFUSED and given[name]]


def _problem(path: str, message: str, hint: str) -> Problem:
    return Problem("<job>", path, message, hint)


def _priority(given: JobPriority | str | None) -> str | None:
    return given.name.lower() if isinstance(given, JobPriority) else given


def _mapping(volume: Volume) -> dict[str, Any]:
    return {
        "storage_uri": str(volume.storage_uri),
        "container_path": volume.container_path,
        "read_only": volume.read_only,
    }


def _amounts(asked: Resources, kind: str) -> dict[str, Any]:
    """On hosts /dev/shm is the host's own, whatever was asked for."""
    shm = (asked.memory or _SHM_BYTES) if asked.shm and kind == "docker" else None
    return {
        "memory": f"{asked.memory}B" if asked.memory else None,
        "cpu_count": asked.cpu or None,
        "gpu_types": _gpus(asked),
        "shm_size": shm,
    }


def _gpus(asked: Resources) -> list[dict[str, Any]]:
    counts = (
        (asked.nvidia_gpu or asked.gpu, asked.nvidia_gpu_model or asked.gpu_model),
        (asked.amd_gpu, asked.amd_gpu_model),
        (asked.intel_gpu, asked.intel_gpu_model),
    )
    return [{"type": model or "any", "count": count} for count, model in counts if count]
