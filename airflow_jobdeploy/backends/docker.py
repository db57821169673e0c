"""A Docker engine as a worker: each attempt is a container, named by its job id.

The contract of `base.Backend` in terms of engine/: what lies where is said in engine/names.py, what a container does in
engine/init/, what follows from what is seen in engine/judging.py. Nothing is installed on the engine's machine, and
nothing of this machine's file system is mounted: all files go through the engine's API.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import IO, Any

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
from airflow_jobdeploy.backends.engine import files as exchange
from airflow_jobdeploy.backends.engine import names, orders, overview, sweeping, trees
from airflow_jobdeploy.backends.engine.api import Engine, EngineError, Http
from airflow_jobdeploy.backends.engine.garbage import Sweep
from airflow_jobdeploy.backends.engine.listing import Listing
from airflow_jobdeploy.backends.engine.parts import Parts, assembled, checked_machine
from airflow_jobdeploy.backends.engine.places import Places
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.backends.engine.stock import facts_of
from airflow_jobdeploy.backends.engine.watching import EngineWatch
from airflow_jobdeploy.core.leases import Room, SeekAnswer, Ticket
from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobState, Reason, unknown
from airflow_jobdeploy.errors import WorkerError
from airflow_jobdeploy.hostside import life

#: The most that one `read_log` gives.
LOG_LIMIT = 4 * 1024 * 1024


class DockerBackend:
    """One engine. `connect` makes a session of the docker SDK, anew after each loss; `settings`: of its pool;
    `machine`: the identity that must answer (None: whichever answers first, and from then on that one);
    `reachable_from_anywhere`: not by a socket, which leads to another engine on each machine."""

    def __init__(
        self,
        *,
        worker: str,
        connect: Callable[[], Http],
        settings: Settings,
        machine: str | None = None,
        reachable_from_anywhere: bool = True,
    ) -> None:
        self.worker = worker
        self.capabilities = Capabilities(kind="docker", reachable_from_anywhere=reachable_from_anywhere, leases=True)
        self._connect = connect
        self._settings = settings
        self._machine = machine
        self._engine = Engine(worker=worker, connect=connect)
        self._parts: Parts | None = None
        self._known_facts: WorkerFacts | None = None
        self._secrets: dict[str, Mapping[str, str]] = {}
        self._watch_holder = EngineWatch(worker=worker, connect=connect)

    # -- the worker ----------------------------------------------------------------------------------------------

    def facts(self, *, quick: bool = False) -> WorkerFacts:
        parts = self._ready()
        if quick:
            return parts.quick_facts
        if self._known_facts is None:
            info = parts.stock.described()
            self._known_facts = facts_of(self.worker, self._machine or "", info, parts.jobs.listing(), parts.stock)
        return self._known_facts

    def _ready(self) -> Parts:
        """Connected, and to the machine that is expected. WorkerUnreachable, WorkerChanged."""
        if self._parts is None or not self._engine.is_connected:
            places = Places(self._engine)
            self._watch_holder.reset()
            self._machine = checked_machine(self.worker, places, self._machine)
            self._known_facts = None
            self._parts = assembled(
                self._engine, places, self._watch_holder, self._settings, self._secrets, self._machine
            )
        self._parts.stays.tend()
        return self._parts

    def cordon(self, *, by: str, why: str = "", lift: bool = False) -> str:
        return self._ready().stock.cordon(by=by, why=why, lift=lift)

    # -- the line ------------------------------------------------------------------------------------------------

    def seek(self, ticket: Ticket) -> SeekAnswer:
        return self._ready().line.seek(ticket)

    def granted(self, timeout_s: float = 0.0) -> dict[str, SeekAnswer]:
        parts = self._ready()
        parts.watch.wait_in_line(self._engine, parts.jobs, timeout_s, parts.line)
        return parts.line.take_news()

    def drop(self, uid: str) -> None:
        self._ready().line.drop(uid)

    def release(self, lease_id: str) -> bool:
        return self._ready().line.release(lease_id)

    def room(self, *, gpus: bool = True) -> Room:
        return self._ready().line.room(gpus=gpus)

    def jobs(self, *, deployment: str | None = None, live_only: bool = False) -> list[dict[str, Any]]:
        parts = self._ready()
        listing = parts.jobs.listing()
        if parts.starts.advance(overview.live(listing), listing):
            listing = parts.jobs.listing()
        return overview.rows(parts.jobs, listing, deployment=deployment, live_only=live_only)

    def resource(self, resource_id: str) -> dict[str, Any] | None:
        parts = self._ready()
        return parts.resources.record(resource_id, parts.places.now())

    def close(self) -> None:
        if self._parts is not None and self._engine.is_connected:
            with contextlib.suppress(WorkerError):  # its tickets end by themselves, later
                self._parts.line.close()
        self._watch_holder.close()
        self._drop()

    def _drop(self) -> None:
        self._parts = None
        self._engine.drop()

    # -- the life of a job ---------------------------------------------------------------------------------------

    def claim(self, plan: Plan) -> JobState:
        parts = self._ready()
        made = parts.claims.claim(plan)
        parts.stays.add(plan.job_id, str(plan.lease.get("id") or ""))
        return self._state(plan.job_id, made)

    def prepare(self, job_id: str, say: Callable[[str], None] = lambda text: None) -> None:
        parts = self._ready()
        if job_id not in parts.containers.prepared:
            parts.claims.prepare(job_id, self._listed(job_id), parts.stays.beside(say))

    def start(self, job_id: str) -> JobState:
        parts = self._ready()
        listing = self._listed(job_id)
        state = self._state(job_id, listing)
        if state.phase == "claimed":
            if state.moved_to is not None:
                told = "attempt {attempt} on {worker}".format(**state.moved_to)
                raise WorkerError(f"{told} has taken the place of job {job_id}: it is not started again")
            listing = parts.jobs.begin(job_id, parts.starts.start(job_id, listing))
            parts.stays.remove(job_id)
            if job_id not in listing.volumes:
                raise WorkerError(f"{self.worker} knows no job {job_id}")
            self._sweep_seldom(listing, listing.labels(job_id).get(names.DEPLOYMENT, ""))
            state = self._state(job_id, listing)
            if state.phase == "ended":  # so soon: what follows is told its end, and with that how much log there is
                state = parts.jobs.state(job_id, listing) or state
            parts.watch.begin(state, listing)
        return state

    def _sweep_seldom(self, listing: Listing, deployment: str) -> None:
        parts = self._ready()
        if sweeping.is_time(parts.jobs, listing):
            limit = self._settings.cache_limit_bytes
            shells = list(parts.claims.images)
            sweeping.in_background(
                self.worker, self._connect, deployment=deployment, cache_limit_bytes=limit, shells=shells
            )

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        if not job_ids:
            return {}
        parts = self._ready()
        listing = parts.jobs.listing()
        if parts.starts.advance(job_ids, listing):
            listing = parts.jobs.listing()
        return {job_id: self._told(job_id, parts.jobs.state(job_id, listing)) for job_id in job_ids}

    def stop(self, job_id: str, *, reason: str, by: str = "", grace_s: float | None = None) -> JobState:
        order = {"reason": reason, "by": by, "grace_s": grace_s}
        return self._ordered(job_id, orders.Order(name="stop", facts=order, grace_s=grace_s))

    def preempt(
        self, job_id: str, *, reason: str, by: str = "", signal: str | None = None, grace_s: float | None = None
    ) -> JobState:
        order = {"reason": reason, "by": by, "grace_s": grace_s, "signal": signal}
        return self._ordered(job_id, orders.Order(name="preempt", facts=order, grace_s=grace_s, signal=signal))

    def _ordered(self, job_id: str, order: orders.Order) -> JobState:
        parts = self._ready()
        self._ours(job_id)
        state = self._state(job_id)
        if state.phase != "ended":
            orders.give(self._engine, parts.places, parts.jobs, job_id, order)
            parts.jobs.forget(job_id)
            parts.watch.expect(job_id)
            state = self._state(job_id)
        return state

    def renew(self, job_ids: Sequence[str]) -> None:
        parts = self._ready()
        if any(orders.may_have_lease(parts.jobs.latest, job_id) for job_id in job_ids):
            orders.renew(parts.places, parts.jobs.listing(), job_ids)

    def extend(self, job_id: str, seconds: float, token: str) -> JobState:
        parts = self._ready()
        self._ours(job_id)
        state = self._state(job_id)
        if state.life_span_s is None or state.phase == "ended" or not 0 < seconds <= life.MOST_S:
            over = f"is over ({state.status}): its life cannot be lengthened"
            why = over if state.phase == "ended" else f"has no life_span that could be lengthened by {seconds} s"
            raise WorkerError(f"{self.worker}: job {job_id} {why}")
        orders.extend(parts.places, parts.jobs.listing(), job_id, seconds, token)
        parts.jobs.forget(job_id)
        return self._state(job_id)

    def set_moved(self, job_id: str, successor: Plan) -> None:
        parts = self._ready()
        listing = self._ours(job_id)
        known = listing.successor(job_id)
        if known is None or known["attempt"] < successor.attempt:
            to = {"job_id": successor.job_id, "attempt": successor.attempt, "worker": successor.worker}
            parts.jobs.note(names.MOVED, job_id, json.dumps(to))

    def set_owner(self, job_id: str, owner: str) -> None:
        if owner not in ("task", "none"):
            raise WorkerError(f"{self.worker}: owner is {owner!r}, expected task or none")
        parts = self._ready()
        self._ours(job_id)
        parts.jobs.note(names.OWNER, job_id, owner)

    def forget(self, job_id: str) -> None:
        parts = self._ready()
        self._ours(job_id)
        if self._state(job_id).phase not in ("ended", "claimed"):
            raise WorkerError(f"{self.worker}: job {job_id} has not ended: stop it first")
        orders.remove(parts.places, parts.jobs, job_id, parts.jobs.listing())

    def collect(self, *, dry_run: bool, deployment: str = "") -> list[Garbage]:
        parts = self._ready()
        limit = self._settings.cache_limit_bytes
        return Sweep(
            self._engine,
            parts.places,
            parts.jobs,
            dry_run=dry_run,
            deployment=deployment,
            cache_limit_bytes=limit,
            shells=parts.claims.images,
        ).run()

    def _listed(self, job_id: str) -> Listing:
        """The listing, with a job in it."""
        listing = self._ready().jobs.listing()
        if job_id not in listing.volumes:
            raise WorkerError(f"{self.worker} knows no job {job_id}")
        return listing

    def _ours(self, job_id: str) -> Listing:
        """The listing, with a job that this release may change."""
        listing = self._listed(job_id)
        if newer := listing.newer(job_id):
            raise WorkerError(f"{self.worker}: job {job_id} has layout {newer}, of a newer release: use that")
        return listing

    def _state(self, job_id: str, listing: Listing | None = None) -> JobState:
        listing = listing or self._listed(job_id)
        state = self._ready().jobs.state(job_id, listing, counts_log=False)
        assert state is not None
        return state

    def _told(self, job_id: str, state: JobState | None) -> JobState:
        if state is not None:
            return state
        return unknown(job_id, Reason.RECORD_MISSING, f"{self.worker} has no record of job {job_id}")

    # -- changes -------------------------------------------------------------------------------------------------

    def watch(self, job_ids: Sequence[str], timeout_s: float) -> dict[str, JobState]:
        parts = self._ready()
        return parts.watch.wait(
            self._engine, parts.jobs, job_ids, timeout_s, self._told, parts.starts.advance, parts.line
        )

    def wake(self) -> None:
        self._watch_holder.wake()

    # -- bytes ---------------------------------------------------------------------------------------------------

    def read_log(self, job_id: str, offset: int, limit: int) -> LogChunk:
        parts = self._ready()
        log = parts.jobs.log(job_id, self._listed(job_id))
        if log is None:
            return LogChunk(offset=offset, data=b"")
        try:
            begin, data = log.read(offset, min(limit, LOG_LIMIT))
        except EngineError as error:
            if not error.is_missing:
                raise
            begin, data = offset, b""  # the container was removed, and its log with it
        return LogChunk(offset=begin, data=data, dropped_bytes=begin - offset)

    def has_tree(self, name: str) -> bool:
        return trees.has(self._ready().places, name)

    def may_have(self, sizes: Sequence[int]) -> bool:
        self._ready()
        return True  # what the trees of an engine hold is dear to ask

    def send_tree(self, source: TreeSource, progress: Progress = lambda done, todo: None) -> TreeReport:
        parts = self._ready()
        return trees.send(parts.places, source, parts.stays.beside(progress), parts.claims.images)

    def use_tree(self, job_id: str, role: str, name: str) -> None:
        parts = self._ready()
        parts.claims.use_tree(job_id, self._ours(job_id), role, name)

    def send_checkpoint(self, job_id: str, archive: Iterable[bytes]) -> None:
        parts = self._ready()
        uid = self._listed(job_id).labels(job_id)[names.UID]
        place = exchange.Place(volume=names.uid_volume(uid))
        exchange.send(parts.places, place, archive, what="checkpoint", worker=self.worker)

    def checkpoint(self, job_id: str) -> Iterator[bytes]:
        parts = self._ready()
        uid = self._listed(job_id).labels(job_id)[names.UID]
        yield from exchange.receive(parts.places, exchange.Place(volume=names.uid_volume(uid)))

    def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
        parts = self._ready()
        return exchange.manifest(parts.places, parts.jobs, job_id, self._listed(job_id), match)

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        parts = self._ready()
        return exchange.fetch(parts.places, parts.jobs, job_id, self._listed(job_id), paths, offset, self.worker)

    def upload(self, job_id: str, files: Sequence[Upload]) -> Iterator[UploadNews]:
        parts = self._ready()
        return exchange.upload(parts.places, parts.jobs, job_id, self._listed(job_id), files)
