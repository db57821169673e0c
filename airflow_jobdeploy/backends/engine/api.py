"""Requests to an engine (Docker Engine API 1.41 and later). What cannot be asked is WorkerUnreachable.

The session comes from the docker SDK's client, which is one of `requests`: it knows unix sockets, TLS and ssh. Every
request has a timeout for each read, so that an engine that has become a black hole is noticed, whatever is under way.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Protocol

from airflow_jobdeploy.errors import WorkerError, WorkerUnreachable

#: Longest silence in an answer, in seconds; and where the engine works on it meanwhile (copies, starts).
ANSWER_S, WORK_S = 8.0, 120.0
_CONNECT_S = 10.0
_PIECE = 256 * 1024


class Http(Protocol):
    """A session of the docker SDK (`docker.APIClient`)."""

    base_url: str

    @property
    def api_version(self) -> str: ...

    def get_adapter(self, url: str) -> Any: ...

    def request(self, method: str, url: str, **options: Any) -> Any: ...

    def close(self) -> None: ...


#: What engines say of a container that is being removed.
_GOING = ("is marked for removal", "is unexpectedly nil", "removal of container")


class EngineError(WorkerError):
    """The engine answered that it cannot. `status`: of HTTP; `said`: its own words."""

    def __init__(self, worker: str, status: int, said: str) -> None:
        super().__init__(f"{worker}: {said}")
        self.status = status
        self.said = said

    @property
    def is_missing(self) -> bool:
        """Is it not there, or about to go?"""
        return self.status == 404 or any(sign in self.said for sign in _GOING)

    @property
    def is_conflict(self) -> bool:
        return self.status == 409

    @property
    def is_broken_mount(self) -> bool:
        """Is what a volume shows not there any more?"""
        return "failed to mount local volume" in self.said


def unreachable_errors() -> tuple[type[Exception], ...]:
    """What a request fails with when the engine did not answer."""
    import urllib3

    return (OSError, EOFError, urllib3.exceptions.HTTPError, *_of_libraries())


def _of_libraries() -> tuple[type[Exception], ...]:
    """Those of the docker SDK, which has its own for a connect, and of paramiko below it."""
    found: list[type[Exception]] = []
    with contextlib.suppress(ImportError):
        from docker.errors import DockerException

        found.append(DockerException)
    with contextlib.suppress(ImportError):
        import paramiko

        found.append(paramiko.SSHException)
    return tuple(found)


def reason(error: BaseException) -> str:
    """Why there was no answer, without a full stop: the libraries wrap what the system has said several times."""
    cause = _system_error(error)
    said = str(error).strip() if cause is None else str(cause.strerror)
    return (said or type(error).__name__).rstrip(".")


def _system_error(error: BaseException) -> OSError | None:
    """The error of the operating system that is in this one."""
    todo, seen = [error], set[int]()
    while todo:
        found = todo.pop()
        if isinstance(found, OSError) and found.strerror:
            return found
        seen.add(id(found))
        inner = [*found.args, getattr(found, "reason", None), found.__cause__, found.__context__]
        todo += [each for each in inner if isinstance(each, BaseException) and id(each) not in seen]
    return None


class Engine:
    """One engine. Connects when first asked, and anew after a loss. Used by one thread at a time."""

    def __init__(self, *, worker: str, connect: Callable[[], Http]) -> None:
        self.worker = worker
        self._connect = connect
        self._http: Http | None = None
        #: The answer that is being read in pieces.
        self._reading: Any = None
        self.heard_at = time.monotonic()
        #: What the latest answer says the time is, in seconds since 1970, and when that was.
        self.dated = (time.time(), time.monotonic())

    # -- asking ----------------------------------------------------------------------------------------------------

    def get(self, path: str, /, *, answer_s: float = ANSWER_S, **params: Any) -> Any:
        """The JSON at a path. EngineError, WorkerUnreachable."""
        return self.ask("GET", path, answer_s=answer_s, params=params)

    def post(self, path: str, body: Any = None, /, *, answer_s: float = WORK_S, **params: Any) -> Any:
        return self.ask("POST", path, answer_s=answer_s, params=params, body=body)

    def delete(self, path: str, /, **params: Any) -> None:
        self.ask("DELETE", path, answer_s=WORK_S, params=params)

    def ask(self, method: str, path: str, *, answer_s: float, params: Mapping[str, Any], body: Any = None) -> Any:
        options: dict[str, Any] = {"params": _plain(params)}
        if body is not None:
            options["data"] = json.dumps(body)
            options["headers"] = {"Content-Type": "application/json"}
        with self._guarded(), self._answer(method, path, answer_s, **options) as answer:
            text = answer.content
            return json.loads(text) if text.strip() else None

    def send(self, path: str, data: Iterable[bytes], /, *, answer_s: float = WORK_S, **params: Any) -> None:
        """PUT a stream of bytes."""
        headers = {"Content-Type": "application/x-tar"}
        with self._guarded():
            options: dict[str, Any] = {"params": _plain(params), "data": data, "headers": headers}
            with self._answer("PUT", path, answer_s, **options) as answer:
                assert answer.content is not None

    @contextlib.contextmanager
    def receive(
        self,
        path: str,
        /,
        *,
        method: str = "GET",
        answer_s: float = ANSWER_S,
        headers: Mapping[str, str] | None = None,
        data: Iterable[bytes] | None = None,
        **params: Any,
    ) -> Iterator[Iterator[bytes]]:
        """The bytes at a path, in pieces as they come."""
        options: dict[str, Any] = {"params": _plain(params), "headers": dict(headers or {}), "data": data}
        with self._guarded(), self._answer(method, path, answer_s, **options) as answer:
            yield self._pieces(answer)

    def _pieces(self, answer: Any) -> Iterator[bytes]:
        self._reading = answer
        with self._guarded():
            for piece in answer.raw.stream(_PIECE):
                self.heard_at = time.monotonic()
                yield piece

    def exists(self, path: str, /, *, answer_s: float = ANSWER_S, **params: Any) -> bool:
        """HEAD, as a question."""
        return self.head(path, answer_s=answer_s, **params) is not None

    def head(self, path: str, /, *, answer_s: float = ANSWER_S, **params: Any) -> dict[str, str] | None:
        """The headers of a path; None where there is none."""
        try:
            with self._guarded(), self._answer("HEAD", path, answer_s, params=_plain(params)) as answer:
                return dict(answer.headers)
        except EngineError as error:
            if error.is_missing:
                return None
            raise

    def _answer(self, method: str, path: str, answer_s: float, **options: Any) -> Any:
        http = self._session()
        url = f"{http.base_url}/v{http.api_version}{path}"
        # As it is: engines compress archives when they may, which takes longer than to send them.
        headers = {"Accept-Encoding": "identity", **(options.pop("headers", None) or {})}
        answer = http.request(method, url, headers=headers, stream=True, timeout=(_CONNECT_S, answer_s), **options)
        self.heard_at = time.monotonic()
        with contextlib.suppress(KeyError, ValueError, TypeError):
            self.dated = (parsedate_to_datetime(answer.headers["Date"]).timestamp(), self.heard_at)
        if answer.status_code >= 400:
            with answer:
                raise EngineError(self.worker, answer.status_code, _said(answer))
        return answer

    def _session(self) -> Http:
        if self._http is None:
            self._http = _of_one_pool(self._connect())
        return self._http

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except WorkerError:
            raise
        except unreachable_errors() as error:
            self.drop()
            raise WorkerUnreachable(
                f"{self.worker} cannot be asked: {reason(error)}. What runs there goes on."
            ) from error

    def another(self) -> Engine:
        """A connection of its own to the same engine, for another thread."""
        return Engine(worker=self.worker, connect=self._connect)

    def interrupt(self) -> None:
        """From another thread: end the answer that is being read."""
        connection: Any = getattr(getattr(self._reading, "raw", None), "connection", None)
        with contextlib.suppress(OSError, AttributeError):  # it has ended by itself
            connection.sock.shutdown(socket.SHUT_RDWR)

    @property
    def is_connected(self) -> bool:
        return self._http is not None

    def rest(self) -> None:
        """Let go of a connection that is not in use; by ssh it is one of several in another, which stays."""
        adapter: Any = self._http.get_adapter(self._http.base_url) if self._http is not None else None
        for pools in (getattr(adapter, "pools", None), getattr(adapter, "poolmanager", None)):
            if pools is not None and not hasattr(adapter, "ssh_client"):
                pools.clear()

    def drop(self) -> None:
        """Let go of the connection; the next question makes another."""
        http, self._http = self._http, None
        if http is not None:
            http.close()


def _of_one_pool(http: Http) -> Http:
    """Let a session's connections serve all questions. The docker SDK's adapters for sockets and ssh keep some for each
    URL, its path and query included: up to 25, each used once or twice."""
    adapter: Any = http.get_adapter(http.base_url)
    if hasattr(adapter, "pools"):
        adapter.pools.clear()
        ask = adapter.get_connection
        adapter.get_connection = lambda url, proxies=None: ask(http.base_url, proxies)
    return http


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for key, value in params.items():
        if isinstance(value, bool):
            found[key] = "1" if value else "0"
        elif isinstance(value, dict):
            found[key] = json.dumps(value)
        elif value is not None:
            found[key] = value
    return found


def _said(answer: Any) -> str:
    """The engine's reason: {"message": ...}, or plain text from what stands before it."""
    text = (answer.content or b"").decode(errors="replace").strip()
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:800] or f"status {answer.status_code}"
