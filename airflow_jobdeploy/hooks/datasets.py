"""Datasets of job specs: a file or folder here, or an object storage by its URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.core.volumes import SCHEME
from airflow_jobdeploy.errors import SpecError
from airflow_jobdeploy.hooks import files
from airflow_jobdeploy.hooks.destinations import opened
from airflow_jobdeploy.packing import dataset
from airflow_jobdeploy.packing.dataset import Dataset
from airflow_jobdeploy.service.pace import Pace


def dataset_of(
    spec: JobSpec, where: Sequence[Path], say: Callable[[str], None] = lambda line: None
) -> Callable[[], Dataset] | None:
    """Lists the dataset of `spec` when called; None: there is none to be sent (it may lie in the pool's storage).

    A relative path is looked for in the folders of `where`. `say`: told now and then how far the reading of files is,
    whose content gives the dataset its name. SpecError when nothing is there.
    """
    location = spec.dataset_location
    if not location or location.startswith(SCHEME):
        return None
    scheme, separator, _ = location.partition("://")
    scheme = scheme.lower()
    if not separator:
        return partial(_here, _found(spec, location, where), say)
    if scheme in ("file", "local"):
        return partial(_here, _found(spec, unquote(urlsplit(location).path), where), say)
    return partial(_stored, location, scheme)


def _here(path: Path, say: Callable[[str], None]) -> Dataset:
    return dataset.here(path, Pace(lambda line: say(f"Reading the dataset {path}: {line}.")))


def _found(spec: JobSpec, location: str, where: Sequence[Path]) -> Path:
    place = spec.given.get("dataset_location", "dataset_location")
    return files.find(location, where, argument=place, error=SpecError, folder=None)


def _stored(url: str, scheme: str) -> Dataset:
    """Objects below a URL, with the connection that it names. JobDeployError."""
    fs, path = opened(url, scheme)
    fs.invalidate_cache()  # a long-lived process would see what was there when it last looked
    return dataset.elsewhere(fs, path, url)
