"""SIGKILL at any instant, of session, supervisor or command, and damage: one attempt, right verdicts, nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.hostside import files, identity, process
from airflow_jobdeploy.hostside.jobdir import Job, enter, stamp
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.faults.processes import eventually
from tests.hostside.client import Refused, Serve, shell
from tests.hostside.test_stop import TREE, alive, running, supervisor


def counted(tmp_path: Path, text: str = "", **options: Any) -> Any:
    """A plan that notes each run of it."""
    return shell(f'echo x >> "{tmp_path}/count"; {text}', **options)


def runs(tmp_path: Path) -> int:
    path = tmp_path / "count"
    return len(path.read_text().split()) if path.exists() else 0


@pytest.mark.usefixtures("no_memory_kills")
def test_the_command_is_killed(serve: Serve) -> None:
    job = serve.launch(shell("echo $$; exec sleep 600"))
    serve.until(job, running)
    os.kill(int(serve.log(job)), signal.SIGKILL)
    state = serve.end(job)
    assert (state["status"], state["reason"], state["signal"]) == ("FAILED", "Signal", "SIGKILL")


def test_the_supervisor_is_killed(serve: Serve, host: HostPaths) -> None:
    job = serve.launch(shell(TREE))
    serve.until(job, running)
    eventually(lambda: len(alive(job)) >= 6)  # "ready" is said while some are still being forked
    os.kill(supervisor(host, job), signal.SIGKILL)
    state = serve.end(job)
    assert (state["status"], state["reason"]) == ("FAILED", "ProcessLost")
    assert state["facts"]["swept"] >= 4
    assert state["running_s"] > 0
    assert alive(job) == []
    assert serve.ask("start", job=job)["state"]["reason"] == "ProcessLost"


def test_the_command_dies_with_its_supervisor_before_anybody_looks(serve: Serve, host: HostPaths) -> None:
    job = serve.launch(shell("echo $$; exec sleep 600"))
    serve.until(job, running)
    pid = int(serve.log(job))
    command = process.look(pid)
    assert command
    os.kill(supervisor(host, job), signal.SIGKILL)
    wait_gone(pid, command.start)


def wait_gone(pid: int, start: int) -> None:
    until = time.monotonic() + 30
    while process.is_alive(pid, start):
        assert time.monotonic() < until, f"{pid} lives on"
        time.sleep(0.01)


def test_a_supervisor_killed_after_an_order_has_cancelled(serve: Serve, host: HostPaths) -> None:
    job = serve.launch(shell("trap : TERM; echo; while :; do sleep 0.1; done", limits={"grace_s": 600}))
    serve.until(job, running)
    serve.stop(job, reason="enough")
    os.kill(supervisor(host, job), signal.SIGKILL)
    state = serve.end(job)
    assert (state["status"], state["facts"]["stop_reason"]) == ("CANCELLED", "enough")
    assert alive(job) == []


def test_an_outcome_that_was_noted_stands(serve: Serve, host: HostPaths) -> None:
    """The instant between the command's end and the exit record, made by hand: it is too short to be hit."""
    job = serve.launch(shell("echo; sleep 600"))
    serve.until(job, running)
    pid = supervisor(host, job)
    os.kill(pid, signal.SIGSTOP)
    known = Job(host, job)
    state = known.state()
    state["outcome"] = {
        "status": "FAILED",
        "reason": "ExitCode",
        "exit_code": 42,
        "facts": {"last_lines": "seen"},
        "step": "job",
    }
    enter(state, "finishing", "RUNNING", "")
    known.write_state(state)
    os.kill(pid, signal.SIGKILL)
    found = serve.end(job)
    assert (found["reason"], found["exit_code"], found["facts"]["last_lines"]) == ("ExitCode", 42, "seen")
    assert alive(job) == []


@pytest.mark.parametrize("delay_ms", [0, 5, 10, 20, 30, 40, 60, 80, 120])
def test_the_session_is_killed_while_it_claims_and_starts(connect, tmp_path: Path, delay_ms: int) -> None:
    first = connect()
    job = counted(tmp_path, "sleep 0.2; exit 6")
    first.send("claim", plan=job.to_wire(), secrets={"A": "b"})
    first.send("start", job=job.job_id)
    time.sleep(delay_ms / 1000)  # the instant of the kill is what this test varies
    first.process.kill()
    second = connect()
    assert second.run(job)["exit_code"] == 6
    assert runs(tmp_path) == 1
    assert not list(Path(second.facts["root"]).glob("hosts/*/jobs/*/secrets.json"))


