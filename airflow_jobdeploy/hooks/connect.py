"""Worker -> backend: the clients are made from Airflow connections, anew at each connect.

Keys, passwords, host key checks and ProxyCommand are the ssh provider's: its SSHHook reads the
connection. Only a ProxyJump of ~/.ssh/config, which that hook leaves aside, is turned into the
ProxyCommand that OpenSSH itself would run.
"""

from __future__ import annotations

import os
import pwd
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_jobdeploy.backends import prompt, proxy
from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.backends.channel import Client, LocalClient, ParamikoClient
from airflow_jobdeploy.backends.hosted import HostedBackend
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.errors import JobDeployError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.hooks import runtime

if TYPE_CHECKING:
    import paramiko

#: Seconds for a TCP connect and for the authentication, where the connection does not say otherwise.
CONNECT_TIMEOUT_S = 10
#: Not offered at first: with AES-GCM, which every OpenSSH since 6.2 (2013) has, paramiko moves 1.5 times the bytes.
_SLOW_CIPHERS = [f"{name}-{mode}" for mode in ("ctr", "cbc") for name in ("aes128", "aes192", "aes256")] + ["3des-cbc"]


def backend(pool: WorkerPool, worker: Worker) -> Backend:
    """A backend of a worker; it connects when it is first asked something."""
    if pool.kind in _OTHERS:
        return _OTHERS[pool.kind](pool, worker)
    return HostedBackend(
        worker=worker.name,
        kind=pool.kind,
        connect=_CLIENTS[pool.kind](worker),
        root=pool.root,
        path=pool.login_path,
        cache_limit_bytes=pool.cache_limit_bytes,
    )


def _local(worker: Worker) -> Callable[[], Client]:
    return lambda: LocalClient(worker.name)


def _ssh(worker: Worker) -> Callable[[], Client]:
    def connect() -> Client:
        return ParamikoClient(lambda: _open(worker), name=worker.name)

    return connect


def _docker(pool: WorkerPool, worker: Worker) -> Backend:
    from airflow_jobdeploy.hooks import engines

    return engines.backend(pool, worker)


_OTHERS: dict[str, Callable[[WorkerPool, Worker], Backend]] = {"docker": _docker}
_CLIENTS: dict[str, Callable[[Worker], Callable[[], Client]]] = {"local": _local, "ssh": _ssh}


def _open(worker: Worker) -> paramiko.SSHClient:
    """A connected client. The connection is read anew: it may have been changed since."""
    import paramiko

    hook = ssh_hook(worker)
    if not (hook.disabled_algorithms or hook.ciphers):  # else whoever made the connection has chosen
        hook.disabled_algorithms = {"ciphers": _SLOW_CIPHERS}
        try:
            return _connected(hook)
        except paramiko.ssh_exception.IncompatiblePeer:
            hook.disabled_algorithms = None
    return _connected(hook)


def _connected(hook: Any) -> paramiko.SSHClient:
    if hook.host_proxy_cmd:
        with proxy.through(hook.host_proxy_cmd) as stream:
            hook.host_proxy = stream  # in place of paramiko's ProxyCommand
            return hook.get_conn()
    hook.host_proxy = prompt.connect(hook.remote_host, int(hook.port), hook.conn_timeout)
    try:
        return hook.get_conn()
    except BaseException:
        hook.host_proxy.close()
        raise


def ssh_hook(worker: Worker) -> Any:
    """The ssh provider's hook for a worker. WorkerUnreachable says what the hook finds wrong with the connection."""
    from airflow.providers.ssh.hooks.ssh import SSHHook
    from airflow.sdk.exceptions import AirflowException

    try:
        with runtime.lookup():
            # One attempt: ParamikoClient tries again where that helps, and lets others connect meanwhile.
            hook = SSHHook(ssh_conn_id=worker.conn_id, remote_host=worker.host or "", conn_retry_attempts=1)
    except (AirflowException, ValueError) as error:
        raise WorkerUnreachable(
            f"worker {worker.name}: connection {worker.conn_id!r} cannot be used: {error}. "
            "Correct it under Admin, Connections; its type is ssh",
            lasting=True,
        ) from error
    hook.compress = False  # costs more time than the bytes it saves
    hook.conn_timeout = hook.conn_timeout or CONNECT_TIMEOUT_S
    hook.auth_timeout = hook.auth_timeout or CONNECT_TIMEOUT_S
    if not hook.host_proxy_cmd:
        hook.host_proxy_cmd = proxy_command(hook.remote_host, int(hook.port or 22))
    return hook


def proxy_command(host: str, port: int, config: Path | None = None) -> str | None:
    """The command that goes through the ProxyJump of ~/.ssh/config, or None when it names none for this host."""
    config = config or Path("~/.ssh/config").expanduser()  # where the hook looks: in $HOME
    if not config.is_file():
        return None
    import paramiko

    jumps = paramiko.SSHConfig.from_path(str(config)).lookup(host).get("proxyjump", "none")
    if jumps == "none":
        return None
    *before, last = [jump.strip().removeprefix("ssh://") for jump in jumps.split(",")]
    through = ["-J", ",".join(before)] if before else []
    last, _, jump_port = last.partition(":")
    at_port = ["-p", jump_port] if jump_port else []
    # ssh itself looks in the home of the account, whatever $HOME says.
    reads_it = config == Path(pwd.getpwuid(os.getuid()).pw_dir, ".ssh", "config")
    which = [] if reads_it else ["-F", str(config)]
    return shlex.join(["ssh", *which, "-o", "BatchMode=yes", "-W", f"{host}:{port}", *through, *at_port, last])


def endpoint(pool_name: str, worker_name: str) -> tuple[object, ...]:
    """What tells one worker from another, whatever pools and connections call it: account, host, port, root.

    Two names of one endpoint share a watcher. A worker whose connection cannot be read is its name.
    """
    from airflow_jobdeploy.hooks.pools import worker_pool

    try:
        pool = worker_pool(pool_name)
        worker = next(worker for worker in pool.workers if worker.name == worker_name)
        if pool.kind == "local":
            return ("local", pool.root)
        if pool.kind in _OTHERS:
            return (pool.kind, worker.url)
        hook = ssh_hook(worker)
    except (JobDeployError, StopIteration):
        return (pool_name, worker_name)
    return (pool.kind, hook.username, hook.remote_host, int(hook.port or 22), pool.root, pool.login_path)


def reconnecting(pool_name: str, worker_name: str) -> Callable[[], Backend]:
    """`connect` for a watcher that lives longer than any task: the pool is read anew each time.

    A pool that is gone or broken meanwhile says nothing about its jobs: it counts as unreachable.
    """

    def connect() -> Backend:
        from airflow_jobdeploy.hooks.pools import worker_pool

        try:
            pool = worker_pool(pool_name)
        except WorkerError:
            raise
        except JobDeployError as error:
            raise WorkerUnreachable(f"worker pool {pool_name!r} cannot be read: {error}") from error
        for worker in pool.workers:
            if worker.name == worker_name:
                return backend(pool, worker)
        raise WorkerUnreachable(f"worker {worker_name!r} is no longer in pool {pool_name!r}; was it renamed?")

    return connect
