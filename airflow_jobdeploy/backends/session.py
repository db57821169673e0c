"""One conversation with `hostside serve`: start it over a channel, ask, take bytes, take changes.

A session that failed once is dead: whoever used it opens another. Every failure to ask is
WorkerUnreachable and names the worker; an answer that says no is `Refusal`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from airflow_jobdeploy.backends import trouble
from airflow_jobdeploy.backends.channel import ChannelRefused, Client
from airflow_jobdeploy.backends.payload import command, payload
from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable
from airflow_jobdeploy.hostside import protocol

#: How long the login shell and Python may take until they answer.
START_TIMEOUT_S = 15.0
#: How much a login shell may print before that.
NOISE_LIMIT = 1024 * 1024
#: How long a request may go unanswered, and a transfer without a byte moving.
REPLY_TIMEOUT_S = 30.0
STALL_TIMEOUT_S = 60.0
#: How long the far side serves a client that says nothing: what a cut connection has left there must end some day.
IDLE_S = 600.0

_T = TypeVar("_T")


class Refusal(WorkerError):
    """The worker answered that it cannot. `code`: see the table of ops in hostside/serve.py."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """A started session. Used by one thread at a time."""

    def __init__(self, client: Client, *, python: str, root: str) -> None:
        """Start it on `client`. ChannelRefused when there is no room for one more on this connection."""
        #: Its name in messages.
        self.worker = client.name
        self._frames: deque[tuple[bytes, Any]] = deque()
        self._events: deque[dict[str, Any]] = deque()
        self._reader = protocol.Reader()
        self._last_id = 0
        self._streaming = False
        self.heard_at = time.monotonic()
        self.alive = True
        #: Has its stream failed? What broke it may have broken the connection.
        self.broken = False
        try:
            self._channel = client.open(command(python))
        except ChannelRefused:
            raise
        except OSError as error:
            raise self._broken(f"cannot start {python}: {error}") from error
        self._guarded(lambda: self._begin(python, root))

    # -- starting ------------------------------------------------------------------------------------------------

    def _begin(self, python: str, root: str) -> None:
        bundle = payload()
        try:
            self._channel.write(bundle.opening(root), START_TIMEOUT_S)
        except OSError:
            pass  # a shell that ended at once: reading tells why
        self._skip_noise(python)
        answer = self._bootstrap_answer()
        if not answer["have"]:
            self._channel.write(bundle.data, STALL_TIMEOUT_S)
            self._bootstrap_answer()

    def _skip_noise(self, python: str) -> None:
        noise = bytearray()
        until = time.monotonic() + START_TIMEOUT_S
        while (found := noise.find(protocol.MARK)) < 0:
            data = self._channel.read() if self._channel.wait(max(0.0, until - time.monotonic())) else None
            if not data:
                status, stderr = self._channel.ending(2.0 if data == b"" else 0.0)
                raise trouble.no_session(self.worker, python, status, stderr, bytes(noise[-2000:]))
            noise += data
            if len(noise) > NOISE_LIMIT and protocol.MARK not in noise:
                raise trouble.too_noisy(self.worker, NOISE_LIMIT, bytes(noise[:2000]))
        self._feed(bytes(noise[found + len(protocol.MARK) :]))

    def _bootstrap_answer(self) -> dict[str, Any]:
        kind, answer = self._next_frame(REPLY_TIMEOUT_S)
        if kind != b"J":
            raise protocol.ProtocolError("bytes where an answer was expected")
        if not answer["ok"]:
            raise WorkerError(f"{self.worker} cannot serve: {answer['message']}")
        return dict(answer)

    # -- asking --------------------------------------------------------------------------------------------------

    def request(self, op: str, *, reply_s: float | None = None, **params: Any) -> dict[str, Any]:
        """Ask and wait for the answer, at most `reply_s` (REPLY_TIMEOUT_S) in silence.

        Refusal when it is no; WorkerError when a transfer is under way here.
        """
        self._check_free(op)
        return self._guarded(lambda: self._answer_to(self._send(op, params), reply_s or REPLY_TIMEOUT_S))

    def request_bytes(
        self, op: str, *, stall_s: float = STALL_TIMEOUT_S, **params: Any
    ) -> tuple[dict[str, Any], Iterator[bytes]]:
        """Ask for bytes: the answer, and its pieces as they come, to be read to the end before the next request.

        The session breaks when nothing comes for `stall_s`.
        """
        answer = self.request(op, reply_s=min(stall_s, REPLY_TIMEOUT_S), **params)
        self._streaming = True
        return answer, self._pieces(stall_s)

    def _pieces(self, stall_s: float) -> Iterator[bytes]:
        while True:
            kind, piece = self._guarded(lambda: self._next_frame(stall_s))
            if kind == b"J" and "event" in piece:
                self._events.append(piece)
            elif kind == b"B" and piece:
                yield piece
            else:
                break
        self._streaming = False
        if kind != b"B":
            self._check(piece)  # the worker gives up in the middle, and says why
            raise self._broken("an answer where bytes were expected")

    def send_bytes(self, op: str, data: Iterable[bytes], **params: Any) -> dict[str, Any]:
        """Ask, send bytes, and wait for the answer. An answer that comes before the end ends the sending."""
        self._check_free(op)
        request_id = self._guarded(lambda: self._send(op, params))
        self._streaming = True  # if `data` raises, the far side still waits for more: the session is of no use
        for piece in data:
            self._write(protocol.pack_bytes(piece))
            if self._guarded(self._answer_waits):
                break
        self._write(protocol.pack(b"B", b""))
        self._streaming = False
        return self._guarded(lambda: self._answer_to(request_id, STALL_TIMEOUT_S))

    def _check_free(self, op: str) -> None:
        if self._streaming:
            text = f"{self.worker} cannot be asked {op!r} while a transfer is under way on its one session"
            raise WorkerError(f"{text}: finish that first, or let sshd allow more (MaxSessions)")

    def _send(self, op: str, params: dict[str, Any]) -> int:
        if not self.alive:
            raise EOFError("the session has ended")
        self._last_id += 1
        self._channel.write(protocol.pack_json({"id": self._last_id, "op": op, **params}), STALL_TIMEOUT_S)
        return self._last_id

    def _write(self, frames: bytes) -> None:
        self._guarded(lambda: self._channel.write(frames, STALL_TIMEOUT_S))

    def _answer_waits(self) -> bool:
        while self._channel.wait(0):
            self._take()
        return any(kind == b"J" and "id" in frame for kind, frame in self._frames)

    def _answer_to(self, request_id: int, timeout_s: float) -> dict[str, Any]:
        while True:
            kind, answer = self._next_frame(timeout_s)
            if kind == b"J" and answer.get("id") == request_id:
                return self._check(answer)
            if kind == b"J" and "event" in answer:
                self._events.append(answer)
            else:
                raise protocol.ProtocolError(f"not the answer to request {request_id}: {str(answer)[:80]!r}")

    def _check(self, answer: dict[str, Any]) -> dict[str, Any]:
        if not answer.get("ok"):
            raise Refusal(
                str(answer.get("error", "failed")), f"{self.worker}: {answer.get('message', 'no reason given')}"
            )
        return answer

    # -- changes -------------------------------------------------------------------------------------------------

    def events(self, timeout_s: float, wake: int | None = None) -> list[dict[str, Any]]:
        """The events that came; waits for the first at most `timeout_s`, or until `wake` is readable."""

        def take() -> None:
            if not self._frames and not self._events and not self._channel.wait(timeout_s, wake):
                return
            while self._channel.wait(0):
                self._take()
            while self._frames:
                _, frame = self._frames.popleft()
                self._events.append(frame)

        self._guarded(take)
        came = list(self._events)
        self._events.clear()
        return came

    # -- the stream ----------------------------------------------------------------------------------------------

    def _next_frame(self, timeout_s: float) -> tuple[bytes, Any]:
        until = time.monotonic() + timeout_s
        while not self._frames:
            if not self._channel.wait(max(0.0, until - time.monotonic())):
                raise TimeoutError(f"no answer within {timeout_s:.0f} s")
            self._take()
        return self._frames.popleft()

    def _take(self) -> None:
        data = self._channel.read()
        if not data:
            raise EOFError(self._how_it_ended())
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._frames.extend(self._reader.feed(data))
        self.heard_at = time.monotonic()

    def _how_it_ended(self) -> str:
        status, stderr = self._channel.ending(2.0)
        cut = " in the middle of a frame" if self._reader.partial else ""
        told = f"; it said: {stderr[-800:]!r}" if stderr else ""
        return f"the session ended{cut}" + (f" with status {status}" if status else "") + told

    def _guarded(self, action: Callable[[], _T]) -> _T:
        """Whatever breaks the stream ends the session, as WorkerUnreachable."""
        try:
            return action()
        except Refusal:
            raise
        except WorkerError:
            self.close()
            raise
        except (OSError, EOFError, protocol.ProtocolError) as error:
            raise self._broken(str(error) or type(error).__name__) from error

    def _broken(self, why: str) -> WorkerUnreachable:
        self.broken = True
        if hasattr(self, "_channel"):
            self.close()
        self.alive = False
        return WorkerUnreachable(f"{self.worker} cannot be asked: {why}. What runs there goes on.")

    def close(self) -> None:
        """End the session; it touches no job."""
        if self.alive:
            self.alive = False
            self._channel.close()

    @property
    def idle(self) -> bool:
        """Could it take a request now?"""
        return self.alive and not self._streaming and not self.is_stale

    @property
    def is_stale(self) -> bool:
        """Has it been silent for so long that the far side may be about to end it?"""
        return not self._streaming and time.monotonic() - self.heard_at > IDLE_S / 2
