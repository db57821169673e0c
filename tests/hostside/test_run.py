"""A job from its claim to its exit record: what runs, where, with which environment, and what is said of its end."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import sys
import threading
from pathlib import Path

import pytest

from airflow_jobdeploy.core.plan import Step
from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Refused, Serve, plan, shell

HOSTILE = "a b'c\"d\n; echo pwned; $(id) `id` \\ é €"


def entry(path: str, *args: str, python: str = "") -> Step:
    return Step(name="job", kind="entry", path=path, args=args, python=python)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("exit 3", 3),
        ("false", 1),
        ("set -e\nfalse\necho not reached", 1),
        ("cat <<EOT\none\ntwo\nEOT\n(exit 9)", 9),
        ("exit 255", 255),
        ("for i in 1 2; do echo $i; done", 0),
    ],
)
def test_the_exit_code_is_the_commands_own(serve: Serve, text: str, code: int) -> None:
    state = serve.run(shell(text))
    assert state["exit_code"] == code
    assert state["status"] == ("FAILED" if code else "SUCCEEDED")
    assert state["reason"] == ("ExitCode" if code else "")
    assert state["signal"] is None


def test_both_streams_land_in_the_log_byte_for_byte(serve: Serve) -> None:
    job = serve.launch(shell("printf 'out\\n\\377\\0x'; printf 'err\\r' >&2"))
    serve.end(job)
    assert serve.log(job) == b"out\n\xff\x00xerr\r"
    reply, data = serve.ask_bytes("log", job=job, offset=4, limit=2)
    assert data == b"\xff\x00"
    assert (reply["offset"], reply["dropped"], reply["bytes"], reply["size"]) == (4, 0, 2, 11)
    assert serve.log(job, offset=99) == b""


def test_a_signal_is_named(serve: Serve) -> None:
    state = serve.run(shell("kill -USR1 $$"))
    assert (state["status"], state["reason"], state["signal"]) == ("FAILED", "Signal", "SIGUSR1")
    assert state["exit_code"] is None


def test_whitelisted_codes_and_signals_are_success(serve: Serve) -> None:
    state = serve.run(shell("exit 4", ok_codes=(4,)))
    assert (state["status"], state["exit_code"]) == ("SUCCEEDED", 4)
    assert serve.run(shell("kill -KILL $$", ok_signals=(9,)))["status"] == "SUCCEEDED"


def test_steps_run_in_order_and_stop_at_the_first_failure(serve: Serve) -> None:
    steps = tuple(
        Step(name=name, kind="shell", content=text)
        for name, text in (("one", "echo 1"), ("two", "echo 2; exit 5"), ("three", "echo 3"))
    )
    state = serve.run(plan(steps))
    assert (state["step"], state["exit_code"]) == ("two", 5)
    assert serve.log(state["job_id"]) == b"1\n2\n"


def test_environment_plan_then_secrets_then_ours(serve: Serve, host: HostPaths) -> None:
    env = {"GREETING": HOSTILE, "SECRET": "overridden", "JOBDEPLOY_JOB_ID": "forged"}
    job = serve.launch(
        shell(
            'env -0 > "$JOBDEPLOY_OUTPUT_DIR/env"; umask; readlink /proc/self/fd/0',
            env=env,
            secret_env={"SECRET": "s3cret"},
        )
    )
    state = serve.end(job)
    assert serve.log(job) == b"0077\n/dev/null\n"
    found = dict(
        item.split("=", 1) for item in (Path(host.job(job).output) / "env").read_text().split("\0") if "=" in item
    )
    assert found["GREETING"] == HOSTILE
    assert found["SECRET"] == "s3cret"
    assert found["JOBDEPLOY_JOB_ID"] == job
    assert found["JOBDEPLOY_ATTEMPT"] == "1"
    assert found["PYTHONUNBUFFERED"] == "1"
    assert found["TMPDIR"] == found["TMUX_TMPDIR"]
    assert len(found["TMPDIR"]) < 40
    assert os.path.isdir(found["JOBDEPLOY_CHECKPOINT_DIR"])
    assert not os.path.exists(found["TMPDIR"]), "the temporary directory outlived the job"
    assert not os.path.exists(host.job(job).secrets)
    assert "s3cret" not in json.dumps(state)
    assert "s3cret" not in Path(host.job(job).plan).read_text()


def test_login_environment_is_not_that_of_the_session(connect, root: Path) -> None:
    serve = connect(mode="login", env={**os.environ, "STRAY": "1"})
    state = serve.run(shell('echo "$HOME|$LANG|${STRAY-none}|$PATH"'))
    home, lang, stray, path = serve.log(state["job_id"]).decode().strip().split("|")
    assert (home, lang, stray) == (os.path.expanduser("~"), "C.UTF-8", "none")
    assert "/bin" in path


def test_secret_values_do_not_reach_the_last_lines(serve: Serve) -> None:
    state = serve.run(shell("echo token is $TOKEN; exit 1", secret_env={"TOKEN": "hunter22"}))
    assert state["facts"]["last_lines"] == "token is ***"


def test_nothing_of_the_command_is_in_argv(serve: Serve) -> None:
    needle = secrets.token_hex(8)  # which no other process of the machine can have in its line
    job = serve.launch(shell(f"sleep 60 # {needle}", env={"PASSWORD": needle}))
    serve.until(job, lambda state: state["status"] == "RUNNING")
    lines = b"".join(_bytes(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdigit())
    assert needle.encode() not in lines
    serve.stop(job)
    serve.end(job)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


# -- result, artifacts, facts -----------------------------------------------------------------------------------------


def test_result_and_artifacts_also_of_a_failed_job(serve: Serve) -> None:
    state = serve.run(
        shell(
            """
            cd "$JOBDEPLOY_OUTPUT_DIR"; mkdir 'sub dir'; printf data > 'sub dir/é'; ln -s 'sub dir/é' inside
            ln -s /etc/passwd outside; mkfifo pipe; ln -s / rootlink; ln -s nowhere dangling
            echo '{"accuracy": 0.5}' > "$JOBDEPLOY_RESULT_FILE"; exit 1
            """
        )
    )
    assert state["result"] == {"accuracy": 0.5}
    assert state["artifacts"] == {"files": 2, "bytes": 8, "skipped": 4}
    files = serve.ask("manifest", job=state["job_id"])["files"]
    assert [entry["path"] for entry in files] == ["inside", "sub dir/é"]
    assert {entry["sha256"] for entry in files} == {hashlib.sha256(b"data").hexdigest()}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        ('printf nonsense > "$F"', "not JSON"),
        ('printf \'{"a": NaN}\' > "$F"', "NaN is not a JSON value"),
        ("printf '\\377' > \"$F\"", "not JSON"),
        ("head -c 60000 /dev/zero | tr '\\0' 1 > \"$F\"", "more than 49152 bytes"),
        ('mkfifo "$F"', "not a regular file"),
        ('ln -s /etc/passwd "$F"', "not a regular file"),
        ('python3 -c \'print("[" * 20000)\' > "$F"', "not JSON"),
    ],
)
def test_an_unusable_result_says_why(serve: Serve, make: str, complaint: str) -> None:
    state = serve.run(shell("F=$JOBDEPLOY_RESULT_FILE; " + make))
    assert state["status"] == "SUCCEEDED"
    assert state["result"] is None
    assert complaint in state["facts"]["result_error"]
    assert complaint in JobState.from_wire(state).message


def test_usage_and_times_are_told(serve: Serve) -> None:
    program = "x = bytearray(64 << 20); import time; t = time.process_time()\nwhile time.process_time() - t < 0.3: pass"
    state = serve.run(shell(f"exec {shlex.quote(sys.executable)} -S -c {shlex.quote(program)}"))
    assert state["usage"]["peak_memory_bytes"] > 64 << 20
    assert 0.25 < state["usage"]["cpu_s"] < 5
    assert state["usage"]["wall_s"] == state["running_s"] > 0.25
    assert [entry["status"] for entry in state["history"]] == ["PENDING", "RUNNING", "SUCCEEDED"]
    ages = [entry["ago_s"] for entry in state["history"]]
    assert ages == sorted(ages, reverse=True)


def test_the_state_is_one_that_the_near_side_reads(serve: Serve) -> None:
    state = JobState.from_wire(serve.run(shell("echo why; exit 3")))
    assert state.message.startswith("Exit code 3")
    assert state.message.endswith("last lines:\nwhy")


@pytest.mark.parametrize(
    ("says", "hint"),
    [
        ("error: externally-managed-environment", "make a virtual environment"),
        ("/usr/bin/python3: No module named pip", "venv.yaml"),
        ("open terminal failed: not a terminal", "TMUX_TMPDIR=/tmp/jd-"),
    ],
)
def test_known_failures_get_a_hint(serve: Serve, says: str, hint: str) -> None:
    assert hint in serve.run(shell(f"echo '{says}' >&2; exit 1"))["facts"]["hint"]


def test_a_missing_program_gets_a_hint(serve: Serve) -> None:
    state = serve.run(shell("no-such-program-here"))
    assert state["exit_code"] == 127
    assert "PATH there is" in state["facts"]["hint"]


# -- kinds of steps ---------------------------------------------------------------------------------------------------


def test_script_and_file_land_below_the_working_directory(serve: Serve, tmp_path: Path) -> None:
    work = tmp_path / "wo rk"
    work.mkdir()
    steps = (
        Step(name="cfg", kind="file", path=".jd/t-1/tasks/cfg", content=HOSTILE),
        Step(
            name="go",
            kind="script",
            path=".jd/t-1/tasks/sub/go",
            content="#!/bin/bash -u\necho $0 $(pwd); cat .jd/t-1/tasks/cfg",
        ),
    )
    state = serve.run(plan(steps, workdir=str(work)))
    assert serve.log(state["job_id"]).decode() == f"./.jd/t-1/tasks/sub/go {work}\n{HOSTILE}"
    modes = [
        oct(path.stat().st_mode & 0o777)
        for path in (work / ".jd/t-1/tasks/cfg", work / ".jd/t-1/tasks/sub/go", work / ".jd")
    ]
    assert modes == ["0o600", "0o700", "0o700"]


def test_a_script_without_shebang_is_run_by_sh(serve: Serve) -> None:
    state = serve.run(plan((Step(name="s", kind="script", path="s", content="echo $0"),)))
    assert serve.log(state["job_id"]) == b"./s\n"


@pytest.mark.parametrize("path", ["../x", "/tmp/x", "a/../../x", "", "link/x", "a\0b"])
def test_no_step_writes_outside(serve: Serve, tmp_path: Path, path: str) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "link").symlink_to(tmp_path)
    state = serve.run(plan((Step(name="s", kind="file", path=path, content="x"),), workdir=str(tmp_path / "work")))
    assert (state["status"], state["reason"]) == ("FAILED", "Setup")
    assert state["message"]
    assert not (tmp_path / "x").exists()


def test_a_symlink_in_place_of_the_file_is_refused(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    work = tmp_path / "work"
    work.mkdir()
    (work / "f").symlink_to(tmp_path / "victim")
    state = serve.run(plan((Step(name="s", kind="file", path="f", content="new"),), workdir=str(work)))
    assert (state["status"], state["reason"]) == ("FAILED", "Setup")
    assert "'f' below" in state["message"]
    assert "is a link" in state["message"]
    assert (tmp_path / "victim").read_text() == "precious"
    assert (work / "f").is_symlink()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    work = tmp_path / "project"
    work.mkdir()
    (work / "main.py").write_text("import sys; print('py', sys.argv[1:])")
    (work / "plain.sh").write_text('echo sh $0 "$@"')
    (work / "shebang").write_text('#!/usr/bin/env bash\necho ${BASH_VERSION:+bash} "$1"')
    (work / "-dash.sh").write_text("echo dash")
    (work / "data").write_text("no program")
    (work / "lost").write_text("#!/no/such/interpreter\n")
    (work / "dos").write_bytes(b"#!/bin/sh\r\necho hi\r\n")
    (work / "own").write_text("not text")
    (work / "own").chmod(0o700)
    return work


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (entry("main.py", "a b", ";x"), "py ['a b', ';x']\n"),
        (entry("plain.sh", "a b"), "sh ./plain.sh a b\n"),
        (entry("shebang", "$HOME"), "bash $HOME\n"),
        (entry("-dash.sh"), "dash\n"),
        (Step(name="j", kind="argv", args=("printf", "%s|", HOSTILE)), HOSTILE + "|"),
    ],
)
def test_an_entry_runs_by_what_it_is(serve: Serve, project: Path, step: Step, said: str) -> None:
    state = serve.run(plan((step,), workdir=str(project)))
    assert serve.log(state["job_id"]).decode() == said


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (entry("gone.py"), "'gone.py' is not there"),
        (entry("data"), "no #! line"),
        (entry("lost"), "'/no/such/interpreter' of the #! line"),
        (entry("dos"), "CRLF"),
        (entry("main.py", python="/no/python"), "/no/python was not found"),
        (entry("main.py", python="python9.9"), "PATH"),
        (entry("../../../etc/passwd"), "leads out"),
        (entry("own"), "cannot run"),
        (Step(name="j", kind="argv", args=("no-such-program",)), "no-such-program was not found"),
        (Step(name="j", kind="argv"), "empty command line"),
        (Step(name="j", kind="argv", args=("echo", "a\0b")), "null byte"),
        (Step(name="j", kind="future"), "does not know"),
    ],
)
def test_what_cannot_be_started_says_why(serve: Serve, project: Path, step: Step, message: str) -> None:
    state = serve.run(plan((step,), workdir=str(project)))
    assert (state["status"], state["reason"], state["exit_code"]) == ("FAILED", "Setup", None)
    assert message in state["message"]


def test_the_plans_python_runs_a_py_file(serve: Serve, project: Path) -> None:
    fake = project / "my python"
    fake.write_text('#!/bin/sh\necho fake "$@"')
    fake.chmod(0o700)
    state = serve.run(plan((entry("main.py", "x", python="./my python"),), workdir=str(project)))
    assert serve.log(state["job_id"]) == b"fake ./main.py x\n"


def test_a_missing_workdir_is_named(serve: Serve) -> None:
    state = serve.run(shell("true", workdir="/no/such/dir"))
    assert (state["reason"], "workdir /no/such/dir does not exist" in state["message"]) == ("Setup", True)


def test_a_workdir_starts_at_home(connect, tmp_path: Path) -> None:
    (tmp_path / "proj").mkdir()
    serve = connect(env={**os.environ, "HOME": str(tmp_path)})
    state = serve.run(shell("pwd", workdir="~/proj"))
    assert serve.log(state["job_id"]).decode().strip() == str(tmp_path / "proj")


# -- claims -----------------------------------------------------------------------------------------------------------


def test_claim_and_start_twice_run_once(serve: Serve, connect, tmp_path: Path) -> None:
    job = shell(f"echo x >> {shlex.quote(str(tmp_path / 'count'))}; exit 2")
    assert serve.claim(job)["new"] is True
    other = connect()
    assert other.claim(job)["new"] is False
    first = [session.send("start", job=job.job_id) for session in (serve, other)]
    serve.answer(first[0])
    other.answer(first[1])
    assert serve.end(job.job_id)["exit_code"] == 2
    assert serve.ask("start", job=job.job_id)["state"]["exit_code"] == 2
    assert serve.claim(job)["state"]["status"] == "FAILED"
    assert (tmp_path / "count").read_text() == "x\n"


def test_two_claims_at_once_make_one_record(serve: Serve, connect) -> None:
    job = shell("true")
    sessions = [serve, connect(), connect()]
    asked = [(session, session.send("claim", plan=job.to_wire(), secrets={})) for session in sessions]
    assert sorted(session.answer(number)["new"] for session, number in asked) == [False, False, True]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"uid": "../../etc"}, "bad-request"),
        ({"job_id": "j" + "a" * 20}, "bad-request"),
        ({"layout": 99}, "newer-layout"),
        ({"attempt": "x"}, "bad-request"),
        ({"resource_id": "../x", "build": "down"}, "bad-request"),
        ({"resource_id": "unknown", "build": "watch"}, "no-such-resource"),
        ({"limits": {"grace_s": "soon"}}, "bad-request"),
    ],
)
def test_a_bad_plan_is_refused_and_leaves_nothing(serve: Serve, host: HostPaths, change: dict, code: str) -> None:
    with pytest.raises(Refused) as caught:
        serve.ask("claim", plan={**shell("true").to_wire(), **change}, secrets={})
    assert caught.value.code == code
    assert not os.path.exists(host.jobs)
    assert not os.path.exists(host.incoming) or not os.listdir(host.incoming)


def test_owner_list_and_forget(serve: Serve, host: HostPaths) -> None:
    job = shell("true", owner="task")
    serve.run(job)
    rows = serve.ask("jobs", deployment=None, live_only=False)["jobs"]
    assert [row["plan"]["owner"] for row in rows] == ["task"]
    assert rows[0]["plan"]["steps"][0]["content"] == ""
    serve.ask("own", job=job.job_id, owner="none")
    assert serve.ask("jobs", deployment="", live_only=False)["jobs"][0]["plan"]["owner"] == "none"
    assert serve.ask("jobs", deployment="other", live_only=False)["jobs"] == []
    assert serve.ask("jobs", deployment=None, live_only=True)["jobs"] == []
    serve.ask("forget", job=job.job_id)
    assert serve.ask("poll", jobs=[job.job_id])["states"] == {job.job_id: None}
    assert not os.path.exists(host.uid(job.uid))
    with pytest.raises(Refused, match="no-such-job"):
        serve.ask("forget", job=job.job_id)


def test_a_job_whose_supervisor_is_just_leaving_is_forgotten(serve: Serve, host: HostPaths) -> None:
    job = shell("true")
    serve.run(job)
    lock = Job(host, job.job_id).lock()
    assert lock.take(10)
    threading.Timer(0.5, lock.release).start()
    serve.ask("forget", job=job.job_id)
    assert serve.ask("poll", jobs=[job.job_id])["states"] == {job.job_id: None}


def test_a_live_job_is_not_forgotten(serve: Serve) -> None:
    job = serve.launch(shell("sleep 60"))
    with pytest.raises(Refused, match="active"):
        serve.ask("forget", job=job)
    serve.stop(job)
    serve.end(job)


def test_checkpoints_survive_attempts(serve: Serve) -> None:
    first = shell('echo kept > "$JOBDEPLOY_CHECKPOINT_DIR/c"; exit 1')
    serve.run(first)
    second = plan(
        (Step(name="job", kind="shell", content='cat "$JOBDEPLOY_CHECKPOINT_DIR/c"'),), uid=first.uid, attempt=2
    )
    serve.run(second)
    assert serve.log(second.job_id) == b"kept\n"


def test_slots_queue_jobs(serve: Serve) -> None:
    pool = {"slots": 1, "worker_pool": "my_pool/1"}
    first, second = shell("sleep 60", **pool), shell("echo ran", **pool)
    serve.launch(first)
    serve.until(first.job_id, lambda state: state["status"] == "RUNNING")
    serve.launch(second)
    state = serve.until(second.job_id, lambda state: state["reason"] == "Queued")
    assert (state["status"], state["phase"]) == ("PENDING", "waiting")
    serve.stop(first.job_id)
    assert serve.end(second.job_id)["status"] == "SUCCEEDED"


def test_waiting_for_a_slot_is_bounded(serve: Serve) -> None:
    first = shell("sleep 60", slots=1)
    serve.launch(first)
    serve.until(first.job_id, lambda state: state["status"] == "RUNNING")
    state = serve.run(shell("true", slots=1, limits={"schedule_timeout_s": 0.3}))
    assert (state["reason"], state["facts"]["limit"]) == ("TimedOut", "schedule_timeout")
    serve.stop(first.job_id)
    serve.end(first.job_id)
