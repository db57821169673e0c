"""What a job says of itself (hostside.messages), as lines for the log of its task: the newest, and not too often."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: Between two lines about progress, and about metrics, in seconds.
PROGRESS_EVERY_S, METRICS_EVERY_S = 5.0, 15.0
#: So many metrics stand in one line.
_SHOWN = 8


def progress_text(progress: Mapping[str, Any]) -> str:
    """ "42 %", "42 % (21 of 50): epoch 3" """
    text = f"{float(progress.get('value', 0.0)):.0%}".replace("%", " %")
    if "done" in progress:
        text += f" ({_number(progress['done'])} of {_number(progress['total'])})"
    return text + (f": {progress['text']}" if progress.get("text") else "")


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """ "loss=0.12, accuracy=0.9 (step 120)": the first ones, with the newest step of all."""
    shown = [f"{name}={_number(value)}" for name, (value, _) in list(metrics.items())[:_SHOWN]]
    more = f" and {len(metrics) - _SHOWN} more" if len(metrics) > _SHOWN else ""
    steps = [step for _, step in metrics.values() if isinstance(step, (int, float))]
    return ", ".join(shown) + more + (f" (step {_number(max(steps))})" if steps else "")


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)


class Announcer:
    """Which lines are due: outputs and assets once each, progress and metrics when they have changed, now and then."""

    def __init__(self) -> None:
        self._told: dict[str, Any] = {}
        self._due: dict[str, float] = {}
        self._named: set[tuple[str, str]] = set()
        self._latest: Mapping[str, Any] = {}

    def take(self, messages: Mapping[str, Any]) -> None:
        """The newest messages of the job."""
        if messages:
            self._latest = messages

    @property
    def is_pending(self) -> bool:
        """Is there something that was not told, for being too soon?"""
        return any(self._latest.get(key) not in (None, self._told.get(key)) for key in ("progress", "metrics"))

    def lines(self, now: float, *, is_last: bool = False) -> list[str]:
        """What is to be said at `now` (seconds of any clock). `is_last`: there is no later."""
        found = [f"Output {name}" for name in self._news("outputs", "path")]
        found += [f"Asset {name}" for name in self._news("assets", "uri")]
        for key, title, every_s, text in (
            ("progress", "Progress", PROGRESS_EVERY_S, progress_text),
            ("metrics", "Metrics", METRICS_EVERY_S, metrics_text),
        ):
            value = self._latest.get(key)
            if value and value != self._told.get(key) and (is_last or now >= self._due.get(key, now)):
                self._told[key], self._due[key] = value, now + every_s
                found.append(f"{title}: {text(value)}")
        return found

    def _news(self, kind: str, key: str) -> list[str]:
        fresh = [entry for entry in self._latest.get(kind, ()) if (kind, entry[key]) not in self._named]
        self._named.update((kind, entry[key]) for entry in fresh)
        return [f"{entry[key]}: {entry['text']}" if entry.get("text") else entry[key] for entry in fresh]
