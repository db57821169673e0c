"""A pool as placement sees it, of real workers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from airflow_jobdeploy.backends.base import Backend
from airflow_jobdeploy.core.capacity import Capacity
from airflow_jobdeploy.core.demand import Demand
from airflow_jobdeploy.core.placement import rank
from airflow_jobdeploy.core.pool import Worker, WorkerPool
from airflow_jobdeploy.core.standing import NEVER, NOW, PASSING
from airflow_jobdeploy.errors import WorkerUnreachable
from airflow_jobdeploy.service.survey import survey, trees_of, wanted
from tests.service.conftest import Desk


def test_workers_say_what_they_have_and_which_code_is_there(desk: Desk, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "x.txt").write_text("x" * 1000)
    work = desk.run_spec({"command": "true"}, project_dir=project)
    (tree,) = trees_of(work)
    (before,) = survey(desk.pool, desk.connect, [tree])
    assert before.room is not None
    assert before.room.capacity["cpu"] > 0
    assert before.holds == frozenset()
    desk.follow(desk.submit(work).handle)
    (after,) = survey(desk.pool, desk.connect, [tree])
    assert after.holds == {tree}
    assert after.room is not None
    assert [end["status"] for end in after.room.ends] == ["SUCCEEDED"]
    assert 0 <= after.room.ends[0]["ago_s"] < 60
    assert after.set_aside == ""
    sent = [rank(wanted(work), [view]).choices[0].send_bytes for view in (before, after)]
    assert sent == [1000, 0]


def test_a_worker_that_cannot_be_asked_keeps_nobody_from_the_others(desk: Desk) -> None:
    def connect(worker: Worker) -> Backend:
        if worker.host == "dead":
            raise WorkerUnreachable("no route to host")
        return desk.connect(worker)

    workers = (
        Worker(host="dead", labels={"zone": "a"}),
        Worker(host="small", capacity=Capacity(cpu=0.5), slots=3),
        Worker(host="other", labels={"zone": "b"}),
    )
    pool = WorkerPool(name="lab", kind="ssh", workers=workers)
    views = survey(pool, connect)
    job = replace(wanted(desk.run_spec({"command": "true"})), demand=Demand(cpu_count=0.7))
    found = {choice.worker: (choice.fit, choice.why) for choice in rank(job, views).choices}
    assert found["dead"] == (PASSING, "cannot be asked: no route to host")
    assert found["small"] == (NEVER, "more than is here: needs 0.7 cores, 0.5 of 0.5 free")
    assert views[1].within["slots"] == 3
    at_home = replace(job, demand=Demand(), where={"zone": ("b",)})
    assert [choice.fit for choice in rank(at_home, views).choices] == [NOW, NEVER, NEVER]
