"""The network: cut for a while and for good, slow, lossy, thin, silent; a connection reset in the middle."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from airflow_jobdeploy import service
from airflow_jobdeploy.backends import connection, hosted
from airflow_jobdeploy.core.status import JobStatus
from airflow_jobdeploy.packing.folder import Folder
from tests.faults.hosts.case import LATE_S, Case, counting, eventually, halves, held
from tests.faults.hosts.conftest import Lasting, Verdict
from tests.servers.wire import Wire, wired

pytestmark = pytest.mark.netns

#: Much more than goes into the buffers of a connection.
BULK = 3_000_000


@pytest.fixture
def wire(case: Case) -> Iterator[Wire]:
    """All connections of the case go through it."""
    with wired(case.host.address) as made:
        case.way = replace(case.way, address="127.0.0.1", port=made.port)
        yield made
        case.close()


@pytest.mark.fault("cut for 2 s")
def test_cut_for_two_seconds(case: Case, verdict: Verdict) -> None:
    following = case.started(counting(40, 0.1))
    following.until_text("line 5\n")
    case.host.cut()
    time.sleep(2)
    case.host.heal()
    assert following.end().status is JobStatus.SUCCEEDED
    assert case.connects == 2, "the submitter's and the follower's: a short cut costs no connection"
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("cut for 30 s")
def test_cut_for_longer_than_connections_live(
    case: Case, verdict: Verdict, lasting: Lasting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_S", 20.0)  # what the cut leaves over there ends by that, at the latest
    case.unknown_after_s = lasting(short=0, long=1)
    following = case.started(halves(int(lasting(short=100, long=200)), 0.1))
    following.until_text("line 5\n")
    case.host.cut()
    cut_at = time.monotonic()
    case.let()
    unknown_at = following.until_status(JobStatus.UNKNOWN)
    # The silence; where it must last, also one connect that fails, and its pauses.
    assert unknown_at - cut_at < hosted.SILENCE_S + hosted.ANSWER_S + 5 + LATE_S
    time.sleep(max(0.0, lasting(short=12, long=30) - (time.monotonic() - cut_at)))
    case.host.heal()
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)
    assert verdict.told == "UNKNOWN (Unreachable), SUCCEEDED"


@pytest.mark.fault("cut for good")
def test_cut_for_good(case: Case, verdict: Verdict) -> None:
    case.unknown_after_s = 0.0
    following = case.started("echo started; sleep 1000")
    following.until_text("started\n")
    case.host.cut()
    following.until_status(JobStatus.UNKNOWN)
    assert "cannot be asked" in following.updates[-1].state.message
    assert not following.updates[-1].over, "nobody judges what cannot be asked"
    told = following.told
    case.host.heal()  # only now, to look at the host
    backend = case.backend()
    [job] = backend.jobs(live_only=True)
    assert job["state"]["status"] == "RUNNING", "the job has not felt it"
    backend.stop(job["state"]["job_id"], reason="seen", grace_s=0.1)
    following.watch.wake()
    following.end()
    verdict.seal(case, following, told)


@pytest.mark.fault("black hole under an open connection")
def test_a_black_hole_is_noticed_soon(case: Case, wire: Wire, verdict: Verdict) -> None:
    case.unknown_after_s = 0.0
    following = case.started("echo started; sleep 1000")
    following.until_text("started\n")
    wire.is_hole = True
    fell_silent = time.monotonic()
    assert following.until_status(JobStatus.UNKNOWN) - fell_silent < hosted.SILENCE_S + hosted.ANSWER_S + LATE_S
    wire.is_hole = False
    following.watch.wake()
    following.until(lambda update: update is following.updates[-1] and update.state.status is JobStatus.RUNNING)
    following.watch.stop_job(following.updates[-1].state.job_id, reason="seen", by="pytest")
    following.end()
    verdict.seal(case, following)
    assert verdict.told == "UNKNOWN (Unreachable), CANCELLED (Cancelled)"


@pytest.mark.fault("black hole in the middle of a log")
def test_a_log_that_stalls_is_read_anew(case: Case, wire: Wire, verdict: Verdict) -> None:
    case.unknown_after_s = 0.0
    following = case.started(f"echo started; {held()}; seq 1 {BULK // 7}")
    wire.rate = 250_000
    case.let()
    following.until(lambda _: len(following.text) > BULK // 10)
    wire.is_hole = True
    assert eventually(lambda: case.connects == 3, hosted.LOG_STALL_S + LATE_S), "a connection that stalls is given up"
    wire.is_hole, wire.rate = False, 0
    following.watch.wake()
    assert following.end().status is JobStatus.SUCCEEDED
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED", "an end that is known stays known while the log is being read"


@pytest.mark.fault("latency of 300 ms")
def test_latency(case: Case, wire: Wire, verdict: Verdict) -> None:
    wire.delay_s = 0.15  # each way
    following = case.started(counting(40, 0.1))
    assert following.end().status is JobStatus.SUCCEEDED
    assert case.connects == 2
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("30 % of packets lost")
def test_loss(case: Case, verdict: Verdict) -> None:
    following = case.started(counting(150, 0.05))
    following.until_text("line 5\n")
    case.host.lose(0.3)
    assert following.end().status is JobStatus.SUCCEEDED
    case.host.heal()
    verdict.seal(case, following)


@pytest.mark.fault("50 kB/s, chatty job")
def test_a_thin_line(case: Case, wire: Wire, verdict: Verdict, lasting: Lasting) -> None:
    lines = lasting(short=5_000, long=40_000)
    following = case.started(f"sleep 1; seq -f 'a line of forty-four bytes, number %09.0f' 1 {lines:.0f}")
    wire.rate = 50_000
    assert following.end(timeout_s=200).status is JobStatus.SUCCEEDED
    assert case.connects == 2, "slow is not silent"
    verdict.seal(case, following)
    assert verdict.told == "SUCCEEDED"


@pytest.mark.fault("reset in the middle of a log frame")
def test_reset_inside_a_log_frame(case: Case, wire: Wire, verdict: Verdict) -> None:
    half = BULK // 14
    following = case.started(f"echo started; {held()}; seq 1 {half}; {held('again')}; seq {half + 1} {BULK // 7}")
    following.until_text("started\n")
    wire.reset_after(BULK // 3 + 777)
    case.let()
    following.until_text(f"\n{half}\n")
    wire.reset_after(BULK // 5 + 333)
    case.let("again")
    assert following.end().status is JobStatus.SUCCEEDED
    assert wire.resets == 2
    verdict.seal(case, following)


@pytest.mark.fault("reset in the middle of a project transfer")
def test_reset_inside_a_project(case: Case, wire: Wire, verdict: Verdict, tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "bulk").write_bytes(random.Random(1).randbytes(BULK))
    wire.reset_after(BULK // 2, down=False)
    following = case.follow(case.submit("wc -c < bulk", project=project).handle)
    assert following.end().status is JobStatus.SUCCEEDED
    assert wire.resets == 1
    assert following.text == f"{BULK}\n"
    verdict.seal(case, following)


@pytest.mark.fault("reset in the middle of an artifact download")
def test_reset_inside_a_download(case: Case, wire: Wire, verdict: Verdict, tmp_path: Path) -> None:
    submitted = case.submit(f'head -c {BULK} /dev/urandom > "$JOBDEPLOY_OUTPUT_DIR/bulk"')
    following = case.follow(submitted.handle)
    following.end()
    with service.Workers(case.pool, lambda _: case.backend()) as workers:
        service.status(workers, submitted.handle)
        wire.reset_after(BULK // 2)
        place = Folder(tmp_path / "got")
        report = service.fetch(workers, submitted.handle, place, service.Wanted(), say=case.said.append)
    assert wire.resets == 1
    assert report.bytes == BULK == (tmp_path / "got" / "bulk").stat().st_size, "each byte came once"
    assert any("again in" in line for line in case.said)
    verdict.seal(case, following, "it goes on where it was, each byte once")
