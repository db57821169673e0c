"""What follows from a job's code, seen before it is sent: the packages it needs, and whether main() can be called."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from airflow_jobdeploy.core.files import shown
from airflow_jobdeploy.core.main_file import MAX_BYTES, NAME, Checked, check_main
from airflow_jobdeploy.core.manifest import FOLDER
from airflow_jobdeploy.core.requirements import environment_of
from airflow_jobdeploy.core.source import in_order, suggestion
from airflow_jobdeploy.core.spec import JobSpec, TemplateOptions
from airflow_jobdeploy.errors import Problem, SpecError
from airflow_jobdeploy.packing.bundle import Bundle, Code
from airflow_jobdeploy.packing.texts import texts_of_tree
from airflow_jobdeploy.service.taking import Seen


def look_at(spec: JobSpec, has_workdir: bool, bundle: Bundle | None) -> Seen:
    """SpecError with all problems of all files of the code."""
    problems: list[Problem] = []
    checked = _main(spec, has_workdir, bundle) if spec.call_main else Checked()
    problems += [*checked.problems, *without_dockerfile(spec, bundle)]
    if not (has_workdir or spec.workdir or spec.command):
        problems += _absent("entry_script", spec.entry_script, spec, bundle)
    environment = None
    try:
        read = texts_of_tree(bundle) if bundle is not None else None
        where = spec.given.get("requirements", "<job_spec>")
        environment = environment_of(
            spec.requirements, read, where=where, python=spec.python or "", unasked=spec.call_main
        )
    except SpecError as error:
        problems += error.problems
    if problems:
        raise SpecError(in_order(problems))
    return Seen(environment=environment, warnings=checked.warnings)


def glance_at(spec: JobSpec, project_dir: Path | None) -> tuple[Problem, ...]:
    """Of code that cannot be taken (changes that are not committed, no repository): main.py as it lies there."""
    if not spec.call_main or project_dir is None or spec.repo or spec.ref:
        return ()
    path = project_dir.expanduser() / NAME
    if not path.is_file():
        return check_main(None, shown(path)).problems
    try:
        with path.open("rb") as file:
            return check_main(file.read(MAX_BYTES + 1), shown(path)).problems
    except OSError:
        return ()


def without_dockerfile(wanted: JobSpec | TemplateOptions, bundle: Bundle | None) -> list[Problem]:
    """A `dockerfile` that is not in the code."""
    return _absent("dockerfile", wanted.dockerfile, wanted, bundle)


def _absent(field: str, path: str | None, wanted: JobSpec | TemplateOptions, bundle: Bundle | None) -> list[Problem]:
    """A file that is not in the code. What lies behind a link is seen by the worker."""
    if path is None or path.startswith("/") or bundle is None:
        return []
    entries = {entry.path: entry for entry in bundle.manifest.entries}
    upwards = [path, *map(str, PurePosixPath(path).parents)]
    if any(above in entries and entries[above].kind != FOLDER for above in upwards):
        return []
    files = [entry.path for entry in entries.values() if entry.is_file]
    hint = suggestion(path, files) or "Only what is sent counts: see `dirty` and .jobdeployignore."
    where = wanted.given.get(field, "<job_spec>")
    return [Problem(where, field, f"there is no {bundle.shown(path)}.", hint)]


def code_of(
    wanted: JobSpec | TemplateOptions, project_dir: Path | None, given_origin: Mapping[str, Any] | None
) -> Code | None:
    """Where the code is to be taken from; None: there is none to send."""
    common: dict[str, Any] = {"ref": wanted.ref or "", "dirty": wanted.dirty, "limit_bytes": wanted.bundle_limit_bytes}
    if isinstance(wanted, JobSpec):
        common["never"] = wanted.with_credentials
        if wanted.repo:
            return Code(repo=wanted.repo, subdir=str(project_dir or ""), **common)
    if project_dir is None:
        return None
    return Code(project_dir=project_dir, given_origin=given_origin or {}, **common)


def misplaced(spec: JobSpec, project_dir: Path | None, workdir: str | None) -> list[Problem]:
    """Fields that say how code is taken, where none is."""
    if project_dir is not None or (spec.repo and not workdir):
        return []
    names = [name for name in ("repo", "ref") if name in spec.given]
    why = "the code lies on the worker already (workdir)" if workdir or spec.workdir else "no code is sent"
    return [Problem(spec.given[name], name, f"means nothing where {why}.", "Give project_dir.") for name in names]


def _main(spec: JobSpec, has_workdir: bool, bundle: Bundle | None) -> Checked:
    """main.py of the code; one that is on the worker already is looked at there."""
    if bundle is None:
        if has_workdir or spec.workdir:
            return Checked()
        where = spec.given.get("call_main", "<job_spec>")
        message = "main() of a project is to be called, and no project is given."
        return Checked(problems=(Problem(where, "", message, "Give project_dir, or workdir on the worker."),))
    entry = next((entry for entry in bundle.manifest.entries if entry.path == NAME and entry.is_file), None)
    if entry is None:
        return check_main(None, bundle.shown(NAME))
    with bundle.open(entry) as file:
        return check_main(file.read(MAX_BYTES + 1), bundle.shown(NAME))
