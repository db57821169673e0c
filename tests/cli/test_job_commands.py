"""Jobs from their start to their end, by commands, on this machine."""

from __future__ import annotations

import getpass
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import Cli
from tests.packing.repositories import git, repository, write
from tests.servers.s3 import S3

Write = Callable[..., str]


def test_run_shows_the_log_and_ends_as_the_job(cli: Cli, job: Write) -> None:
    done = cli("run", job('echo "one  two"; echo three >&2; exit 3'))
    assert done.code == 3
    assert done.out == "one  two\nthree\n"  # the log, and nothing but the log
    assert re.search(r"Job j\w{20} FAILED: Exit code 3 after ", done.err)
    assert "last lines" not in done.err  # they have just been seen


@pytest.mark.parametrize(
    ("command", "fields", "code"),
    [("true", {}, 0), ("kill -9 $$", {}, 125), ("sleep 60", {"timeout": 0.3}, 125)],
    ids=["well", "killed", "timeout"],
)
def test_exit_codes(cli: Cli, job: Write, command: str, fields: dict[str, object], code: int) -> None:
    assert cli("run", job(command, **fields)).code == code


def test_overrides_and_project(cli: Cli, job: Write, home: Path) -> None:
    project = home / "it's a project"
    project.mkdir()
    (project / "name.txt").write_text("sent\n")
    done = cli("run", job("cat name.txt; echo $A"), "--project-dir", project, "--set", "env={A: 3.10}")
    assert (done.code, done.out) == (0, "sent\n3.10\n"), done.err
    assert "Sending the project (1 file," in done.err


def test_a_detached_job_by_the_beginning_of_its_id(cli: Cli, job: Write, home: Path) -> None:
    name = cli("run", job('echo hi; echo out > "$JOBDEPLOY_OUTPUT_DIR/o.txt"; exit 7'), "-d").out.strip()
    done = cli("status", name[:6], "--wait", "-o", "json")
    assert done.code == 7
    assert {key: done.data[key] for key in ("job_id", "status", "reason", "exit_code", "name", "worker")} == {
        "job_id": name,
        "status": "FAILED",
        "reason": "ExitCode",
        "exit_code": 7,
        "name": "a job",
        "worker": "local",
    }
    assert cli("status", name[:6]).code == 0  # asking went well
    assert cli("logs", name[:6]).out == "hi\n"
    assert cli("logs", name[:6], "-f").code == 7
    done = cli("download", name[:6], "--dest", "got")
    assert (done.code, done.out) == (0, f"{home}/got/o.txt\n")
    assert (home / "got/o.txt").read_text() == "out\n"
    assert cli("download", name[:6], "--dest", "got", "--patterns", "*.txt", "-o", "json").data["skipped"] == 1
    assert cli("forget", name[:6]).code == 0
    assert cli("status", name).code == 1


def test_status_shows_what_a_job_says(cli: Cli, job: Write) -> None:
    lines = ('{"progress": 0.5, "type": "progress", "value": 0.5}', '{"metric": {"name": "loss", "value": 0.25}}')
    say = "".join(f"echo '{line}' >>\"$JOBDEPLOY_MESSAGES_FILE\"; " for line in lines)
    name = cli("run", job(f"{say}sleep 60", grace=0), "-d").out.strip()
    wait_until(lambda: "Metrics" in cli("status", name).out)
    shown = cli("status", name).out
    assert "50 %" in shown
    assert "loss=0.25" in shown
    assert cli("status", name, "-o", "json").data["messages"]["progress"] == {"value": 0.5}
    cli("stop", name)


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


def test_ids_that_name_nothing_or_too_much(cli: Cli, job: Write) -> None:
    names = {cli("run", job("true"), "-d").out.strip() for _ in range(2)}
    for name in names:  # of a live one nothing is forgotten
        cli("status", name, "--wait")
    done = cli("status", "jjjj")
    assert done.code == 1
    assert "there is no job or resource 'jjjj' in pool 'local'. `airflow jobdeploy ls --all" in done.err
    short = cli("status", "j")
    assert "the beginning of an id is at least 4 characters" in short.err
    assert cli("forget", *names, "jjjj").code == 1  # the others are done all the same
    assert cli("ls", "--all", "-o", "json").data["jobs"] == []


