"""Whatever a person does to a task, and whenever: the right job is dead in time, the others live, one copy ever.

All cases of the matrix run at once as runs of their own, in one Airflow; each test looks at one of them. Measured is
from Airflow's own call of `on_kill` (probes.py) to the death of the job's process, which ignores SIGTERM: its grace,
the KILL, and at most two seconds. What Airflow itself takes until it calls is another figure, shown beside.
With $JOBDEPLOY_KILLS set, the figures are appended to that file, as rows of docs/explanation/kills.md.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.hosted import local_backend
from airflow_jobdeploy.core.leases import Ticket
from airflow_jobdeploy.core.plan import new_uid
from tests.airflow import notes
from tests.airflow.far import Far
from tests.airflow.processes import Life, stopped
from tests.airflow.standalone import START_S, Airflow, Run, wait_for

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.sshd,
    pytest.mark.timeout(START_S + 900),
]

ACTS = ("mark failed", "mark success", "fail the run", "clear")
#: Beyond the job's grace, in seconds; longer on a machine that has more to do than it can.
MARGIN_S = 2.0
#: execution_timeout of the DAGs `timed_...`.
TIMEOUT_S = 10.0
_DAGS = {"running": "waiting", "staging": "staging", "deferred": "deferred"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What a person does, and while the task is what."""

    act: str
    when: str

    def __str__(self) -> str:
        return f"{self.act}, {self.when}"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a case went. Times as time.time()."""

    run: Run
    acted_at: float
    killed_at: float
    ordered_at: float
    dead_at: float

    def row(self, case: object) -> str:
        """As in docs/explanation/kills.md: Airflow's delay, then ours from its call on."""
        waited = f"{self.killed_at - self.acted_at:.1f}"
        if self.dead_at < self.killed_at:
            return f"| {case} | {waited} | before the call | {self.dead_at - self.acted_at:.1f} after the act |"
        ordered, dead = max(0.0, self.ordered_at - self.killed_at), self.dead_at - self.killed_at
        return f"| {case} | {waited} | {ordered:.1f} | {dead:.1f} |"

    @property
    def is_in_time(self) -> bool:
        crowded = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1) / 2)
        return self.dead_at - self.killed_at <= notes.GRACE_S + MARGIN_S * crowded


CASES = [Case(act=act, when=when) for when in _DAGS for act in ACTS]


class Stage:
    """All cases at once."""

    def __init__(self, airflow: Airflow, far: Far) -> None:
        self._airflow = airflow
        self._far = far
        far.warm_up()
        far.wire.rate = Far.SLOW
        self.runs = {case: self._trigger(case) for case in CASES}
        self.bystanders = [airflow.trigger("waiting")]
        self.lives = {case: self._ready(case) for case in CASES}
        # The last trigger to come must not go: SQLite gives the id of the last row anew once that is deleted, and the
        # triggerer takes the next trigger for the one that it has.
        self.bystanders.append(airflow.trigger("deferred"))
        self.bystander_lives = [run.begun() for run in self.bystanders]
        self.bystanders[1].until("deferred")
        airflow.looked(ago_s=0)  # else the tasks that were cleared reap what Airflow has not yet called about
        self.acted_at: dict[Case, float] = {}
        for case, run in self.runs.items():
            assert self.lives[case] is None or not self.lives[case].is_over, f"{case}: dead before anybody acted"
            self.acted_at[case] = time.time()
            run.act(case.act)
        # Of those that were sending: all must be ended before the wire is fast again.
        for case in CASES:
            if case.when == "staging":
                wait_for(lambda case=case: self._ended_at(case), f"{case}: the end of the claimed job")
        far.wire.rate = 0

    def _trigger(self, case: Case) -> Run:
        conf = {"project": str(self._far.project())} if case.when == "staging" else {}
        return self._airflow.trigger(_DAGS[case.when], **conf)

    def _home(self, case: Case) -> Path:
        return self._far.home if case.when == "staging" else self._airflow.home

    def _ready(self, case: Case) -> Life | None:
        """Wait until the task is where it shall be; the life of its job."""
        run = self.runs[case]
        if case.when == "staging":
            run.until("running")
            wait_for(lambda: run.records(self._far.home), f"{case}: the claim")
            return None
        life = run.begun()
        run.until(case.when)
        if case.when == "deferred":
            wait_for(lambda: run.notes(notes.WATCHED), f"{case}: the trigger")
        return life

    def _ended_at(self, case: Case) -> float | None:
        """When the first attempt's end was recorded on its host."""
        exit_record = self.runs[case].records(self._home(case))[0] / "exit.json"
        return exit_record.stat().st_mtime if exit_record.exists() else None

    def outcome(self, case: Case) -> Outcome:
        run, life = self.runs[case], self.lives[case]
        dead_at = life.end() if life else wait_for(lambda: self._ended_at(case), f"{case}: the end")
        order = run.records(self._home(case))[0] / "stop.json"
        what = notes.TRIGGER_KILLED if case.when == "deferred" else notes.TASK_KILLED
        reaped = order.exists() and "the reaper" in order.read_text()
        return Outcome(
            run=run,
            acted_at=self.acted_at[case],
            # A watcher that looks just now may be faster than Airflow, whose on_kill is then of no use, or never comes.
            killed_at=self.acted_at[case] if reaped else wait_for(lambda: run.notes(what), f"{case}: on_kill")[0],
            ordered_at=order.stat().st_mtime if order.exists() else dead_at,
            dead_at=dead_at,
        )


