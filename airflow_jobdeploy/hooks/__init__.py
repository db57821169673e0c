"""Airflow connections turned into worker pools and clients; the hook."""

from __future__ import annotations