def test_ambiguous_beginnings_list_the_candidates() -> None:
    from airflow_jobdeploy.commands.lookup import Listing, locate
    from airflow_jobdeploy.core.pool import WorkerPool
    from airflow_jobdeploy.errors import WorkerError
    from airflow_jobdeploy.service import Workers

    def row(name: str, resource: str = "", build: str = "") -> dict[str, object]:
        plan = {"job_id": name, "name": f"name of {name}", "resource_id": resource, "build": build}
        return {"worker": "local", "plan": plan, "state": {"job_id": name, "status": "RUNNING"}}

    rows = (row("jabcdx"), row("jabcdy"), row("jdown", "jabc2345", "down"), row("jup", "jabc2345", "up"))
    with Workers(WorkerPool.local(), lambda worker: pytest.fail("nobody is to be asked")) as workers:
        known = Listing(rows=rows)
        with pytest.raises(WorkerError, match=r"beginning of 3 ids") as caught:
            locate(workers, "jabc", known)
        assert "jabcdx  RUNNING  name of jabcdx" in str(caught.value)
        assert locate(workers, "JABCDY", known).handle.job_id == "jabcdy"
        assert locate(workers, "jabc2", known).handle.job_id == "jup"  # a resource is its `up`


def test_logs_byte_for_byte_and_tails(job: Write, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    from airflow.cli.cli_parser import get_parser

    def printed(*words: str) -> bytes:
        capfdbinary.readouterr()
        args = get_parser().parse_args(["jobdeploy", *words])
        args.func(args)
        return capfdbinary.readouterr().out

    name = printed("run", job("seq 30000; printf '\\377\\000\\r10%%\\r20%%\\nlast'"), "-d").decode().strip()
    args = get_parser().parse_args(["jobdeploy", "status", name, "--wait"])
    args.func(args)
    whole = b"".join(b"%d\n" % n for n in range(1, 30001)) + b"\xff\x00\r10%\r20%\nlast"
    assert printed("logs", name) == whole
    assert printed("logs", name, "--tail", "1") == b"last"
    assert printed("logs", name, "--tail", "3") == b"30000\n\xff\x00\r10%\r20%\nlast"
    assert printed("logs", name, "--tail", "20000") == b"\n".join(whole.split(b"\n")[-20000:])
    assert printed("logs", name, "--tail", "99999") == whole
    assert printed("logs", name, "--tail", "0") == b""


def test_stop(cli: Cli, job: Write) -> None:
    names = [cli("run", job("exec sleep 300"), "-d").out.strip() for _ in range(2)]
    listed = cli("ls", "-o", "json").data["jobs"]
    assert {row["job_id"] for row in listed} == set(names)
    assert all(row["owner"] == "none" for row in listed)
    done = cli("stop", names[0], "nowhere", names[1], "--reason", "enough")
    assert done.code == 1
    assert "there is no job or resource 'nowhere'" in done.err
    assert len(re.findall(r"CANCELLED: Stopped by \S+: enough", done.err)) == 2
    assert cli("status", names[0], "--wait").code == 130
    assert cli("ls").err == "No live jobs and no active resources (--all shows those that have ended).\n"
    assert {row["job_id"] for row in cli("ls", "--status", "cancelled", "-o", "json").data["jobs"]} == set(names)
    assert cli("ls", "--status", "FAILED,SUCCEEDED", "-o", "json").data["jobs"] == []
    assert [cli("rm", name).code for name in names] == [0, 0]


def test_ls_finds_what_is_looked_for(cli: Cli, job: Write) -> None:
    one = cli("run", job("sleep 60", job_name="one", tags=["a", "b"]), "-d").out.strip()
    two = cli("run", job("true", job_name="two", tags=["a"])).err.split("Job ")[-1].split()[0]

    def found(*options: str) -> list[str]:
        return [row["job_id"] for row in cli("ls", *options, "-o", "json").data["jobs"]]

    assert found() == found("--tag", "b") == found("-a", "--tag", "a", "--tag", "b") == [one]
    assert found("-a", "--tag", "a") == [two, one]
    assert found("-a", "--limit", "1") == found("-a", "--name", "two") == found("--status", "succeeded") == [two]
    assert found("-a", "--since", "1h", "--owner", getpass.getuser()) == [two, one]
    assert found("-a", "--until", "1h") == found("-a", "--owner", "nobody-else") == found("--since", "2999-01-01") == []
    (row,) = cli("ls", "--name", "one", "-o", "json").data["jobs"]
    assert (row["tags"], row["user"]) == (["a", "b"], getpass.getuser())
    for words, said in [
        (["--status", "runing"], "'runing' is no status. Did you mean 'running'"),
        (["--since", "yesterday"], "--since: 'yesterday' is neither a time ago (30m, 2h, 1d12h) nor a date"),
        (["--limit", "0"], "--limit: 0 is no number of jobs"),
    ]:
        done = cli("ls", *words)
        assert (done.code, said in done.err) == (2, True), done.err
    cli("stop", one)
    assert "History: " in cli("status", one).out.replace("History ", "History: ")


def test_bump(cli: Cli, job: Write) -> None:
    name = cli("run", job("sleep 60", life_span="1h"), "-d").out.strip()
    done = cli("bump", name, "30m")
    assert re.search(rf"Job {name} may run for 1 h 30 min: 1 h (29|30) min more", done.err), done.err
    for words, code, said in [
        ((name, "soon"), 2, "'soon'"),
        (("jjjj", "1h"), 1, "there is no job"),
    ]:
        failed = cli("bump", *words)
        assert (failed.code, said in failed.err) == (code, True), failed.err
    cli("stop", name)
    assert "its life cannot be lengthened" in cli("bump", name, "1h").err


def test_a_template_up_and_down(cli: Cli, service_yaml: Path) -> None:
    name = cli("up", "service.yaml", "--params", "port=8080", "-d").out.strip()
    listed = cli("ls", "-o", "json").data
    (resource,) = listed["resources"]
    assert (resource["state"], resource["params"]) == ("active", {"name": "web", "port": 8080})
    rid = resource["resource"]
    assert [row["job_id"] for row in listed["jobs"]] == [name]
    wait_until(lambda: cli("logs", rid).out != "")
    assert cli("status", rid).out.splitlines()[2].split()[0:2] == ["Status", "RUNNING"]
    assert cli("logs", rid).out == "serving web on 8080\n"
    view = cli("view", rid[:5])
    assert re.search(r"port +8080", view.out)
    assert re.search(r"builds +down, purge, up, watch", view.out)
    assert cli("build", "watch", rid).code == 3
    wrong = cli("build", "wacth", rid)
    assert wrong.code == 1
    assert "has no build 'wacth'" in wrong.err
    down = cli("down", rid)
    assert (down.code, down.out) == (0, "taken down\n")
    assert cli("status", name, "--wait").code == 130  # the up was taken down
    again = cli("down", rid)
    assert again.code == 0
    assert "was taken down before" in again.err
    assert cli("ls", "-o", "json").data == {"jobs": [], "resources": [], "silent": {}}
    gone = cli("rm", rid, "--purge")
    assert (gone.code, gone.out) == (0, "purged\n")
    assert cli("ls", "--all", "-o", "json").data == {"jobs": [], "resources": [], "silent": {}}


def test_rm_takes_down_first_and_keeps_what_it_could_not(cli: Cli, home: Path, service_yaml: Path) -> None:
    service_yaml.write_text(service_yaml.read_text().replace("echo taken down", "test -e ready || exit 4"))
    rid = cli("up", "service.yaml", "--workdir", str(home), "-d", "-o", "json").data["resource"]
    done = cli("rm", rid)
    assert done.code == 4
    assert "Nothing was forgotten: down of resource" in done.err
    (home / "ready").touch()
    assert cli("rm", rid).code == 0
    assert cli("status", rid[:7]).code == 1
    kept = cli("view", rid).out  # without --purge the resource's own record stays
    assert "UNKNOWN (RecordMissing)" in kept
    assert re.search(r"state +taken down", kept)


def test_a_spec_has_no_builds(cli: Cli, job: Write) -> None:
    name = cli("run", job("true"), "-d").out.strip()
    done = cli("down", name)
    assert done.code == 1
    assert "is of a job spec: it has no builds. `airflow jobdeploy stop" in done.err


def test_yaml_and_plain(cli: Cli, job: Write) -> None:
    done = cli("run", job("echo hi; echo '{\"x\": [1]}' > $JOBDEPLOY_RESULT_FILE"), "-o", "yaml")
    handle = yaml.safe_load(done.out)
    assert (handle["status"], handle["result"]) == ("SUCCEEDED", {"x": [1]})
    assert "hi\n" in done.err  # stdout is for the data alone
    lines = cli("ls", "-a", "-o", "plain").out.splitlines()
    assert lines[1].split()[:2] == [handle["job_id"], "SUCCEEDED"]
    view = cli("view", handle["job_id"], "-o", "json").data
    assert view["plan"]["uid"] == handle["uid"]
    assert view["resource_record"] is None


def test_a_cause_that_is_worth_another_attempt(cli: Cli, job: Write) -> None:
    command = 'cd "$JOBDEPLOY_CHECKPOINT_DIR"; test -e seen && exit 0; touch seen; echo once; exit 75'
    done = cli("run", job(command, retry={"on": [{"exit_code": [75]}], "max": 2}))
    assert (done.code, done.out) == (0, "once\n"), done.err
    assert "tried again for its cause (ExitCode), 1 of 2" in done.err
    assert [row["status"] for row in cli("ls", "--all", "-o", "json").data["jobs"]] == ["SUCCEEDED", "FAILED"]


_RESUMABLE = """\
cd "$JOBDEPLOY_CHECKPOINT_DIR"
test -e half && echo second half && exit 0
trap 'touch half; echo "{\\"type\\": \\"checkpoint\\"}" >> "$JOBDEPLOY_MESSAGES_FILE"' TERM
echo first half
while true; do sleep 0.1; done
"""


def test_preempted_and_resumed_by_who_waits(cli: Cli, job: Write, home: Path) -> None:
    spec = job(_RESUMABLE, preemptible=True, grace="1m")
    command = [Path(sys.executable).with_name("airflow"), "jobdeploy", "run", spec]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "first half\n"
        (row,) = cli("ls", "-o", "json").data["jobs"]
        done = cli("preempt", row["job_id"], "--reason", "a demo at noon")
        assert done.code == 0, done.err
        assert "SUSPENDED" in done.err
        assert "a demo at noon" in done.err
        out, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, out.splitlines()[-1]) == (0, "second half"), said
    assert "goes on from its checkpoint, preemption 1" in said
    went_on = cli("status", row["job_id"]).out
    assert re.search(r"Went on +as j\w{20}, attempt 2 on worker local", went_on)


