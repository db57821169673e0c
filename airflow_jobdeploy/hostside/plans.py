"""Plans as they come from a client, and as they are shown to one."""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy.hostside import files, jobdir, layout
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.protocol import OpError


def check(plan: Any) -> None:
    """OpError unless a client's plan is one that we can keep."""
    if not isinstance(plan, dict):
        raise OpError("bad-request", "the plan is not an object")
    if not isinstance(plan.get("layout"), int) or plan["layout"] > layout.LAYOUT:
        raise OpError(
            "newer-layout", "the plan has layout %r, this runner knows up to %d" % (plan.get("layout"), layout.LAYOUT)
        )
    layout.checked_name(plan["uid"])
    if plan.get("job_id") != layout.job_id(plan["uid"], plan["attempt"]):
        raise OpError("bad-request", "job id %r does not follow from uid and attempt" % plan.get("job_id"))
    for key, value in (plan.get("limits") or {}).items():
        if key.endswith(("_s", "_bytes")) and not isinstance(value, (int, float, type(None))):
            raise OpError("bad-request", "limits.%s is %r, expected a number or null" % (key, value))
    if plan.get("resource_id"):
        layout.checked_name(plan["resource_id"])
    if plan.get("resource") and plan["resource"]["id"] != plan.get("resource_id"):
        raise OpError("bad-request", "the resource's id %r is not the plan's" % plan["resource"]["id"])


def shown(job: Job) -> dict:
    """The plan without the text of its builds: it may be long, and hold what a template's secrets became."""
    try:
        plan = dict(job.plan())
        owner = files.read_json(job.paths.owner) or {}
    except (files.Damaged, jobdir.NewerLayout):
        return {}
    plan["steps"] = [{**step, "content": ""} for step in plan.get("steps", ())]
    if plan.get("resource"):
        plan["resource"] = {**plan["resource"], "builds": {}}
    plan["owner"] = owner.get("owner", plan.get("owner", "none"))
    return plan
