"""Clauses 7 and 10 of backends/base.py: who answers, and who cannot."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.leases import Ticket
from airflow_jobdeploy.core.plan import Limits, Plan
from airflow_jobdeploy.core.status import JobStatus, Reason
from airflow_jobdeploy.errors import WorkerChanged, WorkerUnreachable
from tests.contract.labs import Lab
from tests.contract.steps import launch, outcome, wait_ready
from tests.contract.trees import NOTHING


def test_a_worker_says_who_it_is(lab: Lab) -> None:
    backend = lab.backend()
    facts = backend.facts()
    assert facts.machine
    assert facts.worker
    assert facts.cpu_count > 0
    assert facts == backend.facts()
    assert lab.backend(machine=facts.machine).facts().machine == facts.machine


ASKING = {
    "facts": lambda backend, plan: backend.facts(),
    "collect": lambda backend, plan: backend.collect(dry_run=True),
    "claim": lambda backend, plan: backend.claim(plan),
    "prepare": lambda backend, plan: backend.prepare(plan.job_id),
    "start": lambda backend, plan: backend.start(plan.job_id),
    "poll": lambda backend, plan: backend.poll([plan.job_id]),
    "watch": lambda backend, plan: backend.watch([plan.job_id], 1),
    "read_log": lambda backend, plan: backend.read_log(plan.job_id, 0, 1),
    "stop": lambda backend, plan: backend.stop(plan.job_id, reason="x"),
    "has_tree": lambda backend, plan: backend.has_tree("t" + "a" * 32),
    "may_have": lambda backend, plan: backend.may_have([1]),
    "send_tree": lambda backend, plan: backend.send_tree(NOTHING),
    "use_tree": lambda backend, plan: backend.use_tree(plan.job_id, "work", "t" + "a" * 32),
    "preempt": lambda backend, plan: backend.preempt(plan.job_id, reason="x"),
    "renew": lambda backend, plan: backend.renew([plan.job_id]),
    "set_moved": lambda backend, plan: backend.set_moved(plan.job_id, plan.next_attempt(2)),
    "checkpoint": lambda backend, plan: list(backend.checkpoint(plan.job_id)),
    "send_checkpoint": lambda backend, plan: backend.send_checkpoint(plan.job_id, []),
    "set_owner": lambda backend, plan: backend.set_owner(plan.job_id, "none"),
    "jobs": lambda backend, plan: backend.jobs(),
    "resource": lambda backend, plan: backend.resource("r"),
    "manifest": lambda backend, plan: backend.manifest(plan.job_id),
    "fetch": lambda backend, plan: list(backend.fetch(plan.job_id, [])),
    "upload": lambda backend, plan: list(backend.upload(plan.job_id, [])),
    "forget": lambda backend, plan: backend.forget(plan.job_id),
}
TICKET = Ticket(uid="x", demand={"disk": 1})
ASKING_FOR_LEASES = {
    "seek": lambda backend, plan: backend.seek(TICKET),
    "granted": lambda backend, plan: backend.granted(),
    "drop": lambda backend, plan: backend.drop("x"),
    "release": lambda backend, plan: backend.release("x"),
    "room": lambda backend, plan: backend.room(),
    "cordon": lambda backend, plan: backend.cordon(by="x"),
}
ASKING_FOR_TIME = {"extend": lambda backend, plan: backend.extend(plan.job_id, 60.0, "token")}


def asked_of(backend: Backend) -> dict[str, Callable[[Backend, Plan], object]]:
    leases = ASKING_FOR_LEASES if backend.capabilities.leases else {}
    return {**ASKING, **leases, **ASKING_FOR_TIME}


def methods() -> set[str]:
    return {name for name in vars(Backend) if not name.startswith("_")} - {"close", "wake", "capabilities"}


def test_7_every_method_is_tried_below() -> None:
    assert {*ASKING, *ASKING_FOR_LEASES, *ASKING_FOR_TIME} == methods()


def test_7_who_cannot_be_asked_says_nothing_about_jobs(lab: Lab) -> None:
    backend = lab.unreachable()
    plan = lab.plan(lab.words.say("x"))
    for name, ask in asked_of(backend).items():
        with pytest.raises(WorkerUnreachable):
            pytest.fail(f"{name} answered {ask(backend, plan)}")
    backend.close()


def test_7_another_machine_is_told_apart(lab: Lab) -> None:
    plan = lab.plan(lab.words.say("x"))
    lab.backend().claim(plan)
    here = lab.backend().facts().machine
    for name, ask in asked_of(lab.backend()).items():
        backend = lab.backend(machine="another-machine")
        with pytest.raises(WorkerChanged, match=f"{here}.*another-machine"):
            pytest.fail(f"{name} answered {ask(backend, plan)}")


def test_10_close_stops_no_job(lab: Lab) -> None:
    backend = lab.backend()
    job_id = launch(backend, lab.plan(lab.words.block()))
    wait_ready(backend, job_id)
    backend.close()
    backend.close()
    backend.wake()
    assert lab.backend().poll([job_id])[job_id].status is JobStatus.RUNNING


def test_capabilities_are_data(lab: Lab) -> None:
    kind = lab.backend().capabilities.kind
    assert kind in ("memory", "local", "ssh", "docker")


def test_what_is_old_is_told_and_goes(lab: Lab) -> None:
    backend = lab.backend()
    kept = launch(backend, lab.plan(lab.words.say("x"), limits=Limits(keep_for_s=3600)))
    live = launch(backend, lab.plan(lab.words.block(), limits=Limits(keep_for_s=0)))
    outcome(backend, kept)
    wait_ready(backend, live)  # what the session collects beside its work is over by now: it must not take the next one
    old = launch(backend, lab.plan(lab.words.say("x"), limits=Limits(keep_for_s=0)))
    outcome(backend, old)
    until = time.monotonic() + 20
    # Who sees to a job on a host may hold it for a moment after its end.
    while [item.name for item in backend.collect(dry_run=True) if item.kind == "job"] == [old]:
        assert time.monotonic() < until
        assert {item.name for item in backend.collect(dry_run=False) if item.kind == "job"} <= {old}
    assert backend.poll([old])[old].reason == Reason.RECORD_MISSING
    assert backend.poll([kept])[kept].status is JobStatus.SUCCEEDED
    assert backend.poll([live])[live].status is JobStatus.RUNNING
    assert [item for item in lab.backend().collect(dry_run=False) if item.kind == "job"] == []
