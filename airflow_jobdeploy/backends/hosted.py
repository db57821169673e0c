"""A worker that runs `hostside/`: this machine and SSH hosts are one class.

The contract as requests over the sessions of one connection (connection.py).
"""

from __future__ import annotations

import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from airflow_jobdeploy.backends import arriving, trees
from airflow_jobdeploy.backends.base import (
    ArtifactFile,
    Capabilities,
    Garbage,
    LogChunk,
    Progress,
    TreeReport,
    Upload,
    UploadNews,
    WorkerFacts,
)
from airflow_jobdeploy.backends.channel import Client, LocalClient
from airflow_jobdeploy.backends.connection import Connection
from airflow_jobdeploy.backends.leasing import Leasing
from airflow_jobdeploy.backends.session import Refusal, Session
from airflow_jobdeploy.backends.waker import Waker
from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobState, Reason, unknown
from airflow_jobdeploy.errors import StagingError, WorkerError, nearest

DEFAULT_ROOT = "~/.jobdeploy"
#: The most that one `log` request may ask for.
LOG_LIMIT = 4 * 1024 * 1024
#: A watch on a silent session asks whether it is still there after so long, and waits so long for the answer: a
#: connection into a black hole is given up within 10 s.
SILENCE_S = 3.0
ANSWER_S = 6.0
#: The same for a log that is being read, where bytes should come all the time.
LOG_STALL_S = 8.0
#: How long the output of a running job may take to be read for its manifest.
LISTING_S = 900.0


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """How kinds of hosted workers differ, as data."""

    capabilities: Capabilities
    python: str
    env_mode: str


_IS_LINUX = sys.platform.startswith("linux")
_KINDS = {
    "local": _Kind(
        capabilities=Capabilities(
            kind="local", reachable_from_anywhere=False, tracks_leftovers=_IS_LINUX, leases=_IS_LINUX
        ),
        python=sys.executable,
        env_mode="inherit",
    ),
    "ssh": _Kind(capabilities=Capabilities(kind="ssh", leases=True), python="python3", env_mode="login"),
}


#: A stream of files that is damaged, or that the worker gives up.
_BROKEN = (tarfile.TarError, Refusal)


