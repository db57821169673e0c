"""What all clients of an engine are to know of it: a text of a kind, in the labels of an empty volume.

Labels cannot be changed, so a new text is a volume of the next number, made before those are removed that it replaces:
nobody ever sees none. Who makes a number first has it; the highest counts.
"""

from __future__ import annotations

from collections.abc import Mapping

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.errors import WorkerError

_TURNS = 20

#: Notes as `Listing` has them: (what it is, about what) -> text.
Notes = Mapping[tuple[str, str], str]


class Marks:
    """Used by one thread at a time."""

    def __init__(self, engine: Engine, places: Places) -> None:
        self._engine = engine
        self._places = places

    def notes(self, kind: str = "") -> dict[tuple[str, str], str]:
        """All of them as they are now, or those of one kind."""
        wanted = {"label": [f"{names.NOTE}={kind}" if kind else f"{names.KIND}={names.NOTE_KIND}"]}
        found = [volume.get("Labels") or {} for volume in self._engine.get("/volumes", filters=wanted)["Volumes"] or ()]
        return {(each.get(names.NOTE, ""), each.get(names.NOTED, "")): each.get(names.TEXT, "") for each in found}

    def write(self, kind: str, text: str) -> None:
        """From now on this text counts. WorkerError when others write all the time."""
        for _ in range(_TURNS):
            there = _numbers(kind, self.notes(kind))
            number = max(there, default=0) + 1
            labels = {names.KIND: names.NOTE_KIND, names.NOTE: kind, names.NOTED: str(number), names.TEXT: text}
            if self._places.make_volume(names.note_volume(kind, str(number)), labels) == labels:
                self._remove(kind, there)
                return
        raise WorkerError(f"{self._engine.worker}: others write down all the time what it is to say of itself: {kind}")

    def clear(self, kind: str) -> None:
        """There is none any more."""
        self._remove(kind, _numbers(kind, self.notes(kind)))

    def await_next(self, kind: str, limit_s: float) -> None:
        """Until another text counts than now, at most so long."""
        number, now = max(_numbers(kind, self.notes(kind)), default=0) + 1, self._places.now()
        wanted = {"type": ["volume"], "volume": [names.note_volume(kind, str(number))], "event": ["create"]}
        until = f"{now + limit_s:.9f}"
        with self._engine.receive("/events", filters=wanted, since=f"{now - 1:.9f}", until=until) as pieces:
            next(pieces, None)

    def _remove(self, kind: str, numbers: Mapping[int, str]) -> None:
        for number in sorted(numbers):  # the one that counts goes last
            self._places.remove_volume(names.note_volume(kind, str(number)))


def marked(kind: str, notes: Notes) -> str | None:
    """The text that counts; None where there is none."""
    found = _numbers(kind, notes)
    return found[max(found)] if found else None


def _numbers(kind: str, notes: Notes) -> dict[int, str]:
    return {int(number): text for (what, number), text in notes.items() if what == kind and number.isdigit()}
