"""A small client: one real `serve` process over pipes. It knows the wire and nothing else."""

from __future__ import annotations

import itertools
import json
import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from airflow_jobdeploy.core.plan import Limits, Plan, Step
from airflow_jobdeploy.hostside import protocol

HOME = Path(__file__).parents[2]
_SERVE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from airflow_jobdeploy.hostside.runner import main;"
    "exec(sys.argv[3]); sys.exit(main(['serve', '--root', sys.argv[2]]))"
)
DEADLINE_S = 60.0


class Refused(Exception):
    """The worker's answer is no."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Serve:
    """One session with a serve process of its own."""

    def __init__(
        self,
        root: Path,
        *,
        python: str = sys.executable,
        mode: str = "inherit",
        env: dict[str, str] | None = None,
        greet: bool = True,
        wrap: tuple[str, ...] = (),
        prelude: str = "",
        greeting: dict[str, Any] | None = None,
    ) -> None:
        """`greeting`: more for its hello; `prelude`: Python text that it runs first, to be less patient, say."""
        self.process = subprocess.Popen(
            [*wrap, python, "-S", "-E", "-u", "-c", _SERVE, str(HOME), str(root), prelude],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
        )
        self._reader = protocol.Reader()
        self._frames: list[tuple[bytes, Any]] = []
        self._ids = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        #: What was told of tickets meanwhile.
        self.places: list[dict[str, Any]] = []
        self.facts = self.ask("hello", client="test", env_mode=mode, path=None, **(greeting or {})) if greet else {}

    def close(self) -> None:
        self.process.kill()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            try:
                stream.close()
            except BrokenPipeError:
                pass  # what it did not read before it ended
        self.process.wait()

    def send(self, op: str, **params: Any) -> int:
        number = next(self._ids)
        self.write(protocol.pack_json({"id": number, "op": op, **params}))
        return number

    def write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        self.process.stdin.flush()

    def frame(self, timeout_s: float = DEADLINE_S) -> tuple[bytes, Any]:
        assert self.process.stdout
        while not self._frames:
            if not select.select([self.process.stdout], [], [], timeout_s)[0]:
                raise TimeoutError(f"no frame in {timeout_s} s")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                assert self.process.stderr
                raise EOFError(self.process.stderr.read().decode())
            self._frames += self._reader.feed(data)
        return self._frames.pop(0)

    def answer(self, number: int) -> dict[str, Any]:
        while True:
            kind, message = self.frame()
            if kind == b"J" and "event" in message:
                self._note(message)
                continue
            assert kind == b"J", message[:100]
            assert message["id"] == number, message
            if not message["ok"]:
                raise Refused(message["error"], message["message"])
            return dict(message)

    def ask(self, op: str, **params: Any) -> dict[str, Any]:
        return self.answer(self.send(op, **params))

    def ask_bytes(self, op: str, **params: Any) -> tuple[dict[str, Any], bytes]:
        reply = self.ask(op, **params)
        return reply, b"".join(self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        while True:
            kind, piece = self.frame()
            if kind == b"J" and "event" in piece:
                self._note(piece)
                continue
            assert kind == b"B", piece
            if not piece:
                return
            yield piece

    def put(self, job: str, pieces: Iterable[bytes]) -> dict[str, Any]:
        """A tar stream as the checkpoint of a job."""
        return self.give("put", pieces, job=job, into="checkpoint")

    def give(self, op: str, pieces: Iterable[bytes], **params: Any) -> dict[str, Any]:
        """Ask, send bytes, and wait for the answer."""
        number = self.send(op, **params)
        for piece in pieces:
            for start in range(0, len(piece), protocol.MAX_FRAME):
                self.write(protocol.pack(b"B", piece[start : start + protocol.MAX_FRAME]))
        self.write(protocol.pack(b"B", b""))
        return self.answer(number)

    # -- whole steps of a job's life ------------------------------------------------------------------------------

    def claim(self, plan: Plan) -> dict[str, Any]:
        return self.ask("claim", plan=plan.to_wire(), secrets=dict(plan.secret_env))

    def launch(self, plan: Plan) -> str:
        self.claim(plan)
        self.ask("start", job=plan.job_id)
        return plan.job_id

    def state(self, job: str) -> dict[str, Any]:
        return dict(self.ask("poll", jobs=[job])["states"][job] or {})

    def until(
        self, job: str, wanted: Callable[[dict[str, Any]], bool], timeout_s: float = DEADLINE_S
    ) -> dict[str, Any]:
        """The first state that is as wanted: by watching, not by asking again and again."""
        state = self.ask("watch", jobs=[job])["states"][job]
        until = time.monotonic() + timeout_s
        while not wanted(state):
            if time.monotonic() > until:
                raise AssertionError(f"still {json.dumps(state, indent=1)}")
            self.events or self._take_event(until - time.monotonic())
            state = self.events.pop(0)["state"] if self.events else state
        self.events.clear()
        self.ask("watch", jobs=[])
        self.events.clear()
        return dict(state)

    def _take_event(self, timeout_s: float) -> None:
        try:
            kind, message = self.frame(max(0.1, timeout_s))
        except TimeoutError:
            return
        assert kind == b"J"
        assert "event" in message
        self._note(message)

    def _note(self, event: dict[str, Any]) -> None:
        (self.places if event["event"] == "place" else self.events).append(event)

    def place(self, timeout_s: float) -> dict[str, Any] | None:
        """The next that is told of a ticket; None: nothing for so long."""
        until = time.monotonic() + timeout_s
        while not self.places and time.monotonic() < until:
            self._take_event(until - time.monotonic())
        return self.places.pop(0) if self.places else None

    def end(self, job: str, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        return self.until(job, lambda state: state["phase"] == "ended", timeout_s)

    def run(self, plan: Plan, timeout_s: float = DEADLINE_S) -> dict[str, Any]:
        return self.end(self.launch(plan), timeout_s)

    def log(self, job: str, offset: int = 0, limit: int = 4 << 20) -> bytes:
        return self.ask_bytes("log", job=job, offset=offset, limit=limit)[1]

    def stop(self, job: str, **params: Any) -> dict[str, Any]:
        return dict(self.ask("stop", job=job, **{"reason": "test", "by": "pytest", "grace_s": None, **params})["state"])


def shell(text: str, **options: Any) -> Plan:
    """A plan of one command in sh text. `limits`: keywords of Limits."""
    step = {key: options.pop(key) for key in ("ok_codes", "ok_signals", "timeout_s") if key in options}
    steps = (Step(name="job", kind="shell", content=text, **step),)
    return plan(steps, **options)


def plan(steps: tuple[Step, ...] = (), **options: Any) -> Plan:
    limits = Limits(**{"grace_s": 2.0, **options.pop("limits", {})})
    return Plan(**{"uid": uuid.uuid4().hex, "steps": steps, "limits": limits, **options})
