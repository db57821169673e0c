"""Docker engines: cut off, killed, restarted; containers and images that somebody removes; submitters that die."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_jobdeploy.backends.engine import jobs
from airflow_jobdeploy.backends.engine.config import Security
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.errors import WorkerError
from tests.contract.steps import at_once, launch, wait_until
from tests.faults.hosts.case import LATE_S, counting, halves, held
from tests.faults.hosts.conftest import Lasting, Verdict
from tests.faults.hosts.engine import EngineCase, open_home
from tests.servers.dockerd import IMAGE, Dockerd, started
from tests.servers.wire import Wire, wired

pytestmark = pytest.mark.docker


@pytest.fixture
def case(dockerd: Dockerd, tmp_path: Path) -> Iterator[EngineCase]:
    """A pool of the engine that tests share, empty."""
    found = EngineCase(dockerd, open_home(tmp_path / "home"))
    yield found
    found.close()
    dockerd.wipe()


@pytest.fixture
def wire(case: EngineCase) -> Iterator[Wire]:
    """All connections of the case go through it."""
    with wired(case.engine.socket) as made:
        case.url = f"tcp://127.0.0.1:{made.port}"
        yield made
        case.close()


@pytest.mark.fault("cut for 30 s")
def test_cut_for_longer_than_connections_live(case: EngineCase, wire: Wire, verdict: Verdict, lasting: Lasting) -> None:
    case.unknown_after_s = 0.0
    following = case.started(halves(int(lasting(short=150, long=250)), 0.1))
    following.until_text("line 5\n")
    wire.is_hole = True
    cut_at = time.monotonic()
    case.let()
    assert following.until_status(JobStatus.UNKNOWN) - cut_at < 10 + LATE_S
    time.sleep(max(0.0, lasting(short=12, long=30) - (time.monotonic() - cut_at)))
    wire.is_hole = False
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)
    assert verdict.told == "UNKNOWN (Unreachable), SUCCEEDED"


@pytest.mark.fault("black hole in the middle of a log")
def test_a_log_that_stalls_is_read_anew(case: EngineCase, wire: Wire, verdict: Verdict) -> None:
    case.unknown_after_s = 0.0
    following = case.started(f"echo started; {held()}; seq 1 100000; {held('end')}")
    wire.rate = 300_000
    case.let()
    following.until(lambda _: len(following.text) > 40_000)
    wire.is_hole = True
    cut_at = time.monotonic()
    assert following.until_status(JobStatus.UNKNOWN) - cut_at < 10 + LATE_S
    assert "\n100000\n" not in following.text
    wire.is_hole, wire.rate = False, 0
    case.let("end")
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)


@pytest.mark.fault("reset in the middle of a log frame")
def test_reset_inside_a_log_frame(case: EngineCase, wire: Wire, verdict: Verdict) -> None:
    following = case.started(f"echo started; {held()}; seq 1 80000")
    following.until_text("started\n")
    wire.reset_after(1_000_777)
    case.let()
    following.until(lambda _: len(following.text) > 100_000)
    assert following.end().status is JobStatus.SUCCEEDED
    assert wire.resets == 1
    verdict.seal(case, following)


@pytest.mark.parametrize(
    "live_restore",
    [
        pytest.param(True, marks=pytest.mark.fault("engine killed and restarted, live-restore")),
        pytest.param(False, marks=pytest.mark.fault("engine killed and restarted")),
    ],
)
def test_an_engine_that_is_killed_and_restarted(live_restore: bool, tmp_path: Path, verdict: Verdict) -> None:
    with started(*(["--live-restore"] if live_restore else [])) as engine:
        case = EngineCase(engine, open_home(tmp_path / "home"))
        case.unknown_after_s = 0.0
        following = case.started(halves(60, 0.1))
        following.until_text("line 5\n")
        engine.kill()
        case.let()
        following.until_status(JobStatus.UNKNOWN)
        engine.start()
        following.watch.wake()
        state = following.end()
        if live_restore:
            assert state.status is JobStatus.SUCCEEDED
        else:
            assert (state.status, state.reason) in ((JobStatus.FAILED, "ProcessLost"), (JobStatus.FAILED, "WorkerLost"))
        verdict.seal(case, following)


@pytest.mark.fault("container removed by hand")
def test_a_container_that_is_removed(case: EngineCase, verdict: Verdict) -> None:
    following = case.started("echo started; sleep 1000")
    following.until_text("started\n")
    case.engine.client().remove_container(case.job_id(), force=True)
    removed = time.monotonic()
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "ProcessLost")
    assert following.times[-1] - removed < LATE_S
    backend = case.backend()
    assert backend.stop(state.job_id, reason="late").reason == "ProcessLost", "a stop of what is gone changes nothing"
    verdict.seal(case, following)


@pytest.mark.fault("container killed by hand")
def test_a_container_that_is_killed(case: EngineCase, verdict: Verdict) -> None:
    following = case.started("echo started; sleep 1000")
    following.until_text("started\n")
    case.engine.client().kill(case.job_id())
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "ProcessLost")
    verdict.seal(case, following)


@pytest.mark.fault("image deleted between pull and create")
def test_an_image_that_is_deleted_before_its_container_is_made(case: EngineCase, verdict: Verdict) -> None:
    image = "jobdeploy-test/fleeting:1"
    backend, plan = case.backend(), case.plan("echo hi", container={"image": image, "pull": "never"})
    backend.claim(plan)  # a container of another image holds the name
    case.engine.add_image(image)
    deleted: list[str] = []

    def delete(method: str, url: str) -> None:
        if method == "DELETE" and not deleted:  # of that container, to make room for the one with the image
            deleted.append(url)
            case.engine.client().remove_image(image, force=True)

    case.before = delete
    backend.start(plan.job_id)
    case.before = lambda method, url: None
    state = backend.poll([plan.job_id])[plan.job_id]
    assert deleted
    assert (state.status, state.reason) == (JobStatus.FAILED, "Setup")
    assert image in state.message
    assert case.containers() == {}
    following = case.launched(plan)
    following.end()
    verdict.seal(case, following, starts=0)


@pytest.mark.fault("image deleted between create and start")
def test_an_image_that_is_deleted_before_the_start(case: EngineCase, verdict: Verdict) -> None:
    image = "jobdeploy-test/fleeting:1"
    case.engine.add_image(image)
    backend, plan = case.backend(), case.plan("echo hi", container={"image": image, "pull": "never"})
    backend.claim(plan)
    case.engine.client().remove_image(image, force=True)  # its container keeps the layers
    backend.start(plan.job_id)
    following = case.launched(plan)
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)


@pytest.fixture(scope="module")
def small() -> Iterator[Dockerd]:
    """An engine with a small disk."""
    with started(disk="24m") as engine:
        yield engine


def fill(engine: Dockerd) -> Path:
    """Leave nothing free on its disk."""
    filler = engine.dir / "data" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


@pytest.mark.fault("engine's disk full before the submission")
def test_a_full_disk_before_the_submission(small: Dockerd, tmp_path: Path, verdict: Verdict) -> None:
    case = EngineCase(small, open_home(tmp_path / "home"))
    case.backend().facts()
    filler = fill(small)
    with pytest.raises(WorkerError, match=r"[Nn]o space"):
        case.submit(counting(5))
    assert case.starts() == 0
    filler.unlink()
    following = case.follow(case.submit(counting(5)).handle)
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following, "an error that says so; SUCCEEDED once there is room")
    small.wipe()


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(0, marks=pytest.mark.fault("engine's disk full under a job that goes on")),
        pytest.param(3, marks=pytest.mark.fault("engine's disk full under a job that fails")),
    ],
)
def test_a_full_disk_under_a_job(
    small: Dockerd, tmp_path: Path, verdict: Verdict, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "DOUBT_S", 2.0)
    case = EngineCase(small, open_home(tmp_path / "home"))
    following = case.started(f"echo started; cat /dev/zero > $JOBDEPLOY_OUTPUT_DIR/big; exit {code}")
    state = following.end()
    assert state.exit_code == code
    assert (state.status, state.reason) == ((JobStatus.FAILED, "DiskFull") if code else (JobStatus.SUCCEEDED, ""))
    verdict.seal(case, following)
    small.wipe()


@pytest.mark.fault("start fails after create")
def test_a_start_that_fails(case: EngineCase, verdict: Verdict) -> None:
    case.settings = replace(case.settings, security=Security(user="nobody-of-that-name"))
    following = case.follow(case.submit("echo hi").handle)
    state = following.end()
    assert (state.status, state.reason) == (JobStatus.FAILED, "Setup")
    assert "nobody-of-that-name" in state.message
    assert case.containers() == {}, "DockerOperator leaves one in state Created"
    verdict.seal(case, following, starts=0)


# -- submitters -----------------------------------------------------------------------------------------------------

_SUBMIT = """
import sys
sys.path[:0] = {path!r}
from pathlib import Path
from airflow_jobdeploy.backends.docker import DockerBackend
from airflow_jobdeploy.backends.engine.settings import Settings
from airflow_jobdeploy.core.plan import Plan
from tests.servers.dockerd import Dockerd

