"""Leases and the line where it hurts: every party killed, other accounts that lie, GPUs that cannot be looked at."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from airflow_jobdeploy.core.leases import Ticket, hashed, lease_of
from airflow_jobdeploy.core.plan import Plan, new_uid
from airflow_jobdeploy.hostside import cage, census, keeper, notices
from airflow_jobdeploy.hostside.layout import HostPaths
from tests.faults.processes import cpu_s, eventually, is_alive
from tests.hostside.client import Refused, Serve, plan, shell
from tests.hostside.strangers import UID, Network, Stranger, impostor, knock, network
from tests.hostside.test_stop import running, supervisor
from tests.servers.gpus import FakeGpus

pytestmark = pytest.mark.netns

#: Sessions that know their GPUs from their first word on; and that wait for what a tool says of them, however long.
KNOWING = """
from airflow_jobdeploy.hostside import facts
facts._GPUS_S, facts._GPU_WAIT_S = -1.0, 30.0
"""
WAITING = """
from airflow_jobdeploy.hostside import lineops
lineops._SEEK_WAIT_S = lineops._ROOM_WAIT_S = 30.0
"""

#: Sessions that look at GPUs again soon, and keepers that wait for two seconds.
IMPATIENT = """
from airflow_jobdeploy.hostside import capacity, gpus, keeper, line, tickets
gpus.FRESH_S = line.FRESH_S = capacity.FRESH_S = 1.0
line._SELDOM_S = 0.5
keeper.PROVISIONAL_S = tickets.PROVISIONAL_S = 2.0
"""


#: Sessions that soon pass by who takes nothing.
IMPATIENT_IN_LINE = """
from airflow_jobdeploy.hostside import line
line._STALLED_S, line._SELDOM_S = 1.0, 0.5
"""

#: Sessions whose notices count for three seconds.
FORGETFUL = """
from airflow_jobdeploy.hostside import line
line._NOTICE_S, line._SELDOM_S = 3.0, 0.5
"""

#: Sessions that hardly ever look without any news: what they find soon all the same, they were told of.
PATIENT = """
from airflow_jobdeploy.hostside import line
line._SELDOM_S = 60.0
"""
_SOON_S = 30.0


class Host:
    """One host with GPUs, in a network of its own: sessions, tickets, jobs."""

    def __init__(self, connect: Callable[..., Serve], here: Network, root: Path, gpus: FakeGpus) -> None:
        self._connect, self.network, self._root, self.gpus = connect, here, root, gpus

    def serve(self, prelude: str = PATIENT, *, gpus: str = KNOWING + WAITING) -> Serve:
        """`gpus`: what is known of them, and when; by default all, before a ticket is answered."""
        env = {**os.environ, "PATH": f"{self.gpus.folder}:{os.environ['PATH']}"}
        return self._connect(env=env, wrap=self.network.enter, prelude=gpus + prelude)

    def ticket(self, count: int = 1, **options: Any) -> Ticket:
        demand = {"gpus": [{"count": count}], **options.pop("demand", {})}
        return Ticket(**{"uid": new_uid(), "demand": demand, **options})

    def plan(self, ticket: Ticket, lease: dict[str, Any] | None, text: str = "echo $$; exec sleep 600") -> Plan:
        held = lease_of(ticket, None)
        return shell(text, uid=ticket.uid, lease={**held, "id": lease["id"]} if lease else held)

    def pid(self, serve: Serve, job: str) -> int:
        return supervisor(HostPaths(str(self._root), serve.facts["machine"]), job)

    def await_free(self) -> None:
        eventually(lambda: not [name for name in self.network.names() if name.startswith("jobdeploy/gpu/")])


@pytest.fixture
def here() -> Iterator[Network]:
    with network() as made:
        yield made


@pytest.fixture
def host(connect: Callable[..., Serve], here: Network, root: Path, tmp_path: Path) -> Host:
    return Host(connect, here, root, FakeGpus(tmp_path / "tools", count=1))


@pytest.fixture
def stranger(here: Network) -> Iterator[Stranger]:
    made = Stranger(here.enter)
    yield made
    made.close()


def seek(serve: Serve, ticket: Ticket) -> dict[str, Any]:
    return serve.ask("seek", ticket=ticket.to_wire())


def lease(serve: Serve, ticket: Ticket) -> dict[str, Any]:
    answer = seek(serve, ticket)
    assert answer["lease"], answer
    return dict(answer["lease"])


def granted(serve: Serve, ticket: Ticket, timeout_s: float = 10.0) -> dict[str, Any]:
    """Wait until the session tells of a lease."""
    until = time.monotonic() + timeout_s
    while time.monotonic() < until:
        told = serve.place(until - time.monotonic())
        if told and told["uid"] == ticket.uid:
            assert told["lease"], told
            return dict(told["lease"])
    raise AssertionError(f"not granted in {timeout_s} s: {serve.ask('room')}")


# -- what is counted -------------------------------------------------------------------------------------------------


def test_cores_and_memory_are_summed_over_sessions(host: Host) -> None:
    serve, other = host.serve(), host.serve()
    room = serve.ask("room")["capacity"]
    most = {"cpu": room["cpu"], "memory": room["memory"] // 2}
    half = Ticket(uid=new_uid(), demand={"cpu": room["cpu"] / 2, "memory": room["memory"] // 4})
    assert lease(serve, half)
    answer = seek(other, Ticket(uid=new_uid(), demand=most))
    assert answer["lease"] is None
    assert "cores" in answer["why"]
    less = {"cpu": room["cpu"] / 2, "memory": room["memory"]}
    assert "GiB memory" in seek(other, Ticket(uid=new_uid(), demand=less))["why"]
    assert lease(other, Ticket(uid=new_uid(), demand={"cpu": room["cpu"] / 2}))


def test_what_others_have_got_while_we_waited_for_the_mutex_is_not_given_out_again(
    host: Host, here: Network, stranger: Stranger
) -> None:
    """Of GPUs the kernel keeps us from it; cores are mere numbers."""
    serve = host.serve()
    cores = serve.ask("room")["capacity"]["cpu"]
    seek(serve, Ticket(uid=new_uid(), demand={"cpu": 2 * cores}))  # all is loaded that a look needs
    decider = Stranger(here.enter)
    assert decider.hold("jobdeploy/mutex") == [True]

    def decides() -> None:
        time.sleep(0.2)  # its look is over by then, and it waits for the mutex
        held = dict.fromkeys(("job", "who", "deployment", "owner", "past"), "")
        amounts = {"cpu": cores, "memory": 0, "disk": 0, "since": 0}
        stranger.notice(notices.LEASE, notices.lease_values({**held, **amounts, "gpus": []}))
        decider.close()

    with ThreadPoolExecutor(1) as threads:
        told = threads.submit(decides)
        answer = seek(serve, Ticket(uid=new_uid(), demand={"cpu": cores}))
        told.result()
    assert answer["lease"] is None
    assert "0 of" in answer["why"]


def test_a_declared_capacity_narrows(host: Host, tmp_path: Path) -> None:
    host.gpus = FakeGpus(tmp_path / "more", count=3)
    serve = host.serve()
    found = lease(serve, host.ticket(within={"gpus": [2], "cpu": 1}))
    assert found["gpus"] == [host.gpus.uuids[2]]
    assert seek(serve, host.ticket(within={"gpus": [host.gpus.uuids[2]]}))["position"] == 1
    answer = seek(serve, Ticket(uid=new_uid(), demand={"cpu": 2}, within={"cpu": 1}))
    assert "more than is here" in answer["why"]


def test_split_gpus_are_shown_and_not_given_out(host: Host, tmp_path: Path) -> None:
    host.gpus = FakeGpus(tmp_path / "split", count=1, mig="Enabled")
    serve = host.serve()
    assert "has no GPU" in seek(serve, host.ticket())["why"]
    [gpu] = serve.ask("room")["capacity"]["gpus"]
    assert gpu["mig"] is True


def test_an_owner_is_bound_to_what_it_may_hold(host: Host, tmp_path: Path) -> None:
    host.gpus = FakeGpus(tmp_path / "more", count=3)
    serve = host.serve()
    assert lease(serve, host.ticket(owner="ann", max_gpus=1))
    answer = seek(serve, host.ticket(owner="ann", max_gpus=1))
    assert answer["why"] == "its owner ann holds 1 of the 1 GPUs that it may"
    assert lease(serve, host.ticket(owner="bob", max_gpus=1))


def test_a_crowd_costs_little_and_is_served_in_order(host: Host) -> None:
    serve = host.serve()
    first = lease(serve, host.ticket())
    tickets = [host.ticket(waited_s=float(1000 - n)) for n in range(300)]
    before = cpu_s(serve.process.pid)
    for ticket in tickets:
        seek(serve, ticket)
    assert cpu_s(serve.process.pid) - before < 6
    # Others are told of the first few only.
    asks = {name.split("/")[2] for name in host.network.names() if name.startswith("jobdeploy/ask/")}
    assert 1 <= len(asks) <= 16
    assert seek(host.serve(), host.ticket())["position"] > 10
    for ticket in tickets[:3]:
        serve.ask("release", lease=first["id"])
        first = granted(serve, ticket)


GREEDY = """python3 -c '
import sys
print("begun", flush=True)
held = bytearray(300 << 20)
held[::4096] = b"x" * len(held[::4096])
print("had it all")'
"""


@pytest.mark.usefixtures("memory_kills")
def test_what_is_held_is_enforced_where_that_is_possible(host: Host) -> None:
    serve = host.serve()
    enforced = serve.ask("room")["enforced"]
    assert serve.facts["extra"]["enforces"] == enforced
    ticket = Ticket(uid=new_uid(), demand={"cpu": 0.5, "memory": 100 << 20})
    job = serve.launch(host.plan(ticket, lease(serve, ticket), GREEDY + "exit $?"))
    state = serve.end(job)
    if "memory" not in enforced:  # counted only, and said so
        assert (state["status"], state["facts"].get("enforced")) == ("SUCCEEDED", None)
        return
    assert state["facts"]["enforced"] == enforced
    assert (state["status"], state["reason"]) == ("FAILED", "OutOfMemory")
    assert state["facts"]["memory_limit_bytes"] == 100 << 20
    assert b"had it all" not in serve.log(job)
    assert groups(job) == []


def test_the_groups_of_a_killed_supervisor_are_removed(host: Host) -> None:
    serve = host.serve()
    ticket = Ticket(uid=new_uid(), demand={"cpu": 0.5, "memory": 100 << 20})
    job = serve.launch(host.plan(ticket, lease(serve, ticket)))
    serve.until(job, running)
    assert bool(groups(job)) == bool(serve.ask("room")["enforced"])
    os.kill(host.pid(serve, job), signal.SIGKILL)
    assert serve.end(job)["reason"] == "ProcessLost"
    assert groups(job) == []


def groups(job: str) -> list[str]:
    """Control groups of a job."""
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if folder.endswith(job)]


def test_with_cgroups_v2_the_nearest_group_that_hands_on_is_used(tmp_path: Path) -> None:
    """In a tree of files: the kernel here may have version 1 only."""
    own, mount = tmp_path / "own", tmp_path / "cgroup"
    own.write_text("0::/user.slice/user-7.slice/session-3.scope\n")
    (mount / "user.slice/user-7.slice/session-3.scope").mkdir(parents=True)
    assert cage.possible(str(mount), str(own)) == []
    (mount / "user.slice/cgroup.subtree_control").write_text("cpu memory pids")
    (mount / "user.slice/user-7.slice/cgroup.subtree_control").write_text("memory pids")
    for group in ("user.slice", "user.slice/user-7.slice"):
        (mount / group / "cgroup.procs").touch()
    assert cage.possible(str(mount), str(own)) == ["memory"]  # a process is in one group only
    (mount / "user.slice/user-7.slice/cgroup.subtree_control").write_text("cpu memory pids")
    assert cage.possible(str(mount), str(own)) == ["cpu", "memory"]
    made = cage.Cage("jx", {"cpu": 2.5, "memory": 1 << 30, "gpus": []}, str(mount), str(own))
    made.make()
    made_group = mount / "user.slice/user-7.slice/jobdeploy-jx"
    assert made.doors() == [str(made_group / "cgroup.procs")]
    assert [(made_group / name).read_text() for name in ("memory.max", "cpu.max")] == [str(1 << 30), "250000 100000"]


@pytest.mark.parametrize(
    "folders", [["/etc/jobdeploy-jx"], ["/sys/fs/cgroup/../../etc/jobdeploy-jx"], "x", [3], ["/sys/fs/cgroup/memory"]]
)
def test_only_groups_of_the_job_are_removed(folders: Any) -> None:
    assert not cage.are_groups(folders, "jx")
    assert cage.are_groups(["/sys/fs/cgroup/memory/user/jobdeploy-jx"], "jx")


# -- every party killed ----------------------------------------------------------------------------------------------


def test_a_session_killed_after_the_grant_leaves_the_lease_to_the_job(host: Host) -> None:
    serve, ticket = host.serve(), host.ticket()
    held = lease(serve, ticket)
    serve.process.kill()
    other = host.serve()
    assert seek(other, host.ticket())["lease"] is None
    job = other.launch(host.plan(ticket, held))
    state = other.until(job, running)
    assert state["facts"]["gpus"] == held["gpus"]


def test_a_tied_lease_ends_with_its_session(host: Host) -> None:
    serve, other, mine = host.serve(), host.serve(), host.ticket()
    lease(serve, host.ticket(tied=True))
    assert seek(other, mine)["lease"] is None
    serve.process.kill()
    granted(other, mine, _SOON_S)


def test_a_tied_lease_is_left_to_the_job_once_that_is_claimed(host: Host) -> None:
    serve, ticket = host.serve(), host.ticket(tied=True)
    held = lease(serve, ticket)
    plan = host.plan(ticket, held)
    serve.claim(plan)
    serve.process.kill()
    serve.process.wait()
    other = host.serve()
    assert seek(other, host.ticket())["lease"] is None
    state = other.until(other.launch(plan), running)
    assert state["facts"]["gpus"] == held["gpus"]


@pytest.mark.parametrize("order", ["stop", "preempt"])
def test_a_job_that_is_ended_before_its_start_gives_its_lease_back(host: Host, order: str) -> None:
    serve, ticket = host.serve(), host.ticket(tied=True)
    plan = host.plan(ticket, lease(serve, ticket))
    serve.claim(plan)
    serve.ask(order, job=plan.job_id, reason="a test", by="pytest", grace_s=None)
    assert lease(host.serve(), host.ticket())


def test_a_session_killed_while_it_waits_is_out_of_the_line(host: Host) -> None:
    serve, other, third = host.serve(), host.serve(), host.serve()
    held = lease(serve, host.ticket())
    seek(other, host.ticket(priority="high", reserves=True))
    mine = host.ticket()
    assert seek(third, mine)["position"] == 2
    other.process.kill()
    other.process.wait()
    serve.ask("release", lease=held["id"])
    granted(third, mine, _SOON_S)


def the_keeper(host: Host) -> int:
    """The one that there is; it needs a moment to become one."""
    eventually(lambda: len(keepers(host)) == 1)
    return keepers(host)[0]


def keepers(host: Host) -> list[int]:
    """Processes that have the network of the host, and a door in it."""
    inside = os.readlink(host.network.enter[1].removeprefix("--net="))
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(path / "ns/net") == inside and os.readlink(path / "fd/0") == "/dev/null":
                command = (path / "cmdline").read_bytes()
                parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
                if b"runner" in command and b"supervise" not in command and parent == 1:
                    found.append(int(path.name))
        except OSError:
            continue
    return found


def test_a_killed_keeper_frees_what_it_kept_and_its_job_waits_in_line(host: Host) -> None:
    serve, ticket, next_one = host.serve(), host.ticket(), host.ticket()
    held = lease(serve, ticket)
    assert seek(serve, next_one)["position"] == 1
    pid = the_keeper(host)
    os.kill(pid, signal.SIGKILL)
    taken = granted(serve, next_one, _SOON_S)
    job = serve.launch(host.plan(ticket, held))
    serve.until(job, lambda state: state["reason"] == "Queued" and state["facts"]["line"]["position"] == 1)
    serve.ask("release", lease=taken["id"])
    assert serve.until(job, running)["facts"]["gpus"] == taken["gpus"]


def test_a_killed_supervisor_frees_what_its_job_held(host: Host) -> None:
    serve, ticket, next_one = host.serve(), host.ticket(), host.ticket()
    job = serve.launch(host.plan(ticket, lease(serve, ticket)))
    serve.until(job, running)
    assert seek(serve, next_one)["lease"] is None
    os.kill(host.pid(serve, job), signal.SIGKILL)
    granted(serve, next_one, _SOON_S)
    assert serve.end(job)["reason"] == "ProcessLost"


def test_what_a_killed_supervisor_left_is_gone_before_the_next_gets_the_gpu(host: Host) -> None:
    serve, ticket, next_one = host.serve(), host.ticket(), host.ticket()
    left = "setsid sh -c 'echo $$; trap : TERM; while :; do sleep 600; done' & exec sleep 600"
    job = serve.launch(host.plan(ticket, lease(serve, ticket), left))
    serve.until(job, running)
    pid = int(serve.log(job))
    seek(serve, next_one)
    os.kill(host.pid(serve, job), signal.SIGKILL)
    granted(serve, next_one, _SOON_S)
    assert not is_alive(pid)


@pytest.mark.parametrize("party", ["keeper", "supervisor"])
def test_killed_at_any_instant_of_the_takeover_nothing_is_lost_or_held(host: Host, party: str) -> None:
    serve = host.serve()
    for pause_ms in (0, 5, 15, 30, 60):
        ticket = host.ticket()
        job = host.plan(ticket, lease(serve, ticket), "echo; exec sleep 600")
        kept = the_keeper(host)
        serve.claim(job)
        serve.ask("start", job=job.job_id)
        time.sleep(pause_ms / 1000)
        victim = kept if party == "keeper" else host.pid(serve, job.job_id)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            assert party == "keeper"  # it has handed over by then
        if party == "keeper":  # with it or without, the job gets its GPU: nobody else wants it
            assert serve.until(job.job_id, running)["facts"]["gpus"] == host.gpus.uuids
            serve.stop(job.job_id, grace_s=0.1)
        serve.end(job.job_id)
        for other in keepers(host):  # a supervisor killed before it took leaves the lease to its keeper
            assert party == "supervisor"
            subprocess.run(
                ["kill", "-9", str(other)], check=False, stderr=subprocess.DEVNULL
            )  # unless it has just ended
        host.await_free()


def test_a_waiting_supervisor_killed_is_out_of_the_line(host: Host) -> None:
    serve = host.serve()
    held = lease(serve, host.ticket())
    waiting, after = host.ticket(waited_s=100.0), host.ticket()
    job = serve.launch(host.plan(waiting, None))
    serve.until(job, lambda state: state["reason"] == "Queued")
    assert seek(serve, after)["position"] == 2
    os.kill(host.pid(serve, job), signal.SIGKILL)
    serve.ask("release", lease=held["id"])
    granted(serve, after, _SOON_S)


def test_what_no_job_claims_is_void_in_the_end(host: Host) -> None:
    serve, other, ticket = host.serve(IMPATIENT), host.serve(), host.ticket()
    begun = time.monotonic()
    held = lease(serve, host.ticket())
    assert held["void_after_s"] <= 2.0
    seek(other, ticket)
    granted(other, ticket, 15.0)
    assert time.monotonic() - begun > 1.9


def test_who_waits_for_longer_than_a_notice_counts_is_still_seen_ahead(host: Host) -> None:
    first, second = host.serve(FORGETFUL), host.serve()
    lease(host.serve(), host.ticket())
    waits = host.ticket(waited_s=100.0)
    until = time.monotonic() + 5.0
    while time.monotonic() < until:
        assert seek(first, waits)["position"] == 1
        first.place(0.3)
    assert seek(second, host.ticket())["position"] == 2


def test_a_frozen_session_ahead_is_passed_by(host: Host) -> None:
    serve, frozen, other = host.serve(), host.serve(), host.serve(IMPATIENT_IN_LINE)
    held = lease(serve, host.ticket())
    seek(frozen, host.ticket(priority="high"))
    mine = host.ticket()
    assert seek(other, mine)["position"] == 2
    frozen.process.send_signal(signal.SIGSTOP)
    try:
        serve.ask("release", lease=held["id"])
        granted(other, mine, 15.0)
    finally:
        frozen.process.send_signal(signal.SIGCONT)


# -- other accounts --------------------------------------------------------------------------------------------------


def test_a_gpu_that_another_account_holds_is_waited_for_and_shown(host: Host, stranger: Stranger) -> None:
    [uuid] = host.gpus.uuids
    assert stranger.hold(f"jobdeploy/gpu/{uuid}") == [True]
    serve, ticket = host.serve(), host.ticket()
    assert "0 of 1 free" in seek(serve, ticket)["why"]
    [held] = serve.ask("room")["leases"]
    assert (held["gpus"], held["user"], held["job"]) == ([uuid], f"user {UID}", "")
    stranger.close()
    granted(serve, ticket, _SOON_S)


def test_what_we_hold_another_account_cannot_take(host: Host, stranger: Stranger) -> None:
    held = lease(host.serve(), host.ticket())
    names = [name for name in host.network.names() if not name.startswith("jobdeploy/ask/")]
    assert stranger.hold(*names) == [False] * len(names)
    assert any(held["gpus"][0] in name for name in names)


def test_names_that_lie_change_nothing(host: Host, stranger: Stranger) -> None:
    """Lines that are none, tickets that are none, leases of what nobody holds."""
    [uuid] = host.gpus.uuids
    fake = "x\n0000000000000000: 00000002 00000000 00010000 0001 01 99999 @jobdeploy/gpu/" + uuid
    fake_lease = f"x\n0: 00000002 00000000 00010000 0001 01 9 @jobdeploy/use/aaaaaaaa/01/[{uuid[:8]}"
    assert stranger.hold(fake[:107], fake_lease[:107])
    model, now = host.gpus.model, time.clock_gettime(time.CLOCK_BOOTTIME)
    good = ["evil", "", "", 0, 0, now + 50, 1, 0, 0, 0, None, [[model, 1, 0, None]], 0]
    for at, value in [
        *((3, 3), (3, -1), (3, "high"), (4, None), (5, now + 1e6), (5, now - 1), (5, "x")),
        *((7, -5), (7, 1e300), (8, "1"), (11, [[model, 99, 0, None]]), (11, [[model]]), (11, "x"), (12, 7)),
    ]:
        stranger.notice(b"ask", [*good[:at], value, *good[at + 1 :]])
    stranger.notice(b"use", ["j", "w", "d", "o", "much", 0, 0, 0, "", []])
    stranger.notice(b"use", ["", "", "", "", -4, -1, 0, now, "", ["abcdef", uuid]])
    deep = "[" * 80
    assert all(stranger.hold("jobdeploy/ask/", "jobdeploy/ask/t/01/{", f"jobdeploy/ask/t/01/{deep}", "jobdeploy/use"))
    assert all(stranger.hold("jobdeploy/ask/part/12/x", "jobdeploy/ask/part/zz/x", b"jobdeploy/use/\xff\xfe/01/\xff"))
    assert lease(host.serve(), host.ticket())["gpus"] == [uuid]


def test_what_another_account_says_that_our_job_was_granted_was_not(host: Host, stranger: Stranger) -> None:
    """Who waits would stop to do so."""
    serve, ticket, false = host.serve(), host.ticket(), "f" * 32
    notice = [hashed("who", ticket.uid), "", "", 0, 0, 0, int(time.clock_gettime(time.CLOCK_BOOTTIME)), "", []]
    assert stranger.hold(f"jobdeploy/lease/{false}") == [True]
    stranger.notice(b"use", ["", *notice], tag=census.tag_of(false))
    held = lease(serve, ticket)
    assert (held["id"] != false, held["gpus"]) == (True, host.gpus.uuids)


def test_who_says_that_he_holds_our_gpu_holds_it_no_more_than_before(host: Host, stranger: Stranger) -> None:
    serve, ticket = host.serve(), host.ticket()
    serve.until(serve.launch(host.plan(ticket, lease(serve, ticket))), running)
    told = notices.gpu_hash(host.gpus.uuids[0])
    stranger.notice(b"use", ["evil", "evil", "", "", 0, 0, 0, 0, "", [told]])
    leases = serve.ask("room")["leases"]
    assert {each["user"]: each["gpus"] for each in leases} == {"root": host.gpus.uuids, f"user {UID}": []}


def test_a_false_ticket_gets_no_further_than_a_true_one(host: Host, stranger: Stranger) -> None:
    """It may be first, as a true one may; it is passed by when it takes nothing, and cannot speak for another job."""
    serve, ticket = host.serve(IMPATIENT_IN_LINE), host.ticket()
    stranger.ticket(host.gpus.model)
    begun = time.monotonic()
    answer = seek(serve, ticket)
    assert (answer["lease"], answer["position"]) == (None, 1)
    granted(serve, ticket, 15.0)
    assert time.monotonic() - begun > 0.8


def test_a_ticket_in_our_name_by_another_account_is_not_ours(host: Host, stranger: Stranger) -> None:
    serve, ticket = host.serve(), host.ticket()
    held, now = lease(serve, host.ticket()), time.clock_gettime(time.CLOCK_BOOTTIME)
    who = hashed("who", ticket.uid)
    stranger.notice(b"ask", [who, "", "", 0, 0, now + 60, 1, 0, 0, 0, None, [["", 9, 0, None]], 0])
    stranger.notice(b"use", ["", who, "", "", 0, 0, 0, now, "", []])
    answer = seek(serve, ticket)
    assert answer["position"] == 1, answer  # neither turned out of the line, nor taken for granted
    serve.ask("release", lease=held["id"])
    granted(serve, ticket, _SOON_S)


def test_who_does_not_let_go_of_the_line_is_named(host: Host, stranger: Stranger) -> None:
    assert stranger.hold("jobdeploy/mutex") == [True]
    serve, ticket = host.serve(), host.ticket()
    answer = seek(serve, ticket)
    assert answer["lease"] is None
    assert answer["why"] == f"process {stranger.process.pid} of user {UID} does not let go of this host's line"
    stranger.close()
    granted(serve, ticket, _SOON_S)


def test_nobody_else_can_sit_where_a_keeper_sat(host: Host, here: Network) -> None:
    serve, ticket = host.serve(), host.ticket()
    held = lease(serve, ticket)
    pid = the_keeper(host)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    host.await_free()
    told = {"who": hashed("who", ticket.uid), "cpu": 0, "memory": 0, "disk": 0, "since": 0, "past": "", "job": ""}
    false = json.dumps({"lease": {**told, "id": held["id"], "deployment": "", "owner": "", "gpus": []}})
    with impostor(here.enter, f"jobdeploy/lease/{held['id']}", false):
        job = serve.launch(host.plan(ticket, held))  # claims nothing there: waits in line, and is granted the free GPU
        assert serve.until(job, running)["facts"]["gpus"] == held["gpus"]


@pytest.mark.parametrize("order", ["release", "take", "stay"])
def test_a_keeper_obeys_no_other_account(host: Host, here: Network, order: str) -> None:
    """Its name and the job's hash are for all to see."""
    serve, ticket = host.serve(), host.ticket()
    held = lease(serve, ticket)
    text = json.dumps({"do": order, "who": hashed("who", ticket.uid)})
    assert knock(here.enter, f"jobdeploy/lease/{held['id']}", text) == b""
    assert [each["gpus"] for each in serve.ask("room")["leases"]] == [held["gpus"]]
    job = serve.launch(host.plan(ticket, held))
    assert serve.until(job, running)["facts"]["gpus"] == held["gpus"]
    assert "Queued" not in [entry["reason"] for entry in serve.state(job)["history"]], "it had its lease"


