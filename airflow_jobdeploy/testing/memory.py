"""A backend whose worker is a MemoryHost: a peer of the real ones, under the same contract."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

from airflow_jobdeploy.backends.base import (
    DATASET,
    WORK,
    ArtifactFile,
    Capabilities,
    Garbage,
    LogChunk,
    Progress,
    TreeGone,
    TreeReport,
    Upload,
    UploadNews,
    WorkerFacts,
)
from airflow_jobdeploy.core.manifest import TreeSource
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobState, Reason, unknown
from airflow_jobdeploy.errors import StagingError, WorkerChanged, WorkerError, WorkerUnreachable, nearest
from airflow_jobdeploy.hostside.upload import send_all
from airflow_jobdeploy.testing.job import MemoryJob
from airflow_jobdeploy.testing.leasing import Leasing
from airflow_jobdeploy.testing.machine import Machine
from airflow_jobdeploy.testing.trees import Arrival, pack, unpack


class MemoryBackend(Leasing):
    """One connection to a MemoryHost; see `MemoryHost.backend`."""

    capabilities = Capabilities(kind="memory", leases=True)

    def __init__(self, host: Machine, *, machine: str | None = None) -> None:
        super().__init__(host)
        self.worker = host.name
        self.machine = machine
        self._seen: dict[str, tuple[object, ...]] = {}

    def _ask(self) -> Machine:
        """The host, if it can be asked and is the same as ever."""
        host = self._host
        if self._closed:
            raise WorkerError(f"this backend of {host.name} is closed: make another")
        if not host.plugged:
            raise WorkerUnreachable(f"{host.name} cannot be asked: it is unplugged. What runs there goes on.")
        if self.machine is not None and self.machine != host.machine:
            raise WorkerChanged(f"another machine answers as {host.name}: {host.machine}, expected {self.machine}")
        self.machine = host.machine
        return host

    def _job(self, job_id: str) -> MemoryJob:
        return self._ask().job(job_id)

    def facts(self, *, quick: bool = False) -> WorkerFacts:
        with self._host.changed:
            host = self._ask()
            boot, live = str(host.boot), len(host.running())
        gpus = tuple(host.line.capacity["gpus"])
        return WorkerFacts(
            worker=host.name,
            machine=host.machine,
            boot=boot,
            hostname=host.name,
            cpu_count=1,
            live_jobs=live,
            gpus=gpus,
            cordoned=str(host.line.capacity.get("cordoned") or ""),
        )

    # -- the life of a job -------------------------------------------------------------------------------------

    def claim(self, plan: Plan) -> JobState:
        with self._host.changed:
            # By way of JSON, as to any worker.
            sent = Plan.from_wire({**plan.to_wire(), "secret_env": dict(plan.secret_env)})
            return self._ask().claim(sent).state()

    def prepare(self, job_id: str, say: Callable[[str], None] = lambda text: None) -> None:
        with self._host.changed:
            self._job(job_id)

    def start(self, job_id: str) -> JobState:
        with self._host.changed:
            job = self._job(job_id)
            job.start()
            return job.state()

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        with self._host.changed:
            host = self._ask()
            return {job_id: self._state(host, job_id) for job_id in job_ids}

    def _state(self, host: Machine, job_id: str) -> JobState:
        if job_id in host.jobs:
            return host.jobs[job_id].state()
        return unknown(job_id, Reason.RECORD_MISSING, f"{host.name} has no record of job {job_id}")

    def stop(self, job_id: str, *, reason: str, by: str = "", grace_s: float | None = None) -> JobState:
        with self._host.changed:
            job = self._job(job_id)
            job.order_stop(reason=reason, by=by, grace_s=grace_s)
            return job.state()

    def preempt(
        self, job_id: str, *, reason: str, by: str = "", signal: str | None = None, grace_s: float | None = None
    ) -> JobState:
        with self._host.changed:
            job = self._job(job_id)
            job.order_preempt(reason=reason, by=by, grace_s=grace_s)
            return job.state()

    def renew(self, job_ids: Sequence[str]) -> None:
        with self._host.changed:
            host = self._ask()
            for job_id in job_ids:
                if job_id in host.jobs:
                    host.jobs[job_id].renewed_at = host.clock.now()

    def extend(self, job_id: str, seconds: float, token: str) -> JobState:
        with self._host.changed:
            job = self._job(job_id)
            job.extend(seconds, token)
            return job.state()

    def set_moved(self, job_id: str, successor: Plan) -> None:
        with self._host.changed:
            to = {"job_id": successor.job_id, "attempt": successor.attempt, "worker": successor.worker}
            self._job(job_id).moved_to = to

    def checkpoint(self, job_id: str) -> Iterator[bytes]:
        with self._host.changed:
            files = dict(self._host.checkpoint(self._job(job_id).plan.uid))
        yield pack(files)

    def send_checkpoint(self, job_id: str, archive: Iterable[bytes]) -> None:
        self._job(job_id)
        files = unpack(b"".join(archive))
        with self._host.changed:
            place = self._host.checkpoint(self._job(job_id).plan.uid)
            place.clear()
            place.update(files)

    def set_owner(self, job_id: str, owner: str) -> None:
        with self._host.changed:
            self._job(job_id).owner = owner

    def forget(self, job_id: str) -> None:
        with self._host.changed:
            if self._job(job_id).is_live:
                raise WorkerError(f"{self._host.name}: job {job_id} is active: stop it first")
            del self._host.jobs[job_id]

    def collect(self, *, dry_run: bool, deployment: str = "") -> list[Garbage]:
        host, found = self._ask(), []
        with host.changed:
            for job_id, job in list(host.jobs.items()):
                state = job.state()
                age_s = min((float(entry.get("ago_s") or 0) for entry in state.history), default=0.0)
                if state.phase != "ended" or age_s <= job.plan.limits.keep_for_s:
                    continue
                found.append(Garbage(kind="job", name=job_id, why="ended longer ago than its keep_for", age_s=age_s))
                if not dry_run:
                    del host.jobs[job_id]
        return found

    # -- changes -----------------------------------------------------------------------------------------------

    def watch(self, job_ids: Sequence[str], timeout_s: float) -> dict[str, JobState]:
        news: dict[str, JobState] = {}

        def look() -> bool:
            news.update(self._news(job_ids))
            return bool(news) or self._has_answers() or self._woken or self._closed

        with self._host.changed:
            # In real time, whatever the host's clock: who waits here is not on the host.
            self._host.changed.wait_for(look, timeout_s)
            self._woken = False
        return news

    def _news(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        states = self.poll(job_ids)
        marks = {job_id: _mark(state) for job_id, state in states.items()}
        changed = {job_id: states[job_id] for job_id in states if self._seen.get(job_id) != marks[job_id]}
        self._seen = marks
        return changed

    def wake(self) -> None:
        with self._host.changed:
            self._woken = True
            self._host.changed.notify_all()

    # -- what is there -----------------------------------------------------------------------------------------

    def jobs(self, *, deployment: str | None = None, live_only: bool = False) -> list[dict[str, Any]]:
        with self._host.changed:
            found = reversed([*self._ask().jobs.values()])
            return [
                {"plan": {**job.plan.to_wire(), "owner": job.owner}, "state": job.state().to_dict()}
                for job in found
                if deployment in (None, job.plan.key.deployment) and not (live_only and job.has_ended)
            ]

    def resource(self, resource_id: str) -> dict[str, Any] | None:
        with self._host.changed:
            found = self._ask().resources.get(resource_id)
            return dict(found["record"]) if found else None

    # -- bytes -------------------------------------------------------------------------------------------------

    def has_tree(self, name: str) -> bool:
        with self._host.changed:
            store = self._ask().store
            store.check_free(name)
            return name in store.trees

    def may_have(self, sizes: Sequence[int]) -> bool:
        self._ask()
        return True

    def send_tree(self, source: TreeSource, progress: Progress = lambda done, todo: None) -> TreeReport:
        def told(done: int, todo: int) -> None:
            self._ask()  # the wire may have been cut meanwhile
            progress(done, todo)

        arrival = Arrival(self._host.store, source, told)
        with self._host.changed:
            self._ask()
            arrival.claim()
        try:
            arrival.receive()
            with self._host.changed:
                return arrival.publish()
        finally:
            with self._host.changed:
                arrival.release()

    def use_tree(self, job_id: str, role: str, name: str) -> None:
        with self._host.changed:
            job, trees = self._job(job_id), self._host.store.trees
            if role not in (WORK, DATASET):
                raise WorkerError(f"{self._host.name}: a tree has no role {role!r}: {WORK} and {DATASET} are known")
            if name not in trees:
                raise TreeGone(f"{self._host.name} has no tree {name}")
            if role == DATASET:
                job.dataset = dict(trees[name])
            else:
                files = job.files
                files.clear()
                files.update(trees[name])

    def read_log(self, job_id: str, offset: int, limit: int) -> LogChunk:
        with self._host.changed:
            job = self._job(job_id)
            begin = max(offset, job.dropped)
            data = bytes(job.log[begin - job.dropped : begin - job.dropped + limit])
            return LogChunk(offset=begin, data=data, dropped_bytes=begin - offset)

    def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
        with self._host.changed:
            job = self._job(job_id)
            wanted = re.compile(match or ".*", re.DOTALL).fullmatch
            outputs = [(path, data) for path, data in sorted(job.outputs.items()) if job.has_ended or wanted(path)]
        return [
            ArtifactFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in outputs
        ]

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        known = {file.path: file for file in self.manifest(job_id)}
        if missing := [path for path in paths if path not in known]:
            hint = nearest(missing[0], known)
            raise WorkerError(f"{self._host.name}: job {job_id} has no output file {missing[0]!r}.{hint}")
        return self._fetched(job_id, [file for path, file in known.items() if path in set(paths)], offset)

    def _fetched(
        self, job_id: str, files: Sequence[ArtifactFile], offset: int
    ) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        for file in files:
            with self._host.changed:
                data = self._job(job_id).outputs.get(file.path)
            if data is None:
                raise StagingError(f"{self._host.name}: {file.path!r} of job {job_id} was removed")
            if len(data) < offset:
                raise StagingError(f"{self._host.name}: {file.path!r} has {len(data)} bytes now, fewer than {offset}")
            yield file, io.BytesIO(data[offset:])
            offset = 0

    def upload(self, job_id: str, files: Sequence[Upload]) -> Iterator[UploadNews]:
        def opened(path: str) -> IO[bytes]:
            with self._host.changed:
                outputs = self._job(job_id).outputs
                if path not in outputs:
                    raise FileNotFoundError(2, "No such file or directory", path)
                return io.BytesIO(outputs[path])

        self._job(job_id)
        news: list[UploadNews] = []
        send_all([asdict(file) for file in files], opened, lambda told: news.append(UploadNews(**told)))
        yield from news

    def close(self) -> None:
        with self._host.changed:
            self._closed = True
            self._host.line.leave(self)
            self._host.changed.notify_all()


def _mark(state: JobState) -> tuple[object, ...]:
    """What of a state is news; the passing of time is none."""
    told = (state.status, state.reason, state.phase, state.step, state.log_bytes, state.exit_code)
    return (*told, len(state.history), dict(state.messages))