def here(point):
    print(point, flush=True)
    if point == {point!r}:
        sys.stdin.read()

engine = Dockerd(Path({folder!r}))
settings = Settings(image={image!r}, shared={home!r})
backend = DockerBackend(worker="engine", connect=engine.client, settings=settings)
plan = Plan.from_wire({plan!r})
backend.claim(plan)
here("after the claim")
backend.start(plan.job_id)
here("after the start")
"""


def killed_submitter(case: EngineCase, plan: Plan, point: str) -> None:
    known = {"folder": str(case.engine.dir), "image": IMAGE, "home": str(case.host.home)}
    code = _SUBMIT.format(path=sys.path, point=point, plan=plan.to_wire(), **known)
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        while first.stdout.readline().decode().strip() != point:
            assert first.poll() is None
        first.kill()


@pytest.mark.parametrize(
    "point",
    [
        pytest.param("after the claim", marks=pytest.mark.fault("submitter killed after the claim")),
        pytest.param("after the start", marks=pytest.mark.fault("submitter killed after the start")),
    ],
)
def test_a_submitter_that_is_killed(case: EngineCase, verdict: Verdict, point: str) -> None:
    plan = case.plan(counting(20, 0.1))
    killed_submitter(case, plan, point)
    backend = case.backend()
    [found] = backend.jobs()
    assert found["plan"]["job_id"] == plan.job_id, "found by its labels"
    assert (found["state"]["phase"] == "claimed") is (point == "after the claim")
    backend.claim(plan)
    backend.start(plan.job_id)
    following = case.launched(plan)
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)


@pytest.mark.fault("two submitters at once")
def test_two_submitters_at_once(case: EngineCase, verdict: Verdict) -> None:
    plan, backends = case.plan(counting(20, 0.1)), [case.backend() for _ in range(3)]
    for backend in backends:
        backend.facts()
    at_once(*[lambda each=backend: launch(each, plan) for backend in backends])
    following = case.launched(plan)
    assert following.end().status is JobStatus.SUCCEEDED
    assert len(backends[0].jobs()) == 1
    verdict.seal(case, following)


# -- many -----------------------------------------------------------------------------------------------------------


@pytest.mark.fault("100 containers watched, one removed")
def test_many_containers_by_one_connection(case: EngineCase, verdict: Verdict, lasting: Lasting) -> None:
    submitter = case.backend()
    plans = [case.plan("sleep 1000", env={}) for _ in range(int(lasting(short=10, long=100)))]
    ids = [launch(submitter, replace(plan, steps=(replace(plan.steps[0], content="sleep 1000"),))) for plan in plans]
    before, watcher = case.connects, case.backend()
    states = wait_until(watcher, ids, lambda seen: all(state.status is JobStatus.RUNNING for state in seen.values()))
    case.engine.client().remove_container(ids[7], force=True)
    removed = time.monotonic()
    while not states[ids[7]].status.is_finished:
        states.update(watcher.watch(ids, 10.0))
    assert time.monotonic() - removed < LATE_S
    assert case.connects - before == 2, "one for questions, one for the engine's events"
    assert states[ids[7]].reason == "ProcessLost"
    assert sum(state.status is JobStatus.RUNNING for state in states.values()) == len(ids) - 1
    case.engine.wipe()
    verdict.backend, verdict.told = "docker", "FAILED (ProcessLost), the others RUNNING"
    verdict.live_attempts_max, verdict.bytes_lost, verdict.left_behind = 1, 0, len(case.left_behind())
