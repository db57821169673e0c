"""Tasks that start, wait for, stop and fetch from jobs."""

from __future__ import annotations
