"""The name of this Airflow in the records of its jobs."""

from __future__ import annotations

import time
import uuid

from airflow_jobdeploy.errors import JobDeployError
from airflow_jobdeploy.hooks import runtime, settings

VARIABLE = "jobdeploy_deployment"

#: Airflow's Variables know no compare-and-set: whoever wrote waits so long and takes what then stands there.
_SETTLE_S = 1.0


def deployment_id(team: str = "") -> str:
    """`[jobdeploy] deployment`, else the Variable jobdeploy_deployment, which is made when it is missing.

    `team`: of the task that asks, in an Airflow of several. What such a task writes is seen by its team alone, and
    overwritten by the next one (tried in 3.3.2: the key is one for all teams): each team would give the jobs of the
    others a new name. So then it is a JobDeployError that the name is missing.
    """
    found = known_deployment()
    if found:
        return found
    if team:
        raise JobDeployError(
            f"This Airflow has several teams ([core] multi_team) and no name yet for the records of its jobs, which a "
            f"task of team {team!r} cannot give it for all of them. Set [jobdeploy] deployment, the same in all parts "
            f"of this Airflow, or run once: airflow variables set {VARIABLE} NAME"
        )
    from airflow.sdk import Variable

    made = uuid.uuid4().hex
    Variable.set(VARIABLE, made, description="Names this Airflow in the records of its jobs on their workers.")
    time.sleep(_SETTLE_S)
    return str(Variable.get(VARIABLE, default=made))


def known_deployment() -> str:
    """The same, but nothing is made: "" when this Airflow has never needed the name."""
    configured = settings.deployment()
    if configured:
        return configured
    from airflow.sdk import Variable

    with runtime.lookup():
        return str(Variable.get(VARIABLE, default=None) or "")
