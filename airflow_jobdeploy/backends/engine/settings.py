"""The settings of a pool, as each part that works on one of its engines gets them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_jobdeploy.backends.engine import images
from airflow_jobdeploy.backends.engine.config import Security


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a pool says about its engines."""

    #: For jobs that name none.
    image: str = ""
    security: Security = field(default_factory=Security)
    #: How much code, data and images an engine keeps that no job uses; None: all.
    cache_limit_bytes: int | None = None
    #: A folder of the engines' machines that all jobs see at the same place; "": none.
    shared: str = ""
    #: GPUs that are declared, as hostside/fitting.py has them, each with its "devices"; (): the engine is asked.
    gpus: tuple[Mapping[str, Any], ...] = ()
    auth: images.Auth = lambda image: None
