"""main.py of a project that is about to be sent, looked at first (core/main_file.py has what it is looked at for)."""

from __future__ import annotations

from pathlib import Path

from airflow_jobdeploy.core.files import shown
from airflow_jobdeploy.core.main_file import MAX_BYTES, NAME, Checked, check_main
from airflow_jobdeploy.core.spec import JobSpec
from airflow_jobdeploy.errors import Problem


def checked_main(spec: JobSpec, project_dir: Path | None, workdir: str | None) -> Checked:
    """main.py of the project that will be sent; one that is on the worker already is looked at there."""
    if project_dir is None:
        if workdir or spec.workdir:
            return Checked()
        where = spec.given.get("call_main", "<job_spec>")
        message = "main() of a project is to be called, and no project is given."
        return Checked(problems=(Problem(where, "", message, "Give project_dir, or workdir on the worker."),))
    path = project_dir / NAME
    try:
        with path.open("rb") as file:
            source = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return check_main(None, shown(path))
    except OSError as error:
        return Checked(problems=(Problem(shown(path), "", f"cannot be read: {error.strerror}."),))
    return check_main(source, shown(path))
