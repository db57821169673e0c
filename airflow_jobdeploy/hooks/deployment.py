"""The name of this Airflow in the records of its jobs."""

from __future__ import annotations

import time
import uuid

from airflow_jobdeploy.hooks import settings

VARIABLE = "jobdeploy_deployment"

#: Airflow's Variables know no compare-and-set: whoever wrote waits so long and takes what then stands there.
_SETTLE_S = 1.0


def deployment_id() -> str:
    """`[jobdeploy] deployment`, else the Variable jobdeploy_deployment, which is made when it is missing."""
    configured = settings.deployment()
    if configured:
        return configured
    from airflow.sdk import Variable

    found = Variable.get(VARIABLE, default=None)
    if found:
        return str(found)
    made = uuid.uuid4().hex
    Variable.set(VARIABLE, made, description="Names this Airflow in the records of its jobs on their workers.")
    time.sleep(_SETTLE_S)
    return str(Variable.get(VARIABLE, default=made))