@pytest.mark.parametrize(
    ("fields", "words", "told"),
    [({"signal": "SIGUSR2"}, [], "USR2"), ({"signal": "INT"}, ["--signal", "usr2"], "USR2")],
)
def test_it_is_told_by_the_signal_that_it_asks_for(
    cli: Cli, job: Write, fields: dict[str, str], words: list[str], told: str
) -> None:
    traps = "; ".join(f"trap 'echo {name}; exit 0' {name}" for name in ("TERM", "USR2", "INT"))
    name = cli("run", job(f"{traps}; echo ready; while :; do sleep 0.1; done", **fields), "-d").out.strip()
    until = time.monotonic() + 30
    while "ready" not in cli("logs", name).out:
        assert time.monotonic() < until
    done = cli("preempt", name, *words)
    assert (done.code, "SUSPENDED" in done.err) == (0, True)
    assert cli("logs", name).out.split()[-1] == told


@pytest.mark.parametrize("words", [["--grace", "soon"], ["--signal", "SIGNAL"]])
def test_preempt_with_wrong_words(cli: Cli, words: list[str]) -> None:
    assert cli("preempt", "j2345", *words).code == 2


def test_a_job_that_needs_somebody_says_so(cli: Cli, job: Write) -> None:
    done = cli("run", job("exec sleep 300", preemptible=True, worker_lost_after=625), "-d")
    assert "warning: the job stops itself when nobody follows it for 10 min (on_orphan: stop)" in done.err
    assert cli("stop", done.out.strip()).code == 0


