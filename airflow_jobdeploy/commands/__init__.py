"""What `airflow jobdeploy ...` does. Imported when a command runs; the definitions alone are in `cli`."""

from __future__ import annotations