def test_a_crowd_of_lookers_does_not_lock_others_out(host: Host, here: Network) -> None:
    """A job's supervisor lets go of those that have looked at its claims and left."""
    serve, ticket = host.serve(), host.ticket()
    job = serve.launch(host.plan(ticket, lease(serve, ticket)))
    serve.until(job, running)
    look = "import socket\nfor _ in range(6000):\n s = socket.socket(socket.AF_UNIX); s.setblocking(False)\n"
    look += f" try: s.connect('\\0jobdeploy/gpu/{host.gpus.uuids[0]}')\n except BlockingIOError: pass"
    subprocess.run([*here.enter, "python3", "-S", "-c", look], check=True)
    other = host.serve()

    def is_seen() -> bool:
        return [held["gpus"] for held in other.ask("room")["leases"]] == [host.gpus.uuids]

    eventually(is_seen)
    assert other.ask("room")["leases"][0]["user"] == "root"


# -- GPUs that cannot be looked at, and those that others use ----------------------------------------------------------


def test_while_the_driver_hangs_nothing_is_given_out(host: Host) -> None:
    host.gpus.hang()
    serve, ticket = host.serve(IMPATIENT, gpus=""), host.ticket()
    begun = time.monotonic()
    answer = seek(serve, ticket)
    assert answer["lease"] is None
    assert "nvidia-smi has run for" in answer["why"]
    assert time.monotonic() - begun < 12, "it is not waited for until it counts as hung"
    assert lease(serve, Ticket(uid=new_uid(), demand={"cpu": 0.5}))  # cores are not the driver's
    assert any("nvidia-smi" in text for text in serve.ask("room")["warnings"])


