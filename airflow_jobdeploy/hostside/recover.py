"""A job whose supervisor is gone: under its lock, sweep what it left and write down how it ended, from evidence."""

from __future__ import annotations

import os
from typing import Any, Dict, Optional

from airflow_jobdeploy.hostside import evidence, identity, logs, process
from airflow_jobdeploy.hostside.files import Damaged, Lock, is_locked, read_json
from airflow_jobdeploy.hostside.finish import finish
from airflow_jobdeploy.hostside.jobdir import Job, age_s
from airflow_jobdeploy.hostside.tree import Tree
from airflow_jobdeploy.hostside.verdict import preempted_facts


def is_supervised(job: Job, state: dict) -> bool:
    """Does a supervisor live? Its lock tells; where the filesystem has none, its pid and start time."""
    held = is_locked(job.paths.lock)
    if held is not None and held:
        return True
    # Also with locks: a filesystem may grant one twice (NFS without a lock daemon).
    return state.get("boot") == identity.boot() and process.is_alive(state.get("pid"), state.get("pid_start"))


def recover(job: Job) -> None:
    """Bring a job to its end whose supervisor has died; nothing when it lives, has ended, or never started."""
    lock = job.lock()
    if not lock.take():
        return
    try:
        if job.has_ended:
            return
        state = job.state()
        if state.get("pid") is None or _lives(state):
            return
        swept = Tree(job.id, None).kill()
        if state.get("groups"):
            from airflow_jobdeploy.hostside import cage  # few jobs have some

            if cage.are_groups(state["groups"], job.id):
                cage.remove(state["groups"])
        outcome = state.get("outcome") or _lost(job, state)
        outcome["facts"] = {**(outcome.get("facts") or {}), **({"swept": swept} if swept else {})}
        finish(job, state, outcome)
    finally:
        lock.release()


def _lives(state: dict) -> bool:
    return state.get("boot") == identity.boot() and process.is_alive(state.get("pid"), state.get("pid_start"))


def _lost(job: Job, state: dict) -> Dict[str, Any]:
    rebooted = state.get("boot") != identity.boot()
    order = _read_order(job.paths.stop)
    if order is not None and not rebooted:  # the sweep has carried it out
        return {**cancelled(order), "running_s": _running_s(job, state, rebooted), "step": state.get("step", "")}
    preempt = _read_order(job.paths.preempt)
    if preempt is not None and not rebooted:
        return {**suspended(preempt), "running_s": _running_s(job, state, rebooted), "step": state.get("step", "")}
    facts: Dict[str, Any] = {"last_lines": logs.last_lines(logs.tail(job.paths)), "swept": 0}
    complaint = _complaint(job)
    if complaint and not rebooted:
        facts["hint"] = "supervisor.log ends with: " + complaint
    disk = evidence.full_disk([job.paths.dir])
    return {
        "status": "FAILED",
        "reason": "WorkerLost" if rebooted else "ProcessLost",
        "step": state.get("step", ""),
        "facts": {**facts, **disk},
        "running_s": _running_s(job, state, rebooted),
        "usage": {},
    }


def _read_order(path: str) -> Optional[dict]:
    try:
        return read_json(path)
    except Damaged:
        return {}


def _running_s(job: Job, state: dict, rebooted: bool) -> Optional[float]:
    started = state.get("started")
    if started is None:
        return None
    if not rebooted:
        return age_s(started)
    # The last sign of life before the reboot.
    seen = [os.stat(path).st_mtime for path in (job.paths.log, job.paths.state) if os.path.exists(path)]
    return max(0.0, max(seen, default=started[1]) - started[1])


def _complaint(job: Job) -> str:
    try:
        with open(job.paths.supervisor_log, "rb") as file:
            lines = logs.last_lines(file.read()[-4096:]).splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def end_unstarted(job: Job, outcome: Dict[str, Any], wait_s: float = 0.0) -> bool:
    """Write the end of a job that never started; False when it has, or is just being started."""
    lock: Lock = job.lock()
    if not lock.take(wait_s):
        return False
    try:
        if job.has_ended:
            return True
        state = job.state()
        if state.get("pid") is not None:
            return False
        finish(job, state, outcome)
        return True
    finally:
        lock.release()


def suspended(order: dict) -> Dict[str, Any]:
    """The outcome of an order to make room, where no supervisor saw it through."""
    kept = {key: value for key, value in preempted_facts(order).items() if value not in (None, "")}
    return {"status": "SUSPENDED", "reason": "Preempted", "facts": kept, "step": "", "usage": {}}


def cancelled(order: dict) -> Dict[str, Any]:
    """The outcome of an order to stop what has not started."""
    facts = {"stopped_by": order.get("by"), "stop_reason": order.get("reason")}
    kept = {key: value for key, value in facts.items() if value}
    return {"status": "CANCELLED", "reason": "Cancelled", "facts": kept, "step": "", "usage": {}}