@pytest.fixture(scope="module")
def stage(airflow: Airflow, far: Far) -> Iterator[Stage]:
    made = Stage(airflow, far)
    try:
        yield made
    finally:
        far.wire.rate = 0
        for run in (*made.runs.values(), *made.bystanders):
            run.go()


def keep(row: str) -> None:
    if path := os.environ.get("JOBDEPLOY_KILLS"):
        with Path(path).open("a") as file:
            file.write(row + "\n")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_right_job_is_dead_in_time(stage: Stage, case: Case) -> None:
    outcome = stage.outcome(case)
    keep(outcome.row(case))
    assert outcome.is_in_time, outcome.row(case)
    run = outcome.run
    if case.act == "clear":
        _comes_back(case, outcome)
    else:
        run.until("success" if case.act == "mark success" else "failed")
    expected = [1] * (case.when != "staging") + [2] * (case.act == "clear")
    assert [attempt for attempt, _ in run.starts()] == expected


def _comes_back(case: Case, outcome: Outcome) -> None:
    """The next try starts the job anew, after the old one's death, and brings it to its end."""
    run = outcome.run
    life = run.begun(1 if case.when == "staging" else 2)
    started_at = (run.folder / "started").stat().st_mtime
    assert outcome.dead_at <= started_at
    # The old trigger's on_kill may come only now: it must leave the new attempt alone.
    run.until("deferred" if case.when == "deferred" else "running", try_number=2)
    assert not life.is_over
    run.go()
    run.until("success", try_number=2)
    assert run.result()["attempt"] == 2


def test_all_others_live(stage: Stage) -> None:
    """Nobody touched them; they end well, at the first try, as the only copy."""
    for case in CASES:
        stage.outcome(case)
    for run, life in zip(stage.bystanders, stage.bystander_lives, strict=True):
        assert not life.is_over
        run.go()
        run.until("success")
        assert run.starts() == [(1, life.pid)]


def test_what_is_only_queued_never_starts(airflow: Airflow) -> None:
    """The executor's processes stand still, so that the tasks stay queued; then they go on."""
    with stopped(airflow.executor_workers()):
        runs = {act: airflow.trigger("waiting") for act in ACTS}
        for act, run in runs.items():
            run.until("queued")
            run.act(act)
        after = airflow.trigger("waiting")
        after.until("queued")
    after.begun()  # what was queued before it has been taken up before it
    cleared = runs.pop("clear")
    cleared.begun()
    for run in (cleared, after):
        run.go()
    cleared.until("success", try_number=2)
    after.until("success")
    assert [attempt for attempt, _ in cleared.starts()] == [1]
    ends = {"mark failed": "failed", "mark success": "success", "fail the run": "skipped"}
    for act, run in runs.items():
        assert run.task()["state"] == ends[act]
        assert run.starts() == []
        assert run.records() == []


