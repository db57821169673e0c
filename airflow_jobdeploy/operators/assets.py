"""Assets that a job says it has written (`asset` lines of its messages) -> asset events of its task.

An outlet of the same uri gets the line's `extra`; else each AssetAlias among the outlets gets the asset added. Airflow
makes the events when the task succeeds, and only for what is declared: the rest is said in the log.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from airflow.sdk import Asset, AssetAlias

from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.hooks import runtime

#: Where assets are kept that an attempt named which was not the last.
_KEPT = "jobdeploy_assets"


def hand_over(outlets: Sequence[Any], events: Any, named: Iterable[Mapping[str, Any]], log: Any) -> None:
    """Give the assets that a job has named to Airflow. `events`: `outlet_events` of the context."""
    aliases = [outlet for outlet in outlets if isinstance(outlet, AssetAlias)]
    for entry in named:
        asset = _asset(str(entry["uri"]), log)
        if asset is None:
            continue
        declared = [outlet for outlet in outlets if getattr(outlet, "uri", None) == asset.uri]
        for outlet in declared:
            events[outlet].extra.update(entry["extra"])
        for alias in [] if declared else aliases:
            events[alias].add(asset, extra=dict(entry["extra"]))
        if not declared and not aliases:
            log.info(
                "The job has written the asset %s. No event is made of it: give the task outlets=[Asset(%r)], or "
                "outlets=[AssetAlias(...)] for whatever its job names.",
                asset.uri,
                asset.uri,
            )


def _asset(uri: str, log: Any) -> Asset | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a password in it, which Airflow leaves out
            return Asset(uri=uri, name=Asset(uri=uri).uri)
    except (ValueError, TypeError) as error:
        log.warning("The job has named an asset that Airflow refuses: %r (%s)", uri, error)
        return None


def keep(context: Mapping[str, Any], state: JobState) -> None:
    """Remember the assets of an attempt that another one follows."""
    named = state.messages.get("assets")
    if named:
        store = runtime.StateStore(context, _KEPT)
        store.save({"uid": state.uid, "assets": [*_kept(store, state.uid), *named]})


def of_all_attempts(context: Mapping[str, Any], state: JobState) -> list[dict[str, Any]]:
    """The assets of the job, also of earlier attempts; of two of one uri the later."""
    # A first attempt has none before it: most tasks need not ask.
    earlier = _kept(runtime.StateStore(context, _KEPT), state.uid) if state.attempt > 1 else []
    named = [*earlier, *state.messages.get("assets", ())]
    return list({entry["uri"]: entry for entry in named}.values())


def _kept(store: runtime.StateStore, uid: str) -> list[dict[str, Any]]:
    saved = store.load() or {}
    return list(saved["assets"]) if saved.get("uid") == uid else []