def test_ctrl_c_leaves_the_job_alone(cli: Cli, job: Write, home: Path) -> None:
    """The real program: the first Ctrl-C detaches, and says how to go on."""
    command = [Path(sys.executable).with_name("airflow"), "jobdeploy", "run", job("echo started; exec sleep 300")]
    process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert "Traceback" not in said
    (name,) = re.findall(r"Detached: job (j\w{20}) goes on on worker local", said)
    assert f"airflow jobdeploy logs -f {name}" in said
    assert cli("status", name, "-o", "json").data["status"] == "RUNNING"
    assert cli("stop", name).code == 0


def test_ctrl_c_while_the_project_is_sent(cli: Cli, job: Write, home: Path) -> None:
    """Nothing has started by then, and nothing will."""
    from airflow_jobdeploy.commands.screen import Progress

    project = home / "project"
    project.mkdir()
    (project / "big").write_bytes(bytes(3 << 20))
    before = signal.getsignal(signal.SIGINT)

    def interrupted(self: Progress, moved: int, total: int) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Progress, "update", interrupted)
        done = cli("run", job("echo never"), "--project-dir", project)
    assert (done.code, done.out) == (130, "")
    assert "was not started (CANCELLED)" in done.err
    assert signal.getsignal(signal.SIGINT) is before