@pytest.mark.parametrize("dag_id", ["timed_waiting", "timed_deferred"])
def test_execution_timeout(airflow: Airflow, dag_id: str) -> None:
    run = airflow.trigger(dag_id)
    life = run.begun()
    dead_at = life.end()
    # While it waits, Airflow calls on_kill; while it is deferred, Airflow resumes the task to say so.
    what = notes.TASK_KILLED if dag_id == "timed_waiting" else notes.ERRAND
    called_at = wait_for(lambda: run.notes(what), "Airflow's call")[-1]
    (record,) = run.records()
    outcome = Outcome(
        run=run,
        acted_at=(begun_at := run.notes(notes.ERRAND)[0]) + TIMEOUT_S,
        killed_at=called_at,
        ordered_at=(record / "stop.json").stat().st_mtime,
        dead_at=dead_at,
    )
    assert dead_at - begun_at >= TIMEOUT_S
    keep(outcome.row(f"execution_timeout, {dag_id.removeprefix('timed_')}"))
    assert outcome.is_in_time, outcome.row(dag_id)
    run.until("failed")
    assert run.starts() == [(1, life.pid)]


def test_marked_failed_before_its_trigger_began(airflow: Airflow) -> None:
    """Nobody is told by Airflow then: the next task that comes by the worker ends the job."""
    with stopped(airflow.part("triggerer")):
        lost = airflow.trigger("deferred")
        life = lost.begun()
        lost.until("deferred")
        lost.act("mark failed")
        lost.until("failed")
    assert not life.is_over
    airflow.looked(ago_s=100)
    after = airflow.trigger("waiting")
    came_at = wait_for(lambda: after.notes(notes.ERRAND), "the next task")[0]
    dead_at = life.end()
    keep(
        f"| mark failed, between deferral and trigger | no call | {dead_at - came_at:.1f} after the next task came | |"
    )
    assert "the reaper" in (lost.records()[0] / "stop.json").read_text()
    assert lost.notes(notes.TRIGGER_KILLED) == []
    after.go()
    after.until("success")
    assert len(after.starts()) == len(lost.starts()) == 1


# -- while it waits for a GPU ------------------------------------------------------------------------------------------


class Line:
    """The line for the machine's only GPU, which the test holds."""

    def __init__(self, airflow: Airflow, root: Path) -> None:
        self._model = airflow.gpu.model
        self._backend = local_backend(root=str(root))
        answer = self._backend.seek(Ticket(uid=new_uid(), demand={"gpus": [{"type": self._model, "count": 1}]}))
        assert answer.lease, answer
        self._lease = answer.lease

    def tickets(self) -> int:
        return sum(self._model in str(ticket["demand"]) for ticket in self._backend.room().tickets)

    def is_held(self) -> bool:
        return any(set(lease["gpus"]) & set(self._lease.gpus) for lease in self._backend.room().leases)

    def let_go(self) -> None:
        self._backend.release(self._lease.id)

    def close(self) -> None:
        self._backend.close()


@pytest.fixture
def line(airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Line]:
    monkeypatch.setenv("PATH", f"{airflow.gpu.folder}:{os.environ['PATH']}")
    made = Line(airflow, tmp_path / "root")
    yield made
    made.close()


def test_of_a_task_that_waits_for_a_gpu_nothing_stays_in_line(airflow: Airflow, line: Line) -> None:
    """Its trigger holds tickets, and there is no job yet; who was cleared stands in line anew, and gets the GPU."""
    runs = {act: airflow.trigger("in_line") for act in ACTS}
    for run in runs.values():
        run.until("deferred")
    wait_for(lambda: line.tickets() == len(ACTS), "a ticket of each")
    for act, run in runs.items():
        run.act(act)
    cleared = runs.pop("clear")
    cleared.until("deferred", try_number=2)
    wait_for(lambda: line.tickets() == 1, "the tickets of the others to be gone")
    for act, run in runs.items():
        run.until("success" if act == "mark success" else "failed")
    line.let_go()
    cleared.begun()
    cleared.go()
    cleared.until("success", try_number=2)
    wait_for(lambda: not line.is_held(), "the GPU to be free")
    assert line.tickets() == 0
    for run in runs.values():
        assert run.starts() == []
        assert run.records() == []
