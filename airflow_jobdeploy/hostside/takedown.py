"""What a `down` or `purge` does beside its script: ends what lives of the `up` job, closes the resource's record."""

from __future__ import annotations

import os
import signal
from typing import Callable, List, Optional

from airflow_jobdeploy.hostside import files, process, recover, resources
from airflow_jobdeploy.hostside.files import Damaged
from airflow_jobdeploy.hostside.jobdir import Job, NewerLayout, retire
from airflow_jobdeploy.hostside.layout import HostPaths

ENDS = ("down", "purge")


def nothing_to_do(host: HostPaths, plan: dict) -> str:
    """Why this `down` or `purge` has nothing to do, as a sentence; "" when it has, or is another build."""
    resource, build = plan.get("resource_id"), plan.get("build")
    if not resource or build not in ENDS:
        return ""
    record = resources.record(host, resource)
    if record is None:
        return (
            "Nothing to do: this worker knows no resource %s (its up never claimed anything, or it was purged)"
            % resource
        )
    if build == "down" and record.get("stopped"):
        return "Nothing to do: resource %s was taken down before" % resource
    return ""


def up_jobs(host: HostPaths, resource: str) -> List[Job]:
    """The `up` attempts of a resource that have not ended."""
    record = resources.record(host, resource) or {}
    jobs = [Job(host, name) for name in record.get("jobs", [])]
    return [job for job in jobs if job.exists and not job.has_ended]


def announce(host: HostPaths, resource: str, by: str) -> None:
    """Before the script: an `up` that ends because of it was taken down, it did not succeed."""
    for job in up_jobs(host, resource):
        try:
            files.write_json(job.paths.takedown, {"job": by})
        except OSError:  # a full disk: then the up's own evidence decides
            return


def withdraw(host: HostPaths, resource: str) -> None:
    """The script has failed: the `up` goes on as before."""
    for job in up_jobs(host, resource):
        files.forget_file(job.paths.takedown)


def announced_by(job: Job) -> Optional[str]:
    """The job that is taking this `up` down now, or has."""
    try:
        by = (files.read_json(job.paths.takedown) or {}).get("job")
        if not by:
            return None
        other = Job(job.host, by)
        ended = other.exit()
        if ended is not None:
            return by if ended["status"] == "SUCCEEDED" else None
        return by if recover.is_supervised(other, other.state()) else None
    except (Damaged, NewerLayout):
        return None


def take_down(host: HostPaths, resource: str, wait: Callable[[float], None]) -> None:
    """After the script: end the `up` jobs; returns when they have ended, their processes gone."""
    order = {"reason": "taken down", "by": "down"}
    for job in up_jobs(host, resource):
        send_order(job, order)
        while not job.has_ended:
            wait(0.05)
            if not recover.is_supervised(job, job.state()) and not recover.end_unstarted(job, recover.cancelled(order)):
                recover.recover(job)


def close(host: HostPaths, plan: dict) -> None:
    """The build has succeeded: note it, or remove what is left of the resource."""
    if plan["build"] == "purge":
        retire(host, host.resource(plan["resource_id"]).dir)
    else:
        resources.mark_stopped(host, plan["resource_id"])


def send_preempt(job: Job, order: dict) -> None:
    """Leave an order to make room with a job, and wake its supervisor. OSError where it cannot be left."""
    files.write_json(job.paths.preempt, order)
    _wake(job)


def send_order(job: Job, order: dict) -> None:
    """Leave an order to stop with a job, and wake its supervisor. OSError only when neither was possible."""
    trouble: Optional[OSError] = None
    try:
        files.write_json(job.paths.stop, order)
    except OSError as error:  # a full disk: SIGTERM alone means stop, too
        trouble = error
    if not _wake(job) and trouble is not None:
        raise trouble


def _wake(job: Job) -> bool:
    """SIGTERM to the supervisor, if it lives."""
    state = job.state()
    pid = state.get("pid")
    if pid is not None and process.is_alive(pid, state.get("pid_start")):
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # somebody may have stopped it
        return True
    return False
