"""What waits for deferred tasks."""

from __future__ import annotations
