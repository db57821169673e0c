"""What Airflow is told about this provider. Read on every `airflow` command: nothing is imported here.

`CONFIG` is also where the defaults of the `[jobdeploy]` section come from (hooks/settings.py).
"""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy import __version__

INTEGRATION = "Job Deploy"

#: Options of the section [jobdeploy]. Airflow wants defaults as text.
CONFIG: dict[str, dict[str, str | None]] = {
    "search_path": {
        "description": "Folders, separated by colons, in which relative paths of templates, job specs and projects are "
        "looked up after the DAG's own folder and its template_searchpath.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "/srv/templates:/srv/projects",
        "default": "",
    },
    "deployment": {
        "description": "The name of this Airflow in the records of its jobs, by which its triggerers know the jobs "
        "they may clear away. Empty: the Airflow Variable jobdeploy_deployment, made at the first use; an Airflow of "
        "several teams needs one of the two, the Variable without a team.",
        "version_added": "0.1.0",
        "type": "string",
        "example": "production",
        "default": "",
    },
    "defer_after": {
        "description": "Seconds that a deferrable task waits for its job before it hands over to the triggerer. "
        "Handing over and back costs about 3 seconds, so short jobs end sooner without it.",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "2.0",
    },
    "poll_interval": {
        "description": "Seconds for which a task or trigger gathers news of a job and lines of its log before it tells "
        "them, where the operator does not say poll_interval.",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "1.0",
    },
    "checkpoint_interval": {
        "description": "Seconds between two notes of how far a trigger has told its job's log (30 to 60 is right: each "
        "costs the triggerer about 10 ms). After a triggerer's death the log goes on from the last note.",
        "version_added": "0.1.0",
        "type": "float",
        "example": None,
        "default": "45.0",
    },
}

_FORM: dict[str, dict[str, Any]] = {
    "kind": {
        "label": "Kind",
        "description": "Where the pool's jobs run: on SSH hosts, on Docker engines, or on this machine (local).",
        "schema": {"type": ["string", "null"], "enum": ["ssh", "docker", "local"], "default": "ssh"},
    },
    "workers": {
        "label": "Workers",
        "description": 'As JSON. SSH hosts: [{"conn_id": "gpu-a"}, {"conn_id": "gpu-b", "slots": 2}, '
        '{"conn_id": "cluster", "hosts": "gpu[01-60]"}]; each conn_id is a connection of type ssh. Docker engines: '
        '[{"url": "unix:///var/run/docker.sock"}, {"name": "gpu-a", "url": "tcp://gpu-a:2376", "tls": {...}}].',
        # Without the type of its items the form takes lines of text.
        "schema": {"type": ["array", "null"], "items": {"type": "object"}},
    },
    "root": {
        "label": "Root",
        "description": "Of hosts: the folder on each in which jobs are kept. Empty: ~/.jobdeploy.",
        "schema": {"type": ["string", "null"]},
    },
    "image": {
        "label": "Image",
        "description": "Of Docker engines: the image of jobs that name none.",
        "schema": {"type": ["string", "null"]},
    },
    "pool_file": {
        "label": "Pool file",
        "description": "A YAML file that describes all of the pool, instead of the fields above. What has no field "
        "here (presets, quotas, storage, ...) goes there, or into Extra Fields JSON.",
        "schema": {"type": ["string", "null"]},
    },
}


def _modules(*names: str) -> list[dict[str, Any]]:
    return [{"integration-name": INTEGRATION, "python-modules": [f"airflow_jobdeploy.{name}" for name in names]}]


def get_provider_info() -> dict[str, Any]:
    """The provider's metadata, valid against Airflow's provider_info.schema.json."""
    return {
        "package-name": "airflow-provider-jobdeploy",
        "name": "Job Deploy",
        "description": "Runs templates and job specs on machines you already own: SSH hosts, Docker engines, this one.",
        "versions": [__version__],
        "integrations": [{"integration-name": INTEGRATION, "external-doc-url": "", "tags": ["software"]}],
        "operators": _modules("operators.template", "operators.job", "operators.artifact"),
        "sensors": _modules("sensors.job"),
        "hooks": _modules("hooks.jobdeploy"),
        "triggers": _modules("triggers.job"),
        "connection-types": [
            {
                "connection-type": "jobdeploy",
                "hook-class-name": "airflow_jobdeploy.hooks.jobdeploy.JobDeployHook",
                "hook-name": "Job Deploy worker pool",
                "ui-field-behaviour": {
                    "hidden-fields": ["host", "port", "login", "password", "schema"],
                    "relabeling": {},
                    "placeholders": {},
                },
                "conn-fields": _FORM,
            }
        ],
        "cli": ["airflow_jobdeploy.cli.get_cli_commands"],
        "config": {
            "jobdeploy": {
                "description": "Jobs on worker pools: where files are looked up, and how tasks wait.",
                "options": CONFIG,
            }
        },
    }