@pytest.mark.parametrize("delay_ms", [0, 5, 10, 20, 40, 80])
def test_the_supervisor_is_killed_at_any_instant(serve: Serve, host: HostPaths, tmp_path: Path, delay_ms: int) -> None:
    job = counted(tmp_path, "exit 6")
    serve.claim(job)
    number = serve.send("start", job=job.job_id)
    time.sleep(delay_ms / 1000)  # the instant of the kill is what this test varies
    for found in process.all_pids():
        line = Path(f"/proc/{found}/cmdline")
        if line.exists() and b"supervise" in (data := _read(line)) and job.job_id.encode() in data:
            try:
                os.kill(found, signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has just ended
    try:
        state = serve.answer(number)["state"]
    except Refused:  # the supervisor was killed before it could hold the job
        state = serve.state(job.job_id)
    if state["phase"] == "claimed":
        assert serve.run(job)["exit_code"] == 6
    else:
        state = serve.end(job.job_id)
        assert state["reason"] in ("ProcessLost", "ExitCode")
    assert runs(tmp_path) <= 1
    assert alive(job.job_id) == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_jobs_outlive_sessions(connect, tmp_path: Path) -> None:
    first = connect()
    job = counted(tmp_path, 'read line < "$GATE"; exit 8', env={"GATE": str(tmp_path / "gate")})
    os.mkfifo(tmp_path / "gate")
    first.launch(job)
    first.until(job.job_id, lambda state: state["status"] == "RUNNING")
    first.process.kill()
    second = connect()
    assert second.facts["live_jobs"] == 1
    assert second.claim(job)["state"]["status"] == "RUNNING"
    (tmp_path / "gate").write_text("go\n")
    assert second.end(job.job_id)["exit_code"] == 8
    assert runs(tmp_path) == 1


def test_two_sessions_find_the_dead_at_once(serve: Serve, connect, host: HostPaths) -> None:
    job = serve.launch(shell(TREE))
    serve.until(job, running)
    sessions = [serve, connect(), connect()]
    os.kill(supervisor(host, job), signal.SIGKILL)
    asked = [(session, session.send("poll", jobs=[job])) for session in sessions]
    for session, number in asked:
        session.answer(number)
    ends = [session.end(job) for session in sessions]
    assert {end["reason"] for end in ends} == {"ProcessLost"}
    assert len({json.dumps(end["facts"], sort_keys=True) for end in ends}) == 1


# -- reboot, other machines, other releases, damage -------------------------------------------------------------------


def test_a_reboot_is_proof_of_loss(serve: Serve, host: HostPaths) -> None:
    job = shell("true")
    serve.claim(job)
    known = Job(host, job.job_id)
    state = known.state()
    started = stamp()
    state.update(pid=1, pid_start=1, boot="another-1", started=[started[0], started[1] - 90, "another-1"])
    enter(state, "running", "RUNNING", "")
    known.write_state(state)
    found = serve.end(job.job_id)
    assert (found["status"], found["reason"]) == ("FAILED", "WorkerLost")
    assert 80 < found["running_s"] < 200


def test_who_holds_the_lock_is_alive_whatever_its_boot_looks_like(serve: Serve, host: HostPaths) -> None:
    """Another PID namespace on the same root (a container) sees another boot, and no such pid."""
    job = serve.launch(shell("echo ready; while :; do sleep 0.1; done", limits={"grace_s": 0}))
    serve.until(job, running)
    known = Job(host, job)
    before = known.state()
    known.write_state({**before, "boot": "another-1", "pid": 2**22 - 1})
    seen = serve.state(job)
    assert (seen["status"], seen["phase"]) == ("RUNNING", "running")
    known.write_state(before)
    serve.stop(job)
    assert serve.end(job)["status"] == "CANCELLED"


def test_a_claim_waits_for_any_submitter_across_a_reboot(serve: Serve, host: HostPaths, tmp_path: Path) -> None:
    job = counted(tmp_path)
    serve.claim(job)
    known = Job(host, job.job_id)
    state = known.state()
    state["claimed"] = state["history"][0][2] = [1.0, time.time() - 60, "another-1"]
    known.write_state(state)
    found = serve.state(job.job_id)
    assert (found["status"], found["reason"]) == ("PENDING", "Staging")
    assert 50 < found["history"][0]["ago_s"] < 120
    assert serve.run(job)["status"] == "SUCCEEDED"


def test_a_newer_layout_is_reported_and_not_touched(connect, serve: Serve, host: HostPaths) -> None:
    job = shell("true")
    serve.claim(job)
    serve = connect()  # a session reads a plan once
    path = Path(host.job(job.job_id).plan)
    path.write_text(json.dumps({**json.loads(path.read_text()), "layout": 2}))
    before = sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.parent.iterdir())
    state = serve.state(job.job_id)
    assert (state["status"], state["reason"]) == ("UNKNOWN", "NewerLayout")
    assert "layout 2" in state["message"]
    assert serve.ask("start", job=job.job_id)["state"]["reason"] == "NewerLayout"
    for op, more in (("stop", {"reason": "", "by": "", "grace_s": None}), ("forget", {}), ("own", {"owner": "none"})):
        with pytest.raises(Refused, match="newer-layout"):
            serve.ask(op, job=job.job_id, **more)
    assert sorted((entry.name, entry.stat().st_mtime_ns) for entry in path.parent.iterdir()) == before


