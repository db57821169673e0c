"""What the fields of a job spec mean to each other: the six rules of primeway's jobs, and ours.

Each rule looks at what was given, adds a problem at the field that breaks it, or a warning that names its line.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from airflow_jobdeploy.core.fields import fields_of
from airflow_jobdeploy.core.kinds import Problems
from airflow_jobdeploy.core.source import Item
from airflow_jobdeploy.core.spec_fields import JobSpec
from airflow_jobdeploy.core.spec_kinds import path_fault

#: The fields that say what to run.
_WORK = ("entry_script", "args", "command")


def check_rules(
    attributes: Mapping[str, Any], items: Mapping[str, Item], root: Item, problems: Problems, warnings: list[str]
) -> None:
    """Check all rules. `items` are the fields as given, by present names; `root` is where missing ones belong."""
    given = {name: item for name, item in items.items() if item.value is not None}
    if not set(given) - set(fields_of(JobSpec)):  # else what is to run may stand there, misspelt
        _check_work(attributes, given, root, problems)
    _check_call(attributes, given, problems)
    _check_again(given, problems)
    _check_deploy(attributes, given, root, problems)
    _check_folders(given, problems)
    _check_repo(given, problems)
    _check_variables(attributes, given, problems)
    warnings.extend(_warnings(given))


def _check_work(attributes: Mapping[str, Any], given: Mapping[str, Item], root: Item, problems: Problems) -> None:
    """Rule 2: a project needs something to run in it. Without an image of its own, so does any job."""
    if attributes.get("call_main") or any(name in given for name in _WORK):
        return
    hint = "Give at least one of entry_script, args, command or call_main."
    if "project_dir" in given:
        problems.append(given["project_dir"].problem("a project_dir with nothing to run in it.", hint))
    elif "docker_image" not in given and "dockerfile" not in given:
        problems.append(root.problem("the job has nothing to run.", hint))


def _check_call(attributes: Mapping[str, Any], given: Mapping[str, Item], problems: Problems) -> None:
    for name in ("command", "entry_script"):
        if attributes.get("call_main") and name in given:
            problems.append(given[name].problem(f"call_main and {name} are both given.", "Keep one."))


def _check_again(given: Mapping[str, Item], problems: Problems) -> None:
    restarts = given.get("restart_policy")
    if "retry" in given and restarts is not None and restarts.value != "never":
        hint = "retry names causes and how often; restart_policy is for all of them, without end. Keep one."
        problems.append(restarts.problem("retry and restart_policy are both given.", hint))


def _check_deploy(attributes: Mapping[str, Any], given: Mapping[str, Item], root: Item, problems: Problems) -> None:
    """Rule 3: services need a port and a health endpoint."""
    missing = [name for name in ("port", "health_endpoint") if name not in given]
    if attributes.get("job_type") == "deploy" and missing:
        place = given.get("job_type", root)
        problems.append(place.problem(f"a job of type deploy needs {' and '.join(missing)}."))


def _check_folders(given: Mapping[str, Item], problems: Problems) -> None:
    for name in ("project_dir", "repo"):
        if name in given and "workdir" in given:
            hint = f"{name} is sent to the worker; workdir is there already. Keep one."
            problems.append(given["workdir"].problem(f"{name} and workdir are both given.", hint))


def _check_repo(given: Mapping[str, Item], problems: Problems) -> None:
    folder = given.get("project_dir")
    if "repo" not in given or folder is None or not isinstance(folder.value, str):
        return
    path = str(PurePosixPath(folder.value))
    fault = "" if path == "." else path_fault(path)
    if fault:
        problems.append(folder.problem(f"{folder.value!r} {fault}.", "With repo it is a folder in that repository."))


def _check_variables(attributes: Mapping[str, Any], given: Mapping[str, Item], problems: Problems) -> None:
    both = set(attributes.get("env") or {}) & set(attributes.get("secret_env") or {})
    for name in sorted(both):
        problems.append(given["secret_env"].problem(f"{name} is in env as well.", "Remove it from one of them."))


def _warnings(given: Mapping[str, Item]) -> list[str]:
    found = []
    if "command" in given:
        unused = [name for name in ("entry_script", "args") if name in given]
        found += [f"{given[name].where}: {name} is not used, since command is given." for name in unused]
    elif "entry_script" in given and "args" in given:  # rule 5
        found.append(f"{given['args'].where}: entry_script and args are both given: the script is run with args.")
    if {"requirements", "docker_image"} <= set(given) and "project_dir" not in given:  # rule 6
        message = "requirements without project_dir may conflict with packages in the image."
        found.append(f"{given['requirements'].where}: {message}")
    return found
