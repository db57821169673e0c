"""Bring work to a worker, or back to the attempt that is there already.

Promises 1 and 2 of the design live here: the intent is written down before the claim, the claim lies
on the worker before anything starts, and whoever comes back asks the worker first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from airflow_jobdeploy.backends.base import Backend, Progress, TreeGone
from airflow_jobdeploy.core.intent import Intent
from airflow_jobdeploy.core.plan import Plan, new_resource_id
from airflow_jobdeploy.core.policy import Verb, is_over, on_return
from airflow_jobdeploy.core.sequels import Sequel
from airflow_jobdeploy.core.status import JobHandle, JobState
from airflow_jobdeploy.errors import JobDeployError, StagingError, WorkerError, WorkerUnreachable
from airflow_jobdeploy.service.asking import stopped
from airflow_jobdeploy.service.insisting import PATIENCE_S, Insisting
from airflow_jobdeploy.service.line import Granted
from airflow_jobdeploy.service.placing import Placing
from airflow_jobdeploy.service.returning import Seen, look
from airflow_jobdeploy.service.sending import Sending
from airflow_jobdeploy.service.staging import Staging
from airflow_jobdeploy.service.taking import Taken
from airflow_jobdeploy.service.work import Identity, Work
from airflow_jobdeploy.service.workers import Workers

T = TypeVar("T")
Say = Callable[[str], None]


class IntentStore(Protocol):
    """Where a submitter writes its intent: survives the submitter."""

    def load(self) -> Mapping[str, Any] | None:
        """What was saved last, or None."""

    def save(self, value: Mapping[str, Any]) -> None:
        """Keep `value` (JSON) before returning."""


class Interrupted(JobDeployError):
    """The caller asked to be let go while submitting. `handle`: of what was claimed by then, else None."""

    def __init__(self, handle: JobHandle | None) -> None:
        super().__init__("interrupted while submitting")
        self.handle = handle


@dataclass(frozen=True, kw_only=True)
class Submitted:
    """What `submit` did."""

    handle: JobHandle
    state: JobState
    #: True when an earlier attempt was found alive, or its success was taken.
    reattached: bool


def submit(
    work: Work,
    workers: Workers,
    *,
    intents: IntentStore,
    epoch: Mapping[str, int],
    say: Say,
    interrupted: Callable[[], bool] = lambda: False,
    on_handle: Callable[[JobHandle], None] = lambda handle: None,
    progress: Progress | None = None,
    granted: Granted | None = None,
    line_s: float | None = None,
    sequel: Sequel | None = None,
) -> Submitted:
    """Bring one piece of work to a worker, or back to the attempt that is there already.

    `sequel`: start the attempt that follows the one of the saved intent, as this has it (sequels.after_end).
    `epoch` tells a retry from a clear (see policy.on_return). `on_handle` is called when the claim lies
    on the worker, before anything starts; `progress` is told bytes sent and to send (None:
    lines say it). `granted`: what another process waited for; `line_s`: how long to stand in line here before
    StillWaiting is raised (None: as long as it takes). Raises PlacementError, JobTimedOut, StagingError, WorkerError,
    Interrupted, StillWaiting.
    """
    placing = Placing(workers, work, say, granted=granted, line_s=line_s)
    submission = _Submission(work, workers, intents, dict(epoch), say, interrupted, on_handle, progress, placing)
    return submission.run() if sequel is None else submission.go_on(sequel)


class _Submission:
    """One call of `submit`."""

    def __init__(
        self,
        work: Work,
        workers: Workers,
        intents: IntentStore,
        epoch: dict[str, int],
        say: Say,
        interrupted: Callable[[], bool],
        on_handle: Callable[[JobHandle], None],
        progress: Progress | None,
        placing: Placing,
    ) -> None:
        self.work = work
        self.workers = workers
        self.intents = intents
        self.epoch = epoch
        self.say = say
        self.interrupted = interrupted
        self.on_handle = on_handle
        self.progress = progress
        self.handle: JobHandle | None = None
        self._placing = placing
        placing.check = self._check
        self._ask = Insisting(workers, say, self._check, work.schedule_timeout_s or PATIENCE_S)

    def run(self) -> Submitted:
        saved = self.intents.load()
        with self._placing.giving_back():
            return self._first() if saved is None else self._return(Intent.from_dict(saved))

    def go_on(self, sequel: Sequel) -> Submitted:
        with self._placing.giving_back():
            return self._gone_on(sequel)

    def _gone_on(self, sequel: Sequel) -> Submitted:
        saved = self.intents.load()
        if saved is None:
            raise WorkerError("the intent of the attempt before is gone: clear the task to start anew")
        last = Intent.from_dict(saved)
        worker = self._placing.next(last, sequel)
        intent = last.following(
            attempt=last.attempt + 1,
            worker=worker,
            machine=self._ask(worker, lambda backend: backend.facts(quick=True)).machine,
            resource=self._resource(),
            previous_worker=last.worker,
            preemptions=sequel.preemptions,
            retries=sequel.retries,
            life_left_s=sequel.life_left_s,
            **self._taken(last).noted(),
        )
        self.say(f"Attempt {last.attempt} on {last.worker} {sequel.why}; attempt {intent.attempt} on {worker}.")
        return self._go(intent, sequel.delay_s)

    def _first(self) -> Submitted:
        taken = self._taken(None)
        worker = self._placing.first()
        self._stop_strays(worker)
        intent = Intent(
            uid=self._placing.uid,
            attempt=1,
            worker=worker,
            worker_pool=self.workers.pool.name,
            machine=self._ask(worker, lambda backend: backend.facts(quick=True)).machine,
            resource=self._resource(),
            epoch=self.epoch,
            **self.work.noted(),
            **taken.noted(),
        )
        return self._go(intent)

    def _return(self, intent: Intent) -> Submitted:
        seen = look(intent, self._ask)
        state = seen.state
        decision = on_return(intent, self.epoch, state)
        self.say(f"Found an earlier submission: {decision.why}.")
        if decision.verb is Verb.START:
            self._placing.same(intent, state)
            return self._go(intent.following(epoch=self.epoch, **self._taken(intent).noted()))
        if state is not None and decision.verb in (Verb.REATTACH, Verb.TAKE):
            self._saved(intent)
            handle = self._handle(intent, state)
            self.on_handle(handle)
            return Submitted(handle=handle, state=state, reattached=True)
        if decision.verb is Verb.WAIT:
            raise WorkerError(f"Nothing was started: {decision.why}.")
        taken = self._taken(intent)
        if decision.verb is Verb.REPLACE:
            self._stop(intent.worker, intent.job_id, "the task was cleared", intent.machine)
        return self._next(intent, seen, taken)

    def _next(self, last: Intent, seen: Seen, taken: Taken) -> Submitted:
        """A new attempt in a new Airflow try, or after a clear: the counts begin anew."""
        worker = self._placing.anew(last, is_silent=seen.is_silent)
        return self._go(
            last.following(
                attempt=last.attempt + 1,
                worker=worker,
                machine=self._ask(worker, lambda backend: backend.facts(quick=True)).machine,
                resource=self._resource(),
                epoch=self.epoch,
                previous_worker=last.worker,
                preemptions=0,
                retries=0,
                life_left_s=None,
                **self.work.noted(),
                **taken.noted(),
            )
        )

    def _taken(self, last: Intent | None) -> Taken:
        """What the next attempt runs with: what the last one did, but after a clear all is taken as it is now."""
        takes = self.work.takes
        kept = takes.kept(last) if last is not None and dict(last.epoch) == self.epoch else None
        if kept is not None:
            return kept
        taken = takes.now()
        for note in takes.notes():
            self.say(note)
        return taken

    def _resource(self) -> str:
        """Each attempt of an `up` makes a resource of its own; other builds belong to an old one."""
        return new_resource_id() if self.work.makes_resource else self.work.resource

    def _stop(self, worker: str, job_id: str, reason: str, machine: str = "") -> None:
        self._ask(
            worker, lambda backend: stopped(backend, job_id, reason, "Airflow", self.interrupted), machine=machine
        )

    def _go(self, intent: Intent, delay_s: float = 0.0) -> Submitted:
        """Intent, claim, project, start: each step finds what an earlier one that was cut off has left."""
        self._saved(intent)
        plan = self._plan(intent, delay_s)
        state = self._ask(intent.worker, lambda backend: backend.claim(plan), machine=intent.machine)
        self._placing.is_claimed = bool(plan.lease.get("id"))
        self.handle = self._handle(intent, state)
        self.on_handle(self.handle)
        self._check()
        if intent.previous_worker not in ("", intent.worker) and state.phase == "claimed":
            self._move(intent, plan)
        if state.phase == "claimed":
            self._stage(intent, plan)
        state = self._start(intent, plan)
        told = "." if is_over(state) else f": {state.message}"  # who follows it tells how it ended
        self.say(f"Job {plan.job_id} (attempt {plan.attempt}) is on worker {intent.worker}{told}")
        return Submitted(handle=self.handle.with_state(state), state=state, reattached=False)

    def _move(self, intent: Intent, plan: Plan) -> None:
        """Bring the checkpoint along, and leave word where the job has gone; both only if the old worker answers.

        It may have been silent for long, and its attempt wait there for its turn: that ends.
        """
        before = intent.previous_worker
        try:
            old = self.workers.backend(before)
            old.set_moved(intent.previous_job_id, plan)
            told = f"attempt {plan.attempt} on worker {plan.worker} has taken its place"
            old.stop(intent.previous_job_id, reason=told, by="Airflow")
            self.workers.backend(plan.worker).send_checkpoint(plan.job_id, old.checkpoint(intent.previous_job_id))
        except WorkerError as error:
            self.say(f"The checkpoint stays on worker {before}: {error}")
            return
        self.say(f"Brought the checkpoint from worker {before} to {plan.worker}.")

    def _saved(self, intent: Intent) -> None:
        self.intents.save(intent.to_dict())

    def _plan(self, intent: Intent, delay_s: float = 0.0) -> Plan:
        slots = next((w.slots for w in self.workers.pool.workers if w.name == intent.worker), None)
        identity = Identity(uid=intent.uid, attempt=intent.attempt, worker=intent.worker, resource=intent.resource)
        left_s = intent.life_left_s
        plan = self.work.plan(identity, Taken.of(intent), slots=slots, delay_s=delay_s, life_left_s=left_s)
        return replace(plan, lease=self._placing.lease(intent.uid, intent.worker))

    def _handle(self, intent: Intent, state: JobState) -> JobHandle:
        return intent.handle(str(self.work.key)).with_state(state)

    def _stage(self, intent: Intent, plan: Plan) -> None:
        """Bring what the job needs, and give it to the claimed job; ended on its worker where that cannot be."""
        sending = Sending(
            self.workers,
            plan.worker,
            say=self.say,
            check=self._check,
            limit_s=plan.limits.setup_timeout_s,
            progress=self.progress,
        )
        try:
            self._ask(plan.worker, lambda backend: backend.prepare(plan.job_id, self._heard))
            staged = Staging(self.work.takes, sending, self.say, self._ask).stage(intent, plan)
            if plan.container.get("dockerfile"):  # the image is made of the code, which is there only now
                self._ask(plan.worker, lambda backend: backend.prepare(plan.job_id, self._heard))
        except (StagingError, WorkerUnreachable) as error:
            self._give_up(plan, str(error))
            raise
        if staged != intent:
            self._saved(staged)

    def _heard(self, text: str) -> None:
        """A line of a preparation that may take long; who wants to be let go, is."""
        self._check()
        if text:
            self.say(text)

    def _start(self, intent: Intent, plan: Plan) -> JobState:
        """What it was given may have been damaged by another job since, or removed by somebody."""

        def start(backend: Backend) -> JobState:
            if plan.secret_env:
                backend.claim(plan)  # changes nothing, but that they are here for the start, after a lost connection
            return backend.start(plan.job_id)

        try:
            return self._ask(plan.worker, start, machine=intent.machine)
        except TreeGone:  # to claim changes nothing where its record is whole
            self._ask(plan.worker, lambda backend: backend.claim(plan), machine=intent.machine)
            self._stage(intent, plan)
            return self._ask(plan.worker, start, machine=intent.machine)

    def _give_up(self, plan: Plan, why: str) -> None:
        """A claimed job that will not be started is ended on its worker, where that can be asked."""
        try:
            self.workers.backend(plan.worker).stop(plan.job_id, reason=f"staging failed: {why}", by="Airflow")
        except WorkerError as error:
            self.say(f"Job {plan.job_id} stays claimed on worker {plan.worker}: {error}")

    def _stop_strays(self, worker: str) -> None:
        """No intent means "unknown", not "no job": a live job of the same key is of a forgotten submission."""
        key = self.work.key
        if not key.run_id:
            return
        jobs = self._ask(worker, lambda backend: backend.jobs(deployment=key.deployment, live_only=True))
        for job in jobs:
            if job["plan"].get("key") == key.to_dict():
                job_id = str(job["plan"]["job_id"])
                self.say(f"Job {job_id} of an earlier, forgotten submission of this task is stopped first.")
                self._stop(worker, job_id, "a newer submission of its task")

    def _check(self) -> None:
        if self.interrupted():
            raise Interrupted(self.handle)
