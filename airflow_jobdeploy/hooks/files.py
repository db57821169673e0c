"""Where files named in DAGs are: templates, job specs, projects, pool files.

A relative path is looked up beside the DAG's file, in the DAG's `template_searchpath`, in `[jobdeploy]
search_path`, in the current directory, in this order. An absolute one (or `~`) stands for itself.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_jobdeploy.errors import InputError, Problem, SpecError
from airflow_jobdeploy.hooks import settings

if TYPE_CHECKING:
    from airflow_jobdeploy.core.spec import JobSpec


def folders(dag: Any = None, *, dag_file: str | None = None) -> tuple[Path, ...]:
    """The folders to look in, each once, in order. `dag` is a DAG or None."""
    beside = dag_file or getattr(dag, "fileloc", None)
    found = [Path(beside).parent] if beside else []
    found += [Path(folder) for folder in _as_list(getattr(dag, "template_searchpath", None))]
    found += settings.search_path()
    found.append(Path.cwd())
    absolute = [folder.expanduser().absolute() for folder in found]
    return tuple(dict.fromkeys(absolute))


def _as_list(value: object) -> list[str]:
    if value is None:
        return []
    if isinstance(value, (str, os.PathLike)):
        return [os.fspath(value)]
    return [str(item) for item in value] if isinstance(value, Iterable) else []


def find(
    name: str | os.PathLike[str],
    where: Sequence[Path],
    *,
    argument: str,
    error: type[InputError] = InputError,
    folder: bool | None = False,
) -> Path:
    """The first file (or folder; None: either) of this name. `argument` and `error` make the message when there is
    none."""
    path = Path(name).expanduser()
    tried = [path] if path.is_absolute() else list(dict.fromkeys(base / path for base in where))
    for candidate in tried:
        if (folder is not True and candidate.is_file()) or (folder is not False and candidate.is_dir()):
            return candidate
    raise error([_not_found(str(name), tried, argument=argument, folder=folder)])


def source(given: Any, where: Sequence[Path], argument: str, error: type[InputError]) -> Any:
    """What was given instead of a file as it is, a file by its path."""
    return given if isinstance(given, Mapping) else find(given, where, argument=argument, error=error)


def load_job(
    job_spec: str | Path | Mapping[str, Any], overrides: Mapping[str, Any] | None, where: tuple[Path, ...]
) -> tuple[JobSpec, tuple[Path, ...]]:
    """A job spec and the folders beside its file (none for a mapping)."""
    from airflow_jobdeploy.core.spec import load_spec

    found = source(job_spec, where, "job_spec", SpecError)
    beside = (found.parent,) if isinstance(found, Path) else ()
    return load_spec(found, overrides=overrides or None, search_path=where), beside


def _not_found(name: str, tried: Sequence[Path], *, argument: str, folder: bool | None) -> Problem:
    what = "file or folder" if folder is None else "folder" if folder else "file"
    other = next((path for path in tried if path.exists()), None)
    if other is not None:
        return Problem(argument, "", f"{other} is a {'file' if folder else 'folder'}; expected a {what}.")
    looked = "\n".join(f"  {path}" for path in tried)
    meant = _meant(name, tried)
    where = f".{meant} Looked for it at" if meant else "; looked for it at"
    return Problem(argument, "", f"there is no {what} {name!r}{where}\n{looked}")


def _meant(name: str, tried: Sequence[Path]) -> str:
    """ " Did you mean 'x'?", or ""."""
    from airflow_jobdeploy.core.files import nearest_path

    return nearest_path(name, tried) if Path(name).name not in ("", "..") else ""


def commit_of(folder: Path | None) -> str:
    """The git commit that a folder is at, or "" when it is no work tree (or there is no git)."""
    if folder is None:
        return ""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