class HostedBackend(Leasing):
    """The contract of `base.Backend`, for a host of which we have a shell.

    `worker` is its name in messages; `connect` makes one connection and is called anew after each loss; `root`
    is the directory for our files there; `path`: PATH of the jobs (None: that of a login shell); `machine`:
    the identity that must answer (None: whichever answers first, and from then on that one);
    `cache_limit_bytes`: what it may keep of code and data that no job uses (None: all).
    """

    def __init__(
        self,
        *,
        worker: str,
        kind: str,
        connect: Callable[[], Client],
        root: str = DEFAULT_ROOT,
        path: str | None = None,
        machine: str | None = None,
        cache_limit_bytes: int | None = None,
    ) -> None:
        super().__init__()
        self.worker = worker
        how = _KINDS[kind]
        self.capabilities = how.capabilities
        self._connection = Connection(
            worker=worker,
            connect=connect,
            python=how.python,
            root=root,
            greeting={"env_mode": how.env_mode, "path": path, "cache_limit_bytes": cache_limit_bytes},
            machine=machine,
        )
        #: The control session that tells changes, and of which jobs.
        self._subscribed: tuple[Session | None, frozenset[str]] = (None, frozenset())
        self._seen: dict[str, str] = {}
        #: The manifest that was asked for last: its job, its files by path.
        self._listed: tuple[str, dict[str, ArtifactFile]] = ("", {})
        self._waker = Waker()

    # -- the worker ----------------------------------------------------------------------------------------------

    def facts(self, *, quick: bool = False) -> WorkerFacts:
        return self._connection.known(gpus=not quick)

    def jobs(self, *, deployment: str | None = None, live_only: bool = False) -> list[dict[str, Any]]:
        answer = self._connection.control().request("jobs", deployment=deployment, live_only=live_only)
        return [{**job, "state": JobState.from_wire(job["state"]).to_dict()} for job in answer["jobs"]]

    def resource(self, resource_id: str) -> dict[str, Any] | None:
        record = self._connection.control().request("resource", resource=resource_id).get("record")
        return dict(record) if record is not None else None

    def close(self) -> None:
        self._connection.drop()
        self._waker.close()

    # -- the life of a job ---------------------------------------------------------------------------------------

    def claim(self, plan: Plan) -> JobState:
        answer = self._connection.control().request("claim", plan=plan.to_wire(), secrets=dict(plan.secret_env))
        return JobState.from_wire(answer["state"])

    def prepare(self, job_id: str, say: Callable[[str], None] = lambda text: None) -> None:
        self._connection.control()  # nothing is missing on a host, but it may be another, or away

    def start(self, job_id: str) -> JobState:
        with trees.gone():
            return JobState.from_wire(self._connection.control().request("start", job=job_id)["state"])

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        if not job_ids:
            return {}
        return self._states(self._connection.control().request("poll", jobs=list(job_ids))["states"])

    def stop(self, job_id: str, *, reason: str, by: str = "", grace_s: float | None = None) -> JobState:
        answer = self._connection.control().request("stop", job=job_id, reason=reason, by=by, grace_s=grace_s)
        return JobState.from_wire(answer["state"])

    def preempt(
        self, job_id: str, *, reason: str, by: str = "", signal: str | None = None, grace_s: float | None = None
    ) -> JobState:
        session = self._connection.control()
        answer = session.request("preempt", job=job_id, reason=reason, by=by, signal=signal, grace_s=grace_s)
        return JobState.from_wire(answer["state"])

    def renew(self, job_ids: Sequence[str]) -> None:
        self._connection.control().request("renew", jobs=list(job_ids))

    def extend(self, job_id: str, seconds: float, token: str) -> JobState:
        answer = self._connection.control().request("extend", job=job_id, seconds=seconds, token=token)
        return JobState.from_wire(answer["state"])

    def set_moved(self, job_id: str, successor: Plan) -> None:
        to: dict[str, Any] = {"job_id": successor.job_id, "attempt": successor.attempt, "worker": successor.worker}
        self._connection.control().request("move", job=job_id, **to)

    def set_owner(self, job_id: str, owner: str) -> None:
        self._connection.control().request("own", job=job_id, owner=owner)

    def forget(self, job_id: str) -> None:
        self._connection.control().request("forget", job=job_id)

    def collect(self, *, dry_run: bool, deployment: str = "") -> list[Garbage]:
        with self._connection.transfer() as session:  # no order to stop waits behind it
            answer = session.request("collect", reply_s=LISTING_S, dry_run=dry_run)
        found = [Garbage(**item) for item in answer["items"]]
        if answer["more"]:
            found.append(Garbage(kind="more", name=str(answer["more"]), why="not listed one by one"))
        return found

    def _states(self, states: Mapping[str, Mapping[str, Any] | None]) -> dict[str, JobState]:
        return {job_id: self._state(job_id, state) for job_id, state in states.items()}

    def _state(self, job_id: str, state: Mapping[str, Any] | None) -> JobState:
        if state is not None:
            return JobState.from_wire(state)
        facts = self._connection.facts
        where = f"{facts.hostname}:{facts.root}" if facts else self.worker
        return unknown(
            job_id, Reason.RECORD_MISSING, f"{self.worker} has no record of job {job_id} (looked in {where})"
        )

    # -- changes -------------------------------------------------------------------------------------------------

    def watch(self, job_ids: Sequence[str], timeout_s: float) -> dict[str, JobState]:
        wanted = frozenset(job_ids)
        session = self._connection.control()
        changed = self._subscribe(session, wanted)
        if not changed:
            self._take(session, 0.0 if self._answers else min(timeout_s, self._check_alive(session)))
            changed = self._changes(self._told, wanted)
            self._told.clear()
        self._waker.drain()
        return changed

    def wake(self) -> None:
        self._waker.wake()

    def _subscribe(self, session: Session, wanted: frozenset[str]) -> dict[str, JobState]:
        if self._subscribed == (session, wanted):
            return {}
        states = self._states(session.request("watch", jobs=sorted(wanted))["states"])
        self._subscribed = session, wanted
        self._seen = {job_id: mark for job_id, mark in self._seen.items() if job_id in wanted}
        return {job_id: state for job_id, state in states.items() if self._is_news(job_id, state)}

    def _changes(self, events: Iterable[Mapping[str, Any]], wanted: frozenset[str]) -> dict[str, JobState]:
        latest = {e["job"]: self._state(e["job"], e["state"]) for e in events if e.get("event") == "state"}
        return {job: state for job, state in latest.items() if job in wanted and self._is_news(job, state)}

    def _is_news(self, job_id: str, state: JobState) -> bool:
        """Does it differ from what was last given out, beside what changes by mere passing of time?"""
        told = (state.status.value, state.reason, state.phase, state.step, state.log_bytes, state.log_dropped_bytes)
        said = dict(state.facts), dict(state.messages)
        mark = json.dumps([*told, state.exit_code, state.signal, len(state.history), *said], default=str)
        is_news = self._seen.get(job_id) != mark
        self._seen[job_id] = mark
        return is_news

    def _check_alive(self, session: Session) -> float:
        """Ask a silent session for a sign of life; how long it may then be silent, in seconds."""
        if time.monotonic() - session.heard_at >= SILENCE_S:
            session.request("poll", jobs=[], reply_s=ANSWER_S)
        return max(0.0, session.heard_at + SILENCE_S - time.monotonic())

    # -- bytes ---------------------------------------------------------------------------------------------------

    def read_log(self, job_id: str, offset: int, limit: int) -> LogChunk:
        session = self._connection.logs()
        wanted = {"job": job_id, "offset": offset, "limit": min(limit, LOG_LIMIT)}
        answer, pieces = session.request_bytes("log", stall_s=LOG_STALL_S, **wanted)
        return LogChunk(offset=answer["offset"], data=b"".join(pieces), dropped_bytes=answer.get("dropped", 0))

    def has_tree(self, name: str) -> bool:
        return trees.has(self._connection.control(), name)

    def may_have(self, sizes: Sequence[int]) -> bool:
        return bool(self._connection.control().request("sizes", sizes=sorted(set(sizes)))["may"])

    def send_tree(self, source: TreeSource, progress: Progress = lambda done, todo: None) -> TreeReport:
        with self._connection.transfer() as session:
            return trees.send(session, source, progress)

    def use_tree(self, job_id: str, role: str, name: str) -> None:
        trees.use(self._connection.control(), job_id, role, name)

    def send_checkpoint(self, job_id: str, archive: Iterable[bytes]) -> None:
        self._put(job_id, archive, into="checkpoint", what="checkpoint")

    def _put(self, job_id: str, archive: Iterable[bytes], *, into: str, what: str) -> None:
        try:
            with self._connection.transfer() as session:
                session.send_bytes("put", archive, job=job_id, into=into)
        except Refusal as error:
            raise StagingError(f"the {what} could not be brought to {error}") from error

    def checkpoint(self, job_id: str) -> Iterator[bytes]:
        with self._connection.transfer() as session:
            _, pieces = session.request_bytes("checkpoint", job=job_id)
            yield from pieces

    def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
        if match is None:
            files = self._connection.control().request("manifest", job=job_id)["files"]
        else:  # may read many files first: no order to stop waits behind that
            with self._connection.transfer() as session:
                files = session.request("manifest", reply_s=LISTING_S, job=job_id, match=match)["files"]
        found = [ArtifactFile(path=f["path"], size=f["size"], sha256=f["sha256"], mode=f["mode"]) for f in files]
        self._listed = job_id, {file.path: file for file in found}
        return found

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        # Who fetches has asked for the manifest just before: 5,000 files are listed once.
        known = self._listed[1] if self._listed[0] == job_id else {}
        if not known.keys() >= set(paths):
            known = {file.path: file for file in self.manifest(job_id)}
        if missing := [path for path in paths if path not in known]:
            hint = nearest(missing[0], known)
            raise WorkerError(f"{self.worker}: job {job_id} has no output file {missing[0]!r}.{hint}")
        wanted = set(paths)
        return self._fetched(job_id, [path for path in known if path in wanted], offset, known)

    def _fetched(
        self, job_id: str, paths: list[str], offset: int, known: Mapping[str, ArtifactFile]
    ) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        explain = partial(self._explained, job_id)
        try:
            with self._connection.transfer() as session:
                _, pieces = session.request_bytes("get", job=job_id, paths=paths, offset=offset)
                stream = arriving.Pieces(pieces)
                for name, content in arriving.files(stream):
                    if name in known:
                        yield known[name], cast("IO[bytes]", arriving.Explained(content, _BROKEN, explain))
                stream.drain()
        except _BROKEN as error:
            raise explain(error) from error

    def upload(self, job_id: str, files: Sequence[Upload]) -> Iterator[UploadNews]:
        fields = UploadNews.__dataclass_fields__
        try:
            with self._connection.transfer() as session:
                _, pieces = session.request_bytes("upload", job=job_id, files=[asdict(file) for file in files])
                for line in arriving.lines(pieces):
                    yield UploadNews(**{key: value for key, value in json.loads(line).items() if key in fields})
        except (ValueError, TypeError, AttributeError) as error:
            raise WorkerError(f"{self.worker}: no news of an upload: {error}") from error

    def _explained(self, job_id: str, error: Exception) -> StagingError:
        if isinstance(error, Refusal):
            return StagingError(f"the files of job {job_id} could not be fetched: {error}")
        return StagingError(f"the files of job {job_id} arrived damaged from {self.worker}: {error}")


def local_backend(*, root: str | os.PathLike[str] = DEFAULT_ROOT, machine: str | None = None) -> HostedBackend:
    """This machine as a worker; jobs get the environment of this process."""
    place = str(Path(root).expanduser().absolute())
    return HostedBackend(worker="local", kind="local", connect=LocalClient, root=place, machine=machine)
