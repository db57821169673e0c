"""Job deploy: run templates and job specs from Airflow on this machine and on SSH hosts."""

from __future__ import annotations

__version__ = "0.1.0"
