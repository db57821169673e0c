"""The operators of the ssh and docker providers, run as Airflow runs them but without its processes around."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from airflow.providers.ssh.operators.ssh import SSHOperator
from airflow.providers.ssh.operators.ssh_remote_job import SSHRemoteJobOperator
from airflow.sdk.exceptions import TaskDeferred

from benchmarks.lab import CONN, execute


def remote_job(command: str, **options: Any) -> SSHRemoteJobOperator:
    """At its quickest: it need not find out the system, polls every second, leaves its files."""
    quick: dict[str, Any] = {"task_id": "t", "poll_interval": 1, "remote_os": "posix", "cleanup": "never"}
    quick["remote_base_dir"] = os.environ["AIRFLOW_HOME"] + "/ssh-jobs"  # gone with the lab
    return SSHRemoteJobOperator(ssh_conn_id=CONN, command=command, **{**quick, **options})


def ssh(command: str) -> SSHOperator:
    """Without its default limit of 10 s for a command."""
    return SSHOperator(task_id="t", ssh_conn_id=CONN, command=command, cmd_timeout=None)


def docker(url: str, command: str) -> Any:
    """At its quickest: nothing mounted, and the engine's own network, which this one has at once."""
    from airflow.providers.docker.operators.docker import DockerOperator

    from tests.servers.dockerd import IMAGE

    options: dict[str, Any] = {"mount_tmp_dir": False, "auto_remove": "force"}
    return DockerOperator(task_id="t", docker_url=url, image=IMAGE, command=command, **options)


def run_deferred(operator: SSHRemoteJobOperator, context: Any) -> None:
    """execute, its own trigger up to the event, execute_complete."""
    try:
        execute(operator, context)
    except TaskDeferred as deferred:
        event = asyncio.run(_first(deferred.trigger))
        operator.execute_complete(context, event.payload)
    else:
        raise AssertionError("it did not defer")


async def _first(trigger: Any) -> Any:
    async for event in trigger.run():
        return event
    raise AssertionError("the trigger ended without an event")
