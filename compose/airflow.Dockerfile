# Airflow with this provider in it, for all of Airflow's parts in docker-compose.yaml.
FROM apache/airflow:3.3.2-python3.12

COPY --chown=airflow:root pyproject.toml README.md LICENSE /opt/jobdeploy/
COPY --chown=airflow:root airflow_jobdeploy /opt/jobdeploy/airflow_jobdeploy
# Airflow is named so that pip leaves it as it is. The folders: a volume takes its owner from what it covers.
RUN pip install --no-cache-dir "apache-airflow==${AIRFLOW_VERSION}" /opt/jobdeploy \
    && mkdir -p /opt/airflow/models /opt/airflow/datasets
