"""The name of this Airflow in the records of its jobs."""

from __future__ import annotations

import time
import uuid

from airflow_jobdeploy.hooks import runtime, settings

VARIABLE = "jobdeploy_deployment"

#: Airflow's Variables know no compare-and-set: whoever wrote waits so long and takes what then stands there.
_SETTLE_S = 1.0


def deployment_id() -> str:
    """`[jobdeploy] deployment`, else the Variable jobdeploy_deployment, which is made when it is missing."""
    found = known_deployment()
    if found:
        return found
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
