"""Where artifacts go: a folder on this machine, or any place that Airflow's ObjectStoragePath knows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from airflow_jobdeploy.errors import StagingError
from airflow_jobdeploy.packing.artifacts import Target
from airflow_jobdeploy.packing.folder import Folder
from airflow_jobdeploy.packing.objects import ObjectFolder

_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
_LOCAL = ("file", "local")


def below(dest: str, name: str) -> str:
    """A folder, or prefix, in it."""
    return f"{dest.rstrip('/')}/{name}"


def target(dest: str) -> Target:
    """The place that `dest` names: a path, `file:///path`, `s3://connection@bucket/prefix`, ...

    JobDeployError when Airflow knows no such kind of storage, or its connection cannot be used.
    """
    if not _URL.match(dest):
        return Folder(Path(dest))
    scheme = dest.partition("://")[0].lower()
    if scheme in _LOCAL:
        return Folder(Path(unquote(urlsplit(dest).path)))
    fs, path = opened(dest, scheme)
    return ObjectFolder(fs, path, dest)


def opened(dest: str, scheme: str) -> tuple[Any, str]:
    """The filesystem of fsspec for a URL, with the connection that it names, and the path there. JobDeployError."""
    from airflow.sdk import ObjectStoragePath

    from airflow_jobdeploy.hooks import runtime
    from airflow_jobdeploy.hooks.references import get_connection

    conn_id = urlsplit(dest).netloc.rpartition("@")[0]
    if conn_id:  # the providers' filesystems take a missing one for none, and what they find for credentials
        get_connection(conn_id, dest)
    try:
        with runtime.lookup():
            place = ObjectStoragePath(dest)
            return place.fs, str(place.path)
    except Exception as error:
        raise StagingError(f"cannot use {dest}: {_why(error, scheme)}") from error


def _why(error: Exception, scheme: str) -> str:
    said = str(error).strip() or type(error).__name__
    if "No filesystem registered" in said or isinstance(error, ImportError):
        return (
            f"{said}. Airflow learns {scheme}:// from a provider (s3: apache-airflow-providers-amazon[s3fs], gs:"
            " apache-airflow-providers-google, abfs: apache-airflow-providers-microsoft-azure)"
        )
    return said
