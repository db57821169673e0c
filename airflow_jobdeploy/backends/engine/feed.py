"""What an engine tells of itself: one stream of events, read by a thread of its own.

A stream that says nothing is asked for anew each so often, from the last event on, so that a connection into a black
hole is given up; what is missed meanwhile is found by the comparison that `watch` makes now and then.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable

from airflow_jobdeploy.backends.engine import names
from airflow_jobdeploy.backends.engine.api import Engine, Http
from airflow_jobdeploy.errors import WorkerError

#: The longest silence of one stream, and the pause after a failure, in seconds.
_SILENCE_S, _PAUSE_S = 25.0, 1.0
#: What is no news: whoever waits for a start looks for it now and then.
_QUIET = ("exec_", "create", "start", "attach")


class Feed:
    """The jobs that something has happened to; `ring` is called, in the thread, for each news."""

    def __init__(self, *, worker: str, connect: Callable[[], Http], since: float, ring: Callable[[], None]) -> None:
        self._engine = Engine(worker=worker, connect=connect)
        self._since = since
        self._ring = ring
        self._lock = threading.Lock()
        self._rung: dict[str, bool] = {}
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
        wanted = {"type": ["container"], "label": [f"{names.KIND}={names.JOB_KIND}"]}
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
            if str(event["Action"]).startswith(_QUIET):
                return
            with self._lock:
                job_id = str(event["Actor"]["Attributes"]["name"])
                self._rung[job_id] = self._rung.get(job_id, False) or event["Action"] == "die"
            self._ring()
