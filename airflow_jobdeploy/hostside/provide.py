"""What a job is given before its command beside its own files: a virtual environment."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Tuple

from airflow_jobdeploy.hostside import environment, envs, evidence, files, launch
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.steps import Place, SetupError

#: How often it is made again when others remove it before we hold it.
_TRIES = 3

#: Runs a command with an environment as a child of the supervisor, within the job's bounds; its exit status.
Run = Callable[[List[str], Dict[str, str]], int]


class DiskFull(SetupError):
    """There was no room for it; `facts` as in evidence.full_disk."""

    def __init__(self, text: str, facts: Dict[str, Any]) -> None:
        super().__init__(text)
        self.facts = facts


def give_environment(job: Job, place: Place, run: Run) -> int:
    """Have the job's virtual environment made, or find it, and put it first in `place`. SetupError, DiskFull.

    The file descriptor that keeps it from being removed while it is open.
    """
    for _ in range(_TRIES):
        files.forget_file(job.paths.environment)
        code = run(launch.role("environment", job), {**place.env, **environment.own(job)})
        outcome = files.read_json(job.paths.environment) or {}
        if "name" not in outcome:
            raise _trouble(job, code, outcome)
        held = envs.hold(job.host, outcome["name"])
        if held is not None:
            place.python, place.env = _inside(job.host.env(outcome["name"]).venv, place.env)
            return held
    raise SetupError("the environment was removed again and again while it was made: is the cache limit too small?")


def _trouble(job: Job, code: int, outcome: Dict[str, Any]) -> SetupError:
    text = outcome.get("error") or "the environment could not be made: its builder ended with exit status %d" % code
    disk = outcome.get("disk") or ({} if outcome else evidence.full_disk([job.paths.dir]))
    return DiskFull(text, disk) if disk else SetupError(text)


def _inside(folder: str, env: Dict[str, str]) -> Tuple[str, Dict[str, str]]:
    """(its Python, the environment of who works inside), as its `activate` has it."""
    programs = os.path.join(folder, "bin")
    path = programs + os.pathsep + env.get("PATH", os.defpath)
    inside = {key: value for key, value in env.items() if key != "PYTHONHOME"}
    return os.path.join(programs, "python"), {**inside, "PATH": path, "VIRTUAL_ENV": folder}
