"""Where the code of a job is taken from: the fields of its spec, the arguments of an operator, the DAG's own bundle."""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.core.spec_kinds import path_fault
from airflow_jobdeploy.errors import InputError, Problem, SpecError
from airflow_jobdeploy.hooks import files
from airflow_jobdeploy.packing import forges


@dataclass(frozen=True, kw_only=True)
class Place:
    """A job spec in whose fields paths are absolute, and its folder: here (sent), in its repository, or there."""

    spec: JobSpec
    project_dir: Path | None = None
    workdir: str | None = None


def placed(spec: JobSpec, project_dir: str | Path | None, workdir: str | None, where: Sequence[Path]) -> Place:
    """Arguments are stronger than the spec's fields: one takes the place of the other's kind, too. SpecError."""
    if workdir:
        return Place(spec=replace(spec, project_dir=None, repo=None), workdir=workdir)
    if project_dir:
        spec = replace(spec, workdir=None)
    wanted = project_dir or spec.project_dir
    if spec.repo:
        inside = PurePosixPath(str(wanted or "."))
        fault = "" if str(inside) == "." else path_fault(str(inside))
        if fault:
            hint = f"With repo ({spec.given.get('repo', 'job_spec')}) it is a folder in that repository."
            raise SpecError([Problem("project_dir", "", f"{str(inside)!r} {fault}.", hint)])
        return Place(spec=replace(spec, repo=_address(spec, where)), project_dir=Path(inside))
    return Place(spec=spec, project_dir=project(wanted, where, SpecError), workdir=spec.workdir)


def _address(spec: JobSpec, where: Sequence[Path]) -> str:
    """The repository's address; that of a folder here is its absolute path."""
    assert spec.repo is not None
    if "://" in spec.repo or re.match(r"[^/]+:", spec.repo):
        return spec.repo
    place = spec.given.get("repo", "repo")
    return str(files.find(spec.repo, where, argument=place, error=SpecError, folder=True).absolute())


def project(given: str | Path | None, where: Sequence[Path], error: type[InputError]) -> Path | None:
    """The folder of a project."""
    return files.find(given, where, argument="project_dir", error=error, folder=True) if given else None


def origin_of(folder: Path | None, dag_bundle: Mapping[str, str]) -> dict[str, Any]:
    """What is known of a folder in the DAG's bundle: such a bundle is a commit, of which no .git may be left."""
    if folder is None or not dag_bundle:
        return {}
    if not folder.resolve().is_relative_to(Path(dag_bundle["path"]).resolve()):
        return {}
    version, url = dag_bundle["version"], dag_bundle.get("url", "")
    about = {"commit": version, "branch": "", "message": "", "dirty": False}
    return {**about, "url": forges.without_secrets(url), "link": forges.page(url, version)}


def about(dag_bundle: Mapping[str, str], user: str = "") -> dict[str, Any]:
    """For a job's record. `user`: whose job it is, by default this process' account."""
    known = {"user": user or getpass.getuser()}
    if not dag_bundle:
        return known
    return {**known, "dag_bundle": {"name": dag_bundle["name"], "version": dag_bundle["version"]}}
