"""The Airflow plugin: it takes the place that later pages of the UI will need."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class JobDeployPlugin(AirflowPlugin):
    """Found by the entry point group `airflow.plugins`."""

    name = "jobdeploy"
