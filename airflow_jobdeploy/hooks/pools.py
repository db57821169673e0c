"""The name of a worker pool -> the pool: `local`, a connection of type jobdeploy, ssh or docker."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from airflow_jobdeploy.core.engines import SCHEMES
from airflow_jobdeploy.core.pool import WorkerPool, load_pool
from airflow_jobdeploy.errors import JobDeployError, PoolError, Problem, nearest
from airflow_jobdeploy.hooks import files
from airflow_jobdeploy.hooks.references import get_connection, where_to_add

LOCAL = "local"
_WAYS = (
    "A worker pool is `local` (this machine), the id of a connection of type `jobdeploy` (a pool), "
    "of type `ssh` (a pool of that one host), or of type `docker` whose host is an engine's URL (unix://, tcp://, ssh://)."
)
_LIKE = '{"conn_type": "jobdeploy", "extra": {"pool_file": "/a/pool.yaml"}}'


def worker_pool(name: str, *, known: Callable[[], Iterable[str]] = tuple) -> WorkerPool:
    """The pool of this name, read anew from its connection. PoolError says what is wrong with it.

    `known`: the names of pools, asked for where there is none of this name.
    """
    if name == LOCAL:
        return WorkerPool.local()
    try:
        connection = get_connection(name, f"worker pool {name!r}")
    except JobDeployError:
        hint = f"{nearest(name, known())} {_WAYS} {_capital(where_to_add(name, _LIKE))}."
        raise _wrong(name, f"there is no Airflow connection {name!r}.", hint) from None
    makers = {"jobdeploy": _described, "ssh": _single_host, "docker": _single_engine}
    maker = makers.get(connection.conn_type)
    if maker is None:
        raise _wrong(name, f"connection {name!r} is of type {connection.conn_type!r}.", _WAYS)
    return maker(name, connection)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _wrong(name: str, message: str, hint: str) -> PoolError:
    return PoolError([Problem(f"worker pool {name!r}", "", message, hint)])


def _single_host(name: str, connection: Any) -> WorkerPool:
    return WorkerPool.of_connection(name)


#: Of a docker connection's extra: what a worker, and what a pool, may be told.
_OF_WORKER = ("tls", "registry", "slots", "gpu_types", "devices")
_OF_POOL = ("image", "images", "containers", "presets", "cache_limit", "storage")


def _single_engine(name: str, connection: Any) -> WorkerPool:
    """A pool of one: in the docker provider a connection's host is a registry, here it must be the URL of an engine."""
    host = str(connection.host or "")
    scheme = host.partition("://")[0]
    if scheme not in SCHEMES:
        raise _wrong(
            name,
            f"the host of docker connection {name!r} is {host!r}: a registry, not an engine.",
            "Name it as `registry` of a worker, and give the pool an engine: a connection of type `jobdeploy` with "
            'kind: docker, workers: [{url: "unix:///var/run/docker.sock", registry: ' + name + "}].",
        )
    url = f"{host}:{connection.port}" if connection.port and scheme != "unix" else host
    extra = connection.extra_dejson if isinstance(connection.extra_dejson, Mapping) else {}
    worker = {"url": url, **{key: extra[key] for key in _OF_WORKER if key in extra}}
    pool = load_pool(
        {"kind": "docker", "workers": [worker], **{key: extra[key] for key in _OF_POOL if key in extra}}, name=name
    )
    return replace(pool, workers=(replace(pool.workers[0], name=name),))


def _described(name: str, connection: Any) -> WorkerPool:
    """From the connection's extra; fields that the form left empty count as not given."""
    extra = connection.extra_dejson
    if not isinstance(extra, Mapping):
        raise _wrong(name, "the connection's extra is no JSON object.", _WAYS)
    given = {key: value for key, value in extra.items() if value not in (None, "", [], {})}
    pool_file = given.pop("pool_file", None)
    if not pool_file:
        return load_pool(given, name=name)
    others = sorted(set(given) - {"kind"})  # the form always sends a kind
    if others:
        raise _wrong(name, f"pool_file and {', '.join(others)} are given.", "Give one of them: the file says it all.")
    path = files.find(pool_file, files.folders(), argument=f"worker pool {name!r}: pool_file", error=PoolError)
    return load_pool(path, name=name)