def test_what_is_free_and_only_looked_at_once_more_comes_soon(host: Host) -> None:
    serve, other, ticket, mine = host.serve(gpus=KNOWING), host.serve(gpus=KNOWING), host.ticket(), host.ticket()
    job = serve.launch(host.plan(ticket, lease(serve, ticket)))
    serve.until(job, running)
    assert seek(other, mine)["soon"] is False
    host.gpus.hang()
    serve.stop(job)
    eventually(lambda: seek(other, mine)["soon"])
    host.gpus.recover()  # for the next look
    assert seek(serve, host.ticket())["soon"] is False, "it is the turn of the other"


def test_a_driver_that_fails_is_said_and_tried_again(host: Host) -> None:
    host.gpus.fail("Unable to determine the device handle for GPU 0000:3B:00.0: GPU is lost.")
    serve, ticket = host.serve(IMPATIENT), host.ticket()
    assert "GPU is lost" in seek(serve, ticket)["why"]
    host.gpus.fail("")
    granted(serve, ticket, 10.0)


def test_a_gpu_that_an_outsider_uses_is_not_given_out_and_is_shown(host: Host) -> None:
    outsider = subprocess.Popen(["sleep", "600"])
    try:
        host.gpus.use((0, outsider.pid), memory=4096)
        serve, ticket = host.serve(IMPATIENT), host.ticket()
        assert "processes without a lease use GPU 0" in seek(serve, ticket)["why"]
        room = serve.ask("room")
        [seen] = room["outsiders"]
        assert (seen["pid"], seen["user"], seen["memory_bytes"]) == (outsider.pid, "root", 4096 << 20)
        assert (seen["gpu"], seen["job"]) == (host.gpus.uuids[0], "")
        assert room["capacity"]["gpus"][0]["outsiders"][0]["pid"] == outsider.pid
    finally:
        outsider.kill()
        outsider.wait()
    granted(serve, ticket, 20.0)  # though nvidia-smi still lists it


