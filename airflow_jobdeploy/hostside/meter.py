"""What is measured while a job runs: the memory of its tree, the kernel's kills, the length of its log."""

from __future__ import annotations

from typing import Any, Dict, Optional

from airflow_jobdeploy.hostside import evidence, house, kernel, logs, process
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.tree import Tree

#: Between two looks, in seconds.
TICK_S = 0.5


class Meter:
    """Looks at one job now and then. `facts` are what a person should know of the measuring itself."""

    def __init__(self, job: Job, limits: Dict[str, Any], tree: Tree) -> None:
        self.facts: Dict[str, Any] = {}
        self._job = job
        self._limits = limits
        self._tree = tree
        self._before: Optional[evidence.Reading] = None
        self._peak_bytes = 0
        #: What helpers of ours held before the command: that is not the job's.
        self._helpers_bytes = 0
        self._looked = 0.0

    def begin(self) -> None:
        """The first command is about to start."""
        self._before = evidence.memory_reading()
        self._helpers_bytes = house.largest_child_bytes()

    def look(self) -> None:
        """At most every TICK_S: how much memory the tree holds, and the cap of the log."""
        now = kernel.boottime_s()
        if now - self._looked < TICK_S:
            return
        self._looked = now
        if self._before is not None:
            # What each has held at most since it began: long jobs are looked at seldom.
            held = sum(process.most_bytes(member) for member in self._tree.members(thorough=False))
            self._peak_bytes = max(self._peak_bytes, held)
        self.cap_log()

    def cap_log(self) -> None:
        """Drop the head of a log that is longer than its limit."""
        limit = self._limits.get("log_limit_bytes")
        if not limit or self.facts.get("log_cap_error"):
            return
        try:
            if not logs.cap(self._job.paths, int(limit)):
                self.facts["log_cap_error"] = "this filesystem cannot drop the head of a file: the log is kept whole"
        except OSError:  # a full disk: log_cap.json first, then the hole; tried again at the next look
            pass

    def used_bytes(self) -> int:
        """The most memory that was seen in use; 0 when no command was started."""
        if self._before is None:
            return 0
        largest = house.largest_child_bytes()  # of all that have ended so far
        return max(self._peak_bytes, largest if largest > self._helpers_bytes else 0)

    def shortage(self, used: int) -> Optional[Dict[str, Any]]:
        """Facts about the memory, when the kernel has killed for want of it since the start."""
        if self._before is None or not evidence.was_oom(self._before, evidence.memory_reading()):
            return None
        limit, peak = evidence.memory_limit()
        return {"memory_used_bytes": max(used, peak), "memory_limit_bytes": limit}
