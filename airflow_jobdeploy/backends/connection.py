"""One connection to a host, and the sessions on it: opened when first needed, replaced when lost.

One control session for small requests and changes, one for logs, and up to four for transfers. Where the host allows
one session a connection only (sshd: MaxSessions 1), the control session does all of it, one thing after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import airflow_jobdeploy
from airflow_jobdeploy.backends.base import WorkerFacts
from airflow_jobdeploy.backends.channel import ChannelRefused, Client
from airflow_jobdeploy.backends.session import IDLE_S, Refusal, Session
from airflow_jobdeploy.errors import WorkerChanged, WorkerUnreachable
from airflow_jobdeploy.hostside.protocol import GPUS_UNKNOWN

_TRANSFERS = 4


class Connection:
    """What a backend asks through. `greeting`: what a session's `hello` says; `machine`: the identity that must answer
    (None: whichever answers first, and from then on that one). Used by one thread at a time."""

    def __init__(
        self,
        *,
        worker: str,
        connect: Callable[[], Client],
        python: str,
        root: str,
        greeting: Mapping[str, Any],
        machine: str | None,
    ) -> None:
        self.facts: WorkerFacts | None = None
        self._worker = worker
        self._connect = connect
        self._python = python
        self._root = root
        self._greeting = greeting
        self._machine = machine
        self._client: Client | None = None
        self._control: Session | None = None
        self._logs: Session | None = None
        self._transfers: list[Session] = []
        #: Does the host allow one session only?
        self._single = False
        #: Did a transfer break on this connection?
        self._failed = False

    def control(self) -> Session:
        """The control session; a lost one is replaced, by way of a new connection. WorkerUnreachable, WorkerChanged."""
        if self._control is not None and self._control.alive and self._control.is_stale and not self._single:
            self._control.close()  # the connection may be busy with a transfer: only this session is replaced
            self._control = self._open()
        if self._control is None or not self._control.alive or self._is_suspect():
            self.drop()
            try:
                self._control = self._open()
            except ChannelRefused as error:
                self.drop()
                raise WorkerUnreachable(f"{self._worker}: {error}") from error
        return self._control

    def logs(self) -> Session:
        """The session for logs."""
        if self._logs is None or not self._logs.idle:
            self._logs = self._extra()
        return self._logs

    @contextmanager
    def transfer(self) -> Iterator[Session]:
        """A session for one transfer."""
        session = self._take_transfer()
        try:
            yield session
        finally:
            self._give_back(session)

    def drop(self) -> None:
        """Let go of the connection; the next question makes another."""
        for session in (self._control, self._logs, *self._transfers):
            if session is not None:
                session.close()
        if self._client is not None:
            self._client.close()
        self._client = self._control = self._logs = None
        self._transfers = []
        self._single = self._failed = False

    # -- opening -------------------------------------------------------------------------------------------------

    def _is_suspect(self) -> bool:
        """Is the connection gone, or has something on it failed, which then may not be known of the rest yet?"""
        failed = self._failed or (self._logs is not None and self._logs.broken)
        return failed or self._client is None or not self._client.is_alive

    def _open(self) -> Session:
        if self._client is None:
            self._client = self._connect()
        session = Session(self._client, python=self._python, root=self._root)
        try:
            version = getattr(airflow_jobdeploy, "__version__", "")
            self._learn(session.request("hello", client=version, idle_s=IDLE_S, **self._greeting))
        except BaseException:
            session.close()
            raise
        return session

    def known(self, *, gpus: bool = True) -> WorkerFacts:
        """What the worker says of itself. `gpus`: wait a while for the tool that tells them, if its hello has not."""
        control = self.control()
        assert self.facts is not None
        if gpus and control.idle and any(text.startswith(GPUS_UNKNOWN) for text in self.facts.warnings):
            try:
                self._learn_gpus(self.facts, control.request("room", gpus=True))
            except Refusal:  # a system that gives out no leases
                pass
        return self.facts

    def _learn_gpus(self, facts: WorkerFacts, answer: Mapping[str, Any]) -> None:
        capacity = answer["capacity"]
        if "gpus_unknown" in capacity:
            return
        gpus = tuple({key: value for key, value in gpu.items() if key != "outsiders"} for gpu in capacity["gpus"])
        warnings = tuple(text for text in facts.warnings if not text.startswith(GPUS_UNKNOWN))
        self.facts = replace(facts, gpus=gpus, driver=str(answer["driver"]), warnings=warnings)

    def _learn(self, answer: Mapping[str, Any]) -> None:
        known = {key: answer[key] for key in WorkerFacts.__dataclass_fields__ if key in answer}
        lists = {key: tuple(answer.get(key, ())) for key in ("gpus", "warnings")}
        facts = WorkerFacts(**{**known, **lists, "worker": self._worker})
        if self._machine is not None and facts.machine != self._machine:
            raise WorkerChanged(
                f"another machine answers as {self._worker}: {facts.machine} ({facts.hostname}), expected"
                f" {self._machine}. Was the host replaced, its root emptied, or does the name lead to several hosts?"
            )
        self._machine, self.facts = facts.machine, facts

    def _extra(self) -> Session:
        """One more session, or the control session where the host allows no more."""
        control = self.control()
        if not self._single:
            try:
                return self._open()
            except ChannelRefused:
                self._single = True
        return control

    # -- transfers -----------------------------------------------------------------------------------------------

    def _take_transfer(self) -> Session:
        self.control()
        while self._transfers:
            session = self._transfers.pop()
            if session.idle:
                return session
        return self._extra()

    def _give_back(self, session: Session) -> None:
        """A session whose transfer was given up half-way is of no more use, whichever it is."""
        self._failed = self._failed or session.broken
        keeps = session is self._control or len(self._transfers) < _TRANSFERS
        if not (session.idle and keeps):
            session.close()
        elif session is not self._control:
            self._transfers.append(session)
