"""Meaning: templates, job specs, pools, statuses, plans. Pure: no network, no Airflow."""