def test_view_says_which_code_ran(cli: Cli, job: Write, home: Path) -> None:
    project = repository(home / "project", {"main.py": "print(1)\n"})
    git(project, "remote", "add", "origin", "https://ann:s3cret@github.com/ann/digits.git")
    write(project, {"new.py": ""})
    done = cli("run", job("python3 main.py"), "--project-dir", project)
    assert done.code == 0, done.err
    job_id = done.err.split("Job ")[1].split()[0]
    commit = git(project, "rev-parse", "HEAD")
    assert f"commit {commit[:12]} (main: first), with uncommitted changes" in cli("status", job_id).out
    shown = cli("view", job_id).out
    assert f"https://github.com/ann/digits/commit/{commit}" in shown
    assert "?? new.py" in shown
    assert "s3cret" not in shown + done.err


def test_output_goes_to_object_storage(
    cli: Cli,
    job: Write,
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    extra = {"endpoint_url": s3.url, "region_name": "us-east-1"}
    connection = {"conn_type": "aws", "login": "access-key", "password": "secret-key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_CLI_LAB", json.dumps(connection))
    assert cli("run", job('echo out > "$JOBDEPLOY_OUTPUT_DIR/o.txt"')).code == 0
    (row,) = cli("ls", "--all", "-o", "json").data["jobs"]
    place = f"s3://cli_lab@{s3.bucket()}/x"
    done = cli("download", row["job_id"], "--dest", place)
    assert (done.code, done.out.splitlines()[-1]) == (0, f"{place}/o.txt"), done.err
    assert s3.fs().cat_file(f"{place.partition('@')[2]}/o.txt") == b"out\n"
    done = cli("download", row["job_id"], "--dest", "s3://cli_lab@no-such-bucket/x")
    assert done.code == 1
    assert "The specified bucket does not exist" in done.err
