"""The options of the section [jobdeploy], with types. Defaults stand in get_provider_info.CONFIG."""

from __future__ import annotations

import os
from pathlib import Path

from airflow_jobdeploy.get_provider_info import CONFIG

_SECTION = "jobdeploy"


def _text(option: str) -> str:
    from airflow.sdk.configuration import conf

    return str(conf.get(_SECTION, option, fallback=CONFIG[option]["default"]) or "").strip()


def _seconds(option: str) -> float:
    text = _text(option) or str(CONFIG[option]["default"])
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ValueError(f"[{_SECTION}] {option} = {text!r} in airflow.cfg: expected seconds, like 2.5")
    return value


def search_path() -> tuple[Path, ...]:
    """Folders in which relative paths are looked up."""
    return tuple(Path(part).expanduser() for part in _text("search_path").split(os.pathsep) if part)


def deployment() -> str:
    """The configured name of this Airflow, or ""."""
    return _text("deployment")


def defer_after_s() -> float:
    """How long a deferrable task waits by itself first."""
    return _seconds("defer_after")


def poll_interval_s() -> float:
    """How long news are gathered before they are told."""
    return _seconds("poll_interval")


def checkpoint_interval_s() -> float:
    """How often a trigger notes its place in the log."""
    return _seconds("checkpoint_interval")
