"""Tasks that wait for jobs of other tasks."""

from __future__ import annotations
