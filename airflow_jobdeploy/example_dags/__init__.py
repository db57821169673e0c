"""Example DAGs with all that they need: templates and projects with data. Also a dags folder as it stands."""

from __future__ import annotations
