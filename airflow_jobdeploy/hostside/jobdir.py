"""One attempt's directory: made by a claim, read by everybody, written by whoever holds its lock.

    claimed    plan.json, state.json (phase "claimed"), reserves; any submitter may start it
    started    state.json names a supervisor; only that one, or who finds it dead under the lock, writes
    ended      exit.json; never changes again

Stamps are [seconds on CLOCK_BOOTTIME, seconds of the wall clock, boot]: durations come from the first as long as the
boot is the same, so that a clock that jumps changes nothing.
"""

from __future__ import annotations

import os
import time
from typing import Any, Dict, List, Optional

from airflow_jobdeploy.hostside import files, identity, kernel, layout
from airflow_jobdeploy.hostside.files import Damaged
from airflow_jobdeploy.hostside.layout import HostPaths, JobPaths
from airflow_jobdeploy.hostside.protocol import OpError

#: Keys of an outcome, as `verdict.judge` makes it and exit.json keeps it.
OUTCOME = ("status", "reason", "message", "exit_code", "signal", "step", "facts", "running_s", "usage")


class NewerLayout(Exception):
    """The directory was made by a newer release: it is reported, never touched."""


def stamp() -> List[Any]:
    return [kernel.boottime_s(), time.time(), identity.boot()]


def age_s(then: List[Any], now: Optional[List[Any]] = None) -> float:
    """Seconds between two stamps, never negative."""
    now = now or stamp()
    clock = 0 if then[2] == now[2] else 1
    return max(0.0, now[clock] - then[clock])


class Job:
    """A claimed attempt on this host. Reads raise Damaged or NewerLayout; nothing is cached but the plan."""

    def __init__(self, host: HostPaths, job: str) -> None:
        self.host = host
        self.id = job
        self.paths: JobPaths = host.job(job)
        self._plan: Optional[dict] = None

    @property
    def exists(self) -> bool:
        return os.path.isdir(self.paths.dir)

    def plan(self) -> dict:
        if self._plan is None:
            plan = files.read_json(self.paths.plan)
            if plan is None:
                raise Damaged("%s is missing" % self.paths.plan)
            check_layout(plan, self.paths.dir)
            self._plan = plan
        return self._plan

    def state(self) -> dict:
        state = files.read_json(self.paths.state)
        if state is None:
            raise Damaged("%s is missing" % self.paths.state)
        check_layout(state, self.paths.dir)
        return state

    def exit(self) -> Optional[dict]:
        record = files.read_json(self.paths.exit)
        if record is not None:
            check_layout(record, self.paths.dir)
            if "status" not in record:
                raise Damaged("%s is damaged: it names no status" % self.paths.exit)
        return record

    @property
    def has_ended(self) -> bool:
        return os.path.exists(self.paths.exit)

    def lock(self) -> files.Lock:
        return files.Lock(self.paths.lock)

    def write_state(self, state: dict) -> None:
        files.write_swapped(self.paths.state, self.paths.state_reserve, state)

    def temporary(self) -> str:
        """TMPDIR of the job: all builds of one resource share theirs."""
        return self.host.temporary(os.geteuid(), self.plan().get("resource_id") or self.id)

    def write_exit(self, record: dict) -> None:
        files.write_reserved(self.paths.exit, self.paths.exit_reserve, {"layout": layout.LAYOUT, **record})
        for path in (self.paths.state_reserve, self.paths.state + ".spare", self.paths.takedown):
            files.forget_file(path)


def known(host: HostPaths, name: object) -> Job:
    """A job that is here. OpError; ValueError for what is no name."""
    job = Job(host, layout.checked_name(name))
    if not job.exists:
        raise OpError("no-such-job", "this worker knows no job %s (looked in %s)" % (job.id, host.jobs))
    return job


def check_layout(record: dict, where: str) -> None:
    found = record.get("layout", layout.LAYOUT)
    if not isinstance(found, int) or found > layout.LAYOUT:
        raise NewerLayout(
            "%s has layout %s, this release knows up to %d: ask with the newer release that made it"
            % (where, found, layout.LAYOUT)
        )


def enter(state: dict, phase: str, status: str, reason: str) -> None:
    """Note a change of phase in `state`; the history grows when status or reason change."""
    state["phase"] = phase
    history = state.setdefault("history", [])
    if not history or history[-1][:2] != [status, reason]:
        history.append([status, reason, stamp()])
    state["status"], state["reason"] = status, reason


def build(host: HostPaths, plan: dict, secrets: Dict[str, str]) -> str:
    """A job directory in incoming/, complete but for its name. OSError when the disk is full or read-only."""
    directory = os.path.join(files.private_dir(host.incoming), os.urandom(16).hex())
    paths = JobPaths(directory)
    os.mkdir(directory, 0o700)
    try:
        for folder in (paths.output, paths.scripts):
            os.mkdir(folder, 0o700)
        files.write_json(paths.plan, plan, sync=True)
        if secrets:
            files.write_json(paths.secrets, secrets)
        state: Dict[str, Any] = {"layout": layout.LAYOUT, "claimed": stamp(), "machine": host.machine}
        enter(state, "claimed", "PENDING", "Staging")
        files.reserve(paths.exit_reserve, files.EXIT_RESERVE, sync=True)
        files.reserve(paths.state_reserve, files.STATE_RESERVE)
        files.reserve(paths.state, files.STATE_RESERVE)
        files.write_swapped(paths.state, paths.state_reserve, state)
        for path in (paths.lock, paths.log):
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError:
        files.remove_tree(directory)
        raise
    return directory


def publish(host: HostPaths, job: str, directory: str) -> bool:
    """Give a built directory its name: the claim. False: somebody else has claimed it first."""
    files.private_dir(host.jobs)
    try:
        os.rename(directory, host.job(job).dir)
    except OSError:
        files.remove_tree(directory)
        if not os.path.isdir(host.job(job).dir):
            raise
        return False
    return True


def retire(host: HostPaths, path: str) -> None:
    """Take a directory out of sight at once, then remove it."""
    trash = os.path.join(files.private_dir(host.trash), os.urandom(16).hex())
    try:
        os.rename(path, trash)
    except FileNotFoundError:
        return
    files.remove_tree(trash)


def replace(host: HostPaths, fresh: str, target: str) -> None:
    """Give a whole tree its name; of two at once the last stays, whole."""
    files.private_dir(os.path.dirname(target))
    for _ in range(10):
        retire(host, target)
        try:
            os.rename(fresh, target)
        except OSError:
            if not os.path.isdir(target):
                raise
            continue
        return
