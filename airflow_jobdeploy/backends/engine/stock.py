"""What an engine has to give out."""

from __future__ import annotations

from typing import Any

from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.claims import Settings
from airflow_jobdeploy.backends.engine.places import Places


class Stock:
    """Of one connection to one engine. Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places, settings: Settings) -> None:
        self._engine = engine
        self._places = places
        self._settings = settings
        self._info: dict[str, Any] = {}

    def capacity(self) -> dict[str, Any]:
        """As hostside/fitting.py has it: {"cpu", "memory", "disk", "gpus", "cordoned"}, a dict of the caller's own.

        Asked often (each look at the line): it must be cheap when nothing has changed. A GPU may have "devices", the
        paths that its container gets where the engine has no NVIDIA runtime.
        """
        info = self._info = self._info or dict(self._engine.get("/info"))
        return {
            "cpu": float(info.get("NCPU") or 0),
            "memory": int(info.get("MemTotal") or 0),
            "disk": None,
            "gpus": [dict(gpu) for gpu in self._settings.gpus],
            "cordoned": "",
        }
