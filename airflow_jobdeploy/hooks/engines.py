"""Clients of Docker engines, by way of the docker provider's hook; logins of registries from Airflow connections.

In that provider a connection's host is a registry: the engine's URL and TLS come from the pool.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.api import Http
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.containers import image_of
from airflow_jobdeploy.core.engine_gpus import declared_gpus
from airflow_jobdeploy.core.engines import Containers, Tls
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.errors import JobDeployError, StagingError, WorkerUnreachable
from airflow_jobdeploy.hooks.advice import unreachable
from airflow_jobdeploy.hooks.references import get_connection

#: Seconds for the first answer; later requests bring their own.
_FIRST_ANSWER_S = 10
#: How docker.io is called where a login for it is kept.
_DOCKER_HUB = ("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com")
_HUB_ADDRESS = "https://index.docker.io/v1/"


def backend(pool: WorkerPool, worker: Worker) -> DockerBackend:
    """A backend of an engine; it connects when it is first asked something."""
    shut_in = pool.containers or Containers()
    security = Security(
        user=shut_in.user or "",
        read_only=shut_in.read_only,
        cap_drop=shut_in.cap_drop,
        cap_add=shut_in.cap_add,
        no_new_privileges=shut_in.no_new_privileges,
        devices=worker.devices,
    )
    settings = Settings(
        image=image_of(pool.image or "", pool),
        security=security,
        auth=_login(worker),
        cache_limit_bytes=pool.cache_limit_bytes,
        gpus=declared_gpus(worker),
    )
    return DockerBackend(
        worker=worker.name,
        connect=lambda: client(worker),
        settings=settings,
        reachable_from_anywhere=not (worker.url or "").startswith("unix:"),
    )


def client(worker: Worker) -> Http:
    """A connected client of the docker SDK. WorkerUnreachable says what is in the way."""
    from airflow.sdk.exceptions import AirflowException

    try:
        from docker.errors import DockerException
    except ImportError as error:
        text = f"{worker.name} is a Docker engine: install airflow-provider-jobdeploy[docker] here ({error})"
        raise WorkerUnreachable(text, lasting=True) from error
    try:
        made: Http = _hook(worker).api_client
    except DockerException as error:
        raise unreachable(worker, error, lasting="tls" in type(error).__name__.lower()) from error
    except (AirflowException, ValueError) as error:
        raise unreachable(worker, error, lasting=True) from error
    except Exception as error:
        if type(error).__module__.partition(".")[0] in ("paramiko", "requests", "urllib3") or isinstance(
            error, OSError
        ):
            raise unreachable(worker, error) from error
        raise
    return made


def _hook(worker: Worker) -> Any:
    """The docker provider's hook, with a client that only we tell whom to trust."""
    import docker
    from airflow.providers.docker.hooks.docker import DockerHook
    from docker.errors import DockerException

    class Client(docker.APIClient):
        #: Else `requests` lets REQUESTS_CA_BUNDLE and proxies of the environment go over what the pool says.
        trust_env = property(lambda self: False, lambda self, value: None)

        def _retrieve_server_version(self: Any) -> str:
            """By a sign of life: asked for its version in full, an engine runs programs to find out theirs."""
            try:
                told = self._get(self._url("/_ping", versioned_api=False)).headers.get("Api-Version")
            except Exception as error:  # as the SDK's own does
                raise DockerException(str(error)) from error
            version = told or self.version(api_version=False).get("ApiVersion")
            if not version:
                raise DockerException(f"what {worker.url} answers has no Api-Version")
            return str(version)

    class EngineHook(DockerHook):
        """Its `api_client` asks an engine that may be away once, and says why."""

        @cached_property
        def api_client(self) -> Any:
            return Client(base_url=worker.url, tls=_tls(worker.tls), version="auto", timeout=_FIRST_ANSWER_S)

    return EngineHook(docker_conn_id=None, base_url=worker.url)


def _tls(tls: Tls | None) -> Any:
    from docker.tls import TLSConfig

    if tls is None:
        return False
    files = {name: getattr(tls, name) for name in ("ca_cert", "client_cert", "client_key")}
    for name, path in files.items():
        if path and not os.access(path, os.R_OK):
            raise ValueError(f"tls.{name}: there is no file {path} on this machine that this account may read")
    ours = (tls.client_cert, tls.client_key) if tls.client_cert and tls.client_key else None
    return TLSConfig(client_cert=ours, ca_cert=tls.ca_cert, verify=tls.verify)


def _login(worker: Worker) -> Callable[[str | None], Mapping[str, Any] | None]:
    """Image name (None: any) -> the login of its registry, of those that the worker's connection holds."""
    if not worker.registry:
        return lambda image: None
    conn_id = worker.registry

    def login(image: str | None) -> Mapping[str, Any] | None:
        try:
            connection = get_connection(conn_id, f"registry of worker {worker.name}")
        except JobDeployError as error:
            raise StagingError(str(error)) from error
        address = str(connection.host or "").removeprefix("https://").removeprefix("http://").split("/")[0]
        registry = f"{address}:{connection.port}" if connection.port else address
        if image is not None and not _is_of(image, registry):
            return None
        server = _HUB_ADDRESS if registry in _DOCKER_HUB else registry
        return {"username": connection.login, "password": connection.password, "serveraddress": server}

    return login


def _is_of(image: str, registry: str) -> bool:
    named = registry_of(image)
    return registry == named or (registry in _DOCKER_HUB and named in _DOCKER_HUB)


def registry_of(image: str) -> str:
    """The registry in an image's name; docker.io where it names none."""
    first, slash, _ = image.partition("/")
    return first if slash and (any(sign in first for sign in ".:") or first == "localhost") else "docker.io"
