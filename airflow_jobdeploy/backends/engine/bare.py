"""Containers of images without a shell: the command itself is process 1, and nothing of ours runs beside it.

The engine tells whether it runs and how it has ended. Orders and limits are carried through by whoever looks at the job
next (enforcing.py), and noted in the report with their time: what was ordered after the end has not caused it. What
wants a program of ours inside is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.hostside import verdict
from airflow_jobdeploy.hostside.verdict import Evidence

#: A file of the report: the container has no process of ours.
MARK = "bare"
#: What may have ended it, each as <name>.json in the report.
ORDERS = ("stop", "preempt", "limit", "orphan")


def is_told(said: str) -> bool:
    """Does an engine say that an image has no shell, when it was to start a container?"""
    return "/bin/sh" in said and ("no such file" in said or "not found" in said)


def obstacles(plan: Mapping[str, Any], command: list[str]) -> list[str]:
    """What of a plan wants a shell in its image, in words; `command`: the image's own."""
    steps = plan.get("steps") or []
    found = []
    if plan.get("resource_id") or len(steps) != 1 or steps[0].get("kind") != "argv":
        found.append("all but the image's own command, or one of words (`args` alone)")
    elif not (steps[0].get("args") or command):
        found.append("a job without a command whose image has none, either")
    if plan.get("bundle") or plan.get("ships_project"):
        found.append("a project")
    if plan.get("secret_names"):
        found.append("secret_env")
    if (plan.get("limits") or {}).get("log_limit_bytes"):
        found.append("log_limit")
    return found


def container(body: Mapping[str, Any], plan: Mapping[str, Any]) -> dict[str, Any]:
    """From the container that a job gets in an image with a shell to the one without."""
    [step] = plan["steps"]
    env = [f"{name}={value}" for name, value in (step.get("env") or {}).items()]
    return {
        **body,
        "Entrypoint": list(step.get("args") or body["Cmd"]),
        "Cmd": [],
        "Env": [*body["Env"], *env],
        "WorkingDir": plan.get("workdir") or names.WORK,
        "Labels": {**body["Labels"], names.STAGE: names.BARE},
    }


def evidence(
    plan: Mapping[str, Any],
    exit_code: int,
    orders: Mapping[str, Mapping[str, Any]],
    ended: float | None,
    memory: Mapping[str, Any] | None,
    facts: Mapping[str, Any],
) -> Evidence:
    """How it ended. `orders`: by their names; `ended`: when, by the engine's clock; `memory`: the kernel killed."""
    step = (plan.get("steps") or [{}])[0]
    cause = _cause(orders, ended)
    order = dict(orders[cause]) if cause else {}
    is_ok = verdict.is_ok(exit_code, step) or exit_code - 128 in (step.get("ok_signals") or ())
    known = dict(facts)
    if exit_code > 128 and not is_ok and not cause:
        name = verdict.signal_name(exit_code - 128)
        known["hint"] = f"{exit_code} is 128 + {exit_code - 128}: {name} ended the command"
    return Evidence(
        status=exit_code,
        is_ok=is_ok,
        step=str(step.get("name", "")),
        stop=order if cause == "stop" else None,
        preempt=order if cause == "preempt" else None,
        limit={key: order[key] for key in ("limit", "limit_s")} if cause == "limit" else None,
        orphan={"orphaned_s": order.get("orphaned_s")} if cause == "orphan" else None,
        memory=dict(memory) if memory else None,
        facts=known,
    )


def _cause(orders: Mapping[str, Mapping[str, Any]], ended: float | None) -> str:
    """The first order that was given before the end; "": none."""
    times = {name: float(order.get("at") or 0.0) for name, order in orders.items()}
    given = [name for name in times if ended is None or times[name] <= ended]
    return min(given, key=lambda name: times[name]) if given else ""