def test_a_job_that_uses_a_gpu_which_it_does_not_hold_is_flagged(host: Host, tmp_path: Path) -> None:
    host.gpus = FakeGpus(tmp_path / "more", count=2)
    serve, ticket = host.serve(IMPATIENT), host.ticket()
    held = lease(serve, ticket)
    job = serve.launch(host.plan(ticket, held, "env -i /bin/sleep 600 & echo $$ $!; exec sleep 600"))
    serve.until(job, running)
    pid, bare = map(int, serve.log(job).split())
    mine = host.gpus.uuids.index(held["gpus"][0])
    host.gpus.use((mine, pid), (mine, bare))
    asked = host.gpus.times_asked
    eventually(lambda: serve.ask("room") and host.gpus.times_asked > asked + 1)
    assert serve.ask("room")["outsiders"] == [], "what has wiped its environment is the job's as well"
    assert "foreign_gpus" not in serve.state(job)["facts"]
    wiped = subprocess.Popen(["sleep", "600"], env={})  # of ours, and no job's
    host.gpus.use((mine, wiped.pid))
    eventually(lambda: [each["pid"] for each in serve.ask("room")["outsiders"]] == [wiped.pid])
    wiped.kill()
    wiped.wait()
    host.gpus.use((mine, pid), (1 - mine, pid))

    def is_seen() -> bool:
        return [each["job"] for each in serve.ask("room")["outsiders"]] == [job]

    eventually(is_seen)
    assert serve.state(job)["facts"]["foreign_gpus"] == [host.gpus.uuids[1 - mine]]
    assert seek(serve, host.ticket())["lease"] is None  # and nobody else gets it meanwhile
    serve.stop(job)
    assert serve.end(job)["facts"]["foreign_gpus"] == [host.gpus.uuids[1 - mine]]


