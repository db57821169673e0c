"""All processes of a job, and their end: signal, grace, KILL, until none is left, verified.

Members are what descends from the supervisor (a subreaper: orphans come back to it) and whoever carries the job's id in
its environment. Not covered, documented: `env -i` after the supervisor's death, setuid programs, systemd-run, at.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Callable, Dict, List, Optional, Set, Tuple

from airflow_jobdeploy.hostside import process
from airflow_jobdeploy.hostside.process import Process

JOB_ID = "JOBDEPLOY_JOB_ID"


class Tree:
    """The processes of one job. `root`: pid of its supervisor (ourselves), None when that one is dead."""

    def __init__(self, job: str, root: Optional[int]) -> None:
        self.job = job
        self.root = root
        #: Process groups of the commands we started: all there is where /proc is missing.
        self.groups: Set[int] = set()
        #: What we sent SIGKILL, by pid and start time.
        self.killed: Set[Tuple[int, int]] = set()
        #: Processes of other users (setuid programs): named, never waited for.
        self.beyond: Dict[int, str] = {}

    def members(self, thorough: bool = True) -> List[Process]:
        """Who is alive now. `thorough`: also search all environments of the host, for those that left the tree."""
        below = process.descendants(self.root) if self.root else []
        if thorough:
            known = {member.pid for member in below}
            strays = process.with_descendants(process.carriers(JOB_ID, self.job))
            below += [stray for stray in strays if stray.pid not in known]
        mine = os.getpid()
        return [member for member in below if member.pid != mine and member.pid not in self.beyond]

    def send(self, number: int, members: List[Process]) -> None:
        """Signal these; those of other users are set aside."""
        for member in members:
            current = process.look(member.pid)
            if current is None or current.start != member.start:
                continue
            try:
                os.kill(member.pid, number)
                if number == signal.SIGKILL:
                    self.killed.add((member.pid, member.start))
            except ProcessLookupError:
                pass
            except PermissionError:
                self.beyond[member.pid] = "%d %s" % (member.pid, member.comm)
        if not process.HAS_PROC:
            self._send_groups(number)

    def _send_groups(self, number: int) -> None:
        for group in sorted(self.groups):
            try:
                os.killpg(group, number)
            except OSError:
                self.groups.discard(group)

    def end(self, number: int, left_s: Callable[[], float], wait: Callable[[float], None]) -> None:
        """Signal, give `left_s()` seconds (asked again and again: an order may shorten it), kill until none is left."""
        members = self.members()
        self.send(number, members)
        self.send(signal.SIGCONT, members)  # what is stopped (Ctrl-Z, SIGSTOP) cannot handle the signal before
        while left_s() > 0 and (self.members() or (self.groups and not process.HAS_PROC)):
            wait(min(0.25, left_s()))
            self._forget_ended_groups()
        self.kill(wait)

    def _forget_ended_groups(self) -> None:
        if not process.HAS_PROC:
            self._send_groups(0)

    def kill(self, wait: Callable[[float], None] = time.sleep) -> int:
        """SIGKILL until no process of the job is left, also while it forks; how many were killed.

        `wait`: strays are not our children, so nothing tells of their end but another look.
        """
        pause_s = 0.005
        while True:
            members = self.members()
            if not members:
                if self.groups and not process.HAS_PROC:
                    self._send_groups(signal.SIGKILL)
                return len(self.killed)
            self.send(signal.SIGKILL, members)
            wait(pause_s)
            pause_s = min(0.5, pause_s * 1.5)
