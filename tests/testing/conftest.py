from __future__ import annotations

from airflow_jobdeploy.testing.fixtures import clock as clock
from airflow_jobdeploy.testing.fixtures import memory_backend as memory_backend
from airflow_jobdeploy.testing.fixtures import memory_host as memory_host
