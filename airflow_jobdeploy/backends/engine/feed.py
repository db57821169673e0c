"""What an engine tells of itself: one stream of events, read by a thread of its own.

A stream that says nothing is asked for anew each so often, from the last event on, so that a connection into a black
hole is given up; what is missed meanwhile is found by the comparison that `watch` makes now and then.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine, Http
from airflow_jobdeploy.errors import WorkerError

#: The longest silence of one stream, and the pause after a failure, in seconds.
_SILENCE_S, _PAUSE_S = 25.0, 1.0
#: What is news of containers, and volumes: of a start only for who waits for one.
_NEWS = ("die", "destroy", "kill", "oom", "pause", "unpause", "rename", "restart", "stop", "update")
_START = "start"
#: An end is told before a listing shows it: so long after it there may be room that was not there yet, in seconds.
_ECHOES_S = (0.1, 0.4, 1.5)


class Feed:
    """The jobs that something has happened to; `ring` is called, in the thread, for each news."""

    def __init__(self, *, worker: str, connect: Callable[[], Http], since: float, ring: Callable[[], None]) -> None:
        self._engine = Engine(worker=worker, connect=connect)
        self._since = since
        self._ring = ring
        self._lock = threading.Lock()
        self._rung: dict[str, bool] = {}
        self._started: set[str] = set()
        self._has_room = False
        self._echoes: list[float] = []
        self._is_closed = False
        #: Is a stream open now? While none is, nothing is told.
        self.is_open = False
        self._thread = threading.Thread(target=self._run, name=f"jobdeploy-events-{worker}", daemon=True)
        self._thread.start()

    def take(self) -> dict[str, bool]:
        """The jobs that were told of since the last call, and whether it was that they have ended."""
        with self._lock:
            found, self._rung = self._rung, {}
            return found

    def take_started(self) -> set[str]:
        """The jobs that have been started since the last call."""
        with self._lock:
            found, self._started = self._started, set()
            return found

    def take_room(self) -> bool:
        """Has something been released since the last call that others may wait for, or has the line changed?"""
        with self._lock:
            now = time.monotonic()
            is_due = any(echo <= now for echo in self._echoes)
            self._echoes = [echo for echo in self._echoes if echo > now]
            has_room, self._has_room = self._has_room, False
            return has_room or is_due

    def echo_s(self) -> float:
        """How long until `take_room` has something to tell without news."""
        with self._lock:
            return max(0.0, min(self._echoes, default=math.inf) - time.monotonic())

    def close(self) -> None:
        """Let go; the thread ends with its stream."""
        self._is_closed = True
        self._engine.interrupt()

    def _run(self) -> None:
        while not self._is_closed:
            try:
                self._read()
            except WorkerError:
                self.is_open = False
                if not self._is_closed:
                    time.sleep(_PAUSE_S)  # a thread of its own, that nobody waits for

    def _read(self) -> None:
        wanted = {"type": ["container", "volume"], "event": [*_NEWS, _START]}
        asked = {"filters": wanted, "since": f"{self._since:.9f}"}
        with self._engine.receive("/events", answer_s=_SILENCE_S, **asked) as pieces:  # type: ignore[arg-type]
            self.is_open = True
            held = b""
            for piece in pieces:
                *lines, held = (held + piece).split(b"\n")
                for line in lines:
                    self._note(line)
                if self._is_closed:
                    return

    def _note(self, line: bytes) -> None:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            event = json.loads(line)
            self._since = max(self._since, int(event["timeNano"]) / 1e9)
            if self._is_news(str(event["Type"]), str(event["Action"]), event["Actor"]):
                self._ring()

    def _is_news(self, kind: str, action: str, actor: Mapping[str, Any]) -> bool:
        if kind == "volume":
            return action == "destroy" and self._is_room(str(actor["ID"]).startswith(names.LINE_PREFIXES))
        labels = actor["Attributes"]
        if labels.get(names.KIND) in (names.LEASE_KIND, names.HELPER_KIND):
            return action == "destroy" and self._is_room(str(labels["name"]).startswith(names.ROOM_PREFIXES))
        if labels.get(names.KIND) != names.JOB_KIND:
            return False
        job_id = str(labels["name"])
        with self._lock:
            if action == _START:
                self._started.add(job_id)
            else:
                self._rung[job_id] = self._rung.get(job_id, False) or action == "die"
                self._has_room = self._has_room or action in ("die", "destroy")
                if action == "die":
                    self._echoes = [time.monotonic() + echo_s for echo_s in _ECHOES_S]
        return True

    def _is_room(self, has_room: bool) -> bool:
        with self._lock:
            self._has_room = self._has_room or has_room
        return has_room
