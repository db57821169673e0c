"""The old place of `core.spec.load_spec`."""

from __future__ import annotations

from airflow_jobdeploy.core.spec import load_spec

__all__ = ["load_spec"]