def test_slots_still_bound_jobs_that_hold_leases(host: Host) -> None:
    serve = host.serve()
    tickets = [Ticket(uid=new_uid(), demand={"cpu": 0.1}) for _ in range(2)]
    held = [lease_of(ticket, None) | {"id": lease(serve, ticket)["id"]} for ticket in tickets]
    step = shell("echo; exec sleep 600").steps
    first, second = (plan(step, uid=t.uid, lease=h, slots=1) for t, h in zip(tickets, held, strict=True))
    serve.until(serve.launch(first), running)
    waiting = serve.launch(second)
    assert serve.until(waiting, lambda state: state["reason"] == "Queued")["status"] == "PENDING"
    serve.stop(first.job_id, grace_s=0.1)
    serve.until(waiting, running)


def test_a_ticket_that_asks_for_too_much_text_is_refused(host: Host) -> None:
    wishes = [{"type": "x" * 90, "count": 1} for _ in range(60)]
    with pytest.raises(Refused, match="more than can be told"):
        seek(host.serve(), Ticket(uid=new_uid(), demand={"gpus": wishes}))


def test_two_minutes_are_what_both_sides_say() -> None:
    from airflow_jobdeploy.core import leases

    assert keeper.PROVISIONAL_S == leases.PROVISIONAL_S