@pytest.mark.parametrize("name", ["plan.json", "state.json", "exit.json"])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"{}", b'{"status": 3, "history": 4}', b"[" * 90000]
)
def test_damaged_records_are_unknown_not_a_traceback(connect, root: Path, name: str, content: bytes) -> None:
    serve = connect()
    state = serve.run(shell("exit 1"))
    paths = HostPaths(str(root), serve.facts["machine"]).job(state["job_id"])
    if name != "exit.json":
        os.unlink(paths.exit)
    (Path(paths.dir) / name).write_bytes(content)
    other = connect()
    found = other.state(state["job_id"])
    assert found["status"] in ("UNKNOWN", "FAILED"), found
    if found["status"] == "UNKNOWN":
        assert name in found["message"] or "damaged" in found["message"]
    assert other.ask("jobs", deployment=None, live_only=False)["ok"]
    assert other.ask("poll", jobs=[])["states"] == {}


def test_missing_files_are_unknown(connect, serve: Serve, host: HostPaths) -> None:
    job = shell("true")
    serve.claim(job)
    serve = connect()
    os.unlink(host.job(job.job_id).plan)
    assert "plan.json is missing" in serve.state(job.job_id)["message"]


def test_a_copied_root_on_another_machine_is_another_host(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert identity.machine(str(tmp_path / "a")) == identity.machine(str(tmp_path / "a"))
    assert identity.machine(str(tmp_path / "a")) != identity.machine(str(tmp_path / "b"))


def test_swapped_records_are_whole_for_every_reader(tmp_path: Path) -> None:
    """One process rewrites the record as fast as it can, we read: never torn, never missing."""
    path, spare = tmp_path / "state.json", tmp_path / "state.reserve"
    files.reserve(str(path), files.STATE_RESERVE)
    files.write_swapped(str(path), str(spare), {"n": -1, "fill": ""})
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from airflow_jobdeploy.hostside import files\n"
        "for n in range(4000):\n"
        "    files.write_swapped(sys.argv[2], sys.argv[3], {'n': n, 'fill': str(n % 10) * (n % 7000)})"
    )
    home = str(Path(__file__).parents[2])
    writer = subprocess.Popen([sys.executable, "-c", program, home, str(path), str(spare)])
    seen = []
    while writer.poll() is None:
        value = files.read_json(str(path))
        assert value is not None
        assert value["fill"] == str(value["n"] % 10) * (value["n"] % 7000 if value["n"] >= 0 else 0)
        seen.append(value["n"])
    assert writer.returncode == 0
    assert seen == sorted(seen)
    assert (files.read_json(str(path)) or {})["n"] == 3999
