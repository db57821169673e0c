"""Stop means stop; limits hold on the host; what a command leaves behind is waited for or ended, and named."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.hostside import files, process, tree
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.hostside.client import Refused, Serve, shell


def alive(job: str) -> list[str]:
    """Processes that carry the job's id."""
    return [found.comm for found in process.carriers(tree.JOB_ID, job)]


def running(state: dict[str, Any]) -> bool:
    return state["status"] == "RUNNING" and state["log_bytes"] > 0


TREE = """
setsid sh -c 'sleep 600; true' &
sh -c '(sh -c "trap : TERM INT HUP; sleep 601 & wait; sleep 602" &) ; sleep 603' &
nohup setsid sh -c 'sleep 604; true' >/dev/null 2>&1 &
echo ready
wait
sleep 605
"""


@pytest.mark.parametrize("sig", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_the_whole_tree_goes(serve: Serve, sig: str) -> None:
    job = serve.launch(shell(TREE, limits={"grace_s": 0.5, "signal": sig}))
    serve.until(job, running)
    until = time.monotonic() + 30
    while len(alive(job)) < 6:  # "ready" is said while some are still being forked
        assert time.monotonic() < until, alive(job)
        time.sleep(0.02)
    assert serve.stop(job, reason="enough", by="a person")["status"] in ("RUNNING", "CANCELLED")
    state = serve.end(job)
    assert (state["status"], state["reason"]) == ("CANCELLED", "Cancelled")
    assert (state["facts"]["stopped_by"], state["facts"]["stop_reason"]) == ("a person", "enough")
    assert alive(job) == []


def test_a_command_may_clean_up_within_its_grace(serve: Serve) -> None:
    command = "trap 'sleep 0.5; echo cleaned; exit 0' TERM; echo ready; while :; do sleep 0.1; done"
    job = serve.launch(shell(command, limits={"grace_s": 20}))
    serve.until(job, running)
    serve.stop(job)
    state = serve.end(job, timeout_s=10)
    assert (state["status"], state["exit_code"]) == ("CANCELLED", 0)
    assert serve.log(job).endswith(b"cleaned\n")  # sh itself may say before that its sleep was terminated


def test_a_second_order_shortens_the_grace(serve: Serve) -> None:
    job = serve.launch(shell("trap : TERM; echo ready; while :; do sleep 0.1; done", limits={"grace_s": 600}))
    serve.until(job, running)
    serve.stop(job)
    serve.stop(job, grace_s=0)
    assert serve.end(job, timeout_s=10)["status"] == "CANCELLED"


def test_a_stopped_process_is_woken_and_ended(serve: Serve) -> None:
    job = serve.launch(shell("echo ready; kill -STOP $$", limits={"grace_s": 30}))
    serve.until(job, running)
    serve.stop(job)
    assert serve.end(job, timeout_s=10)["status"] == "CANCELLED"


def test_a_life_is_lengthened_though_nobody_wakes_the_supervisor(serve: Serve) -> None:
    job = serve.launch(shell("echo ready; sleep 600", limits={"life_span_s": 4.0, "grace_s": 0.5}))
    serve.until(job, running)
    assert serve.ask("extend", job=job, seconds=0.5, token="one")["state"]["life_span_s"] == 4.5
    assert serve.ask("extend", job=job, seconds=0.7, token="two")["state"]["life_span_s"] == 5.2
    state = serve.end(job)
    assert (state["status"], state["reason"]) == ("FAILED", "TimedOut")
    assert (state["facts"]["limit"], state["facts"]["limit_s"]) == ("life_span", 5.2)
    assert 5.2 <= state["running_s"] < 30
    assert alive(job) == []


def test_what_is_no_addition_to_a_life_is_refused(serve: Serve) -> None:
    job = serve.launch(shell("echo ready; sleep 600", limits={"life_span_s": 600.0, "grace_s": 0.5}))
    for seconds in (0, -5, "1", None, True, 1e12, float("inf")):
        with pytest.raises(Refused, match="lengthened by more than 0"):
            serve.ask("extend", job=job, seconds=seconds, token="t")
    with pytest.raises(Refused, match="bad-request"):
        serve.ask("extend", job=job, seconds=1, token="../up 7\n9 other")
    assert serve.state(job)["life_span_s"] == 600.0
    serve.stop(job, grace_s=0)


def test_what_a_full_disk_has_cut_in_two_is_no_addition(serve: Serve, host: HostPaths) -> None:
    job = serve.launch(shell("echo ready; sleep 600", limits={"life_span_s": 600.0, "grace_s": 0.5}))
    Path(host.job(job).life).write_text("\n99.000 hal")
    assert serve.ask("extend", job=job, seconds=60, token="whole")["state"]["life_span_s"] == 660
    serve.stop(job, grace_s=0)


def test_a_job_that_never_started_is_stopped_at_once(serve: Serve) -> None:
    job = shell("echo never")
    serve.claim(job)
    assert serve.stop(job.job_id)["status"] == "CANCELLED"
    assert serve.ask("start", job=job.job_id)["state"]["status"] == "CANCELLED"
    assert serve.log(job.job_id) == b""


def test_a_queued_job_is_stopped(serve: Serve) -> None:
    first, second = shell("echo; sleep 60", slots=1), shell("true", slots=1)
    serve.launch(first)
    serve.until(first.job_id, running)
    serve.launch(second)
    serve.stop(second.job_id)
    assert serve.end(second.job_id)["status"] == "CANCELLED"
    serve.stop(first.job_id)
    serve.end(first.job_id)


def test_stopping_what_has_ended_changes_nothing(serve: Serve) -> None:
    state = serve.run(shell("exit 3"))
    assert serve.stop(state["job_id"])["exit_code"] == 3


def test_sigterm_alone_is_an_order(serve: Serve, host: HostPaths) -> None:
    job = serve.launch(shell("echo ready; sleep 60"))
    serve.until(job, running)
    os.kill(supervisor(host, job), signal.SIGTERM)
    assert serve.end(job)["facts"]["stop_reason"] == "its supervisor received SIGTERM"


def supervisor(host: HostPaths, job: str) -> int:
    return int((files.read_json(host.job(job).state) or {})["pid"])


# -- limits -----------------------------------------------------------------------------------------------------------


def test_the_timeout_ends_the_tree(serve: Serve) -> None:
    state = serve.run(shell(TREE, limits={"timeout_s": 0.5, "grace_s": 0.2}))
    assert (state["status"], state["reason"]) == ("FAILED", "TimedOut")
    assert (state["facts"]["limit"], state["facts"]["limit_s"]) == ("timeout", 0.5)
    assert alive(state["job_id"]) == []


def test_a_steps_own_timeout(serve: Serve) -> None:
    state = serve.run(shell("sleep 60", timeout_s=0.3, limits={"timeout_s": 500}))
    assert (state["reason"], state["facts"]["limit_s"]) == ("TimedOut", 0.3)


def test_staging_is_bounded(serve: Serve) -> None:
    job = shell("echo never", limits={"setup_timeout_s": 0.01})
    serve.claim(job)
    state = serve.end(job.job_id)
    assert (state["reason"], state["facts"]["limit"]) == ("TimedOut", "setup_timeout")


def test_the_log_is_capped_at_its_head_and_offsets_stay(serve: Serve, host: HostPaths) -> None:
    text = "i=0; while [ $i -lt 4000 ]; do printf '%099d\\n' $i; i=$((i+1)); done"
    state = serve.run(shell(text, limits={"log_limit_bytes": 65536}))
    job = state["job_id"]
    assert state["log_bytes"] == 400_000
    assert 300_000 < state["log_dropped_bytes"] <= 400_000 - 65536
    reply, data = serve.ask_bytes("log", job=job, offset=10, limit=1 << 20)
    assert reply["offset"] == state["log_dropped_bytes"]
    assert reply["dropped"] == reply["offset"] - 10
    assert data == b"".join(b"%099d\n" % number for number in range(4000))[reply["offset"] :]
    assert os.stat(host.job(job).log).st_blocks * 512 < 200_000


# -- leftovers --------------------------------------------------------------------------------------------------------


def test_a_spec_ends_with_its_command(serve: Serve) -> None:
    # Each is named by what it has become: a moment after its fork it is still sh.
    named = 'until [ "$(cat /proc/$!/comm)" = sleep ]; do :; done'
    text = f"(trap '' TERM; exec sleep 600) & {named}; setsid sleep 601 & {named}; echo out; exit 7"
    state = serve.run(shell(text, limits={"grace_s": 0.3}))
    assert (state["status"], state["exit_code"]) == ("FAILED", 7)
    assert [line.split()[1] for line in state["facts"]["left_behind"]] == ["sleep", "sleep"]
    assert state["facts"]["last_lines"] == "out"
    log = serve.log(state["job_id"]).decode()
    assert log.startswith("out\n[left behind by the command, stopped: ")
    assert alive(state["job_id"]) == []


def test_what_ends_by_itself_is_not_called_left_behind(serve: Serve) -> None:
    state = serve.run(shell("(sleep 0.1; echo late) & echo early"))
    assert serve.log(state["job_id"]) == b"early\nlate\n"
    assert "left_behind" not in state["facts"]


def test_waiting_for_leftovers_with_an_exit_file(serve: Serve, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    text = f'setsid sh -c \'read line < "{gate}"; echo 5 > "$JOBDEPLOY_EXIT_FILE"\' & echo started'
    job = serve.launch(shell(text, leftovers="wait"))
    state = serve.until(job, lambda state: state["reason"] == "Leftovers")
    assert (state["status"], state["phase"]) == ("RUNNING", "leftovers")
    assert state["facts"]["leftovers"] >= 1
    gate.write_text("go\n")
    state = serve.end(job)
    assert (state["status"], state["exit_code"]) == ("FAILED", 5)
    assert "leftovers" not in state["facts"]


@pytest.mark.parametrize(
    ("content", "code", "unknown"),
    [("0", 0, False), (" 3\n", 3, False), ("not a number", 0, True), ("", 0, True)],
)
def test_the_exit_file_decides(serve: Serve, tmp_path: Path, content: str, code: int, unknown: bool) -> None:
    os.mkfifo(tmp_path / "gate")
    text = f"(read line < '{tmp_path}/gate'; printf '{content}' > \"$JOBDEPLOY_EXIT_FILE\") &"
    job = serve.launch(shell(text, leftovers="wait"))
    serve.until(job, lambda state: state["reason"] == "Leftovers")
    (tmp_path / "gate").write_text("go\n")
    state = serve.end(job)
    assert state["exit_code"] == code
    assert state["status"] == ("FAILED" if code else "SUCCEEDED")
    assert state["facts"].get("exit_unknown", False) is unknown


def test_the_timeout_covers_the_wait_for_leftovers(serve: Serve) -> None:
    state = serve.run(shell("setsid sleep 600 &", leftovers="wait", limits={"timeout_s": 0.7, "grace_s": 0.2}))
    assert state["reason"] == "TimedOut"
    assert alive(state["job_id"]) == []


def test_a_failed_step_does_not_wait(serve: Serve) -> None:
    state = serve.run(shell("setsid sleep 600 & exit 4", leftovers="wait", limits={"grace_s": 0.2}))
    assert (state["status"], state["exit_code"]) == ("FAILED", 4)
    assert alive(state["job_id"]) == []
