"""What this host has for jobs, live: cores, memory, free disk, GPUs and who uses those without a lease."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from airflow_jobdeploy.hostside import cordon, evidence, facts, gpus, process
from airflow_jobdeploy.hostside.gpus import FRESH_S, Gpus
from airflow_jobdeploy.hostside.smi import Seen
from airflow_jobdeploy.hostside.tree import JOB_ID

#: Any age will do: for a first guess, before something is given out.
ANY_S = 1e12


class Capacity:
    """For one process of ours. `root`: whose filesystem counts as the host's disk; `cordon_path`: see cordon.py."""

    def __init__(self, root: str, seen: Gpus, cordon_path: str = "") -> None:
        self._root = root
        self._cordon = cordon_path
        self._gpus = seen
        #: Why the GPUs are not known, when they are not.
        self.trouble = ""

    def now(self, wait_s: float = 0.0, fresh_s: float = ANY_S) -> Dict[str, Any]:
        """As fitting.py has it. GPUs that cannot be looked at are not there (`trouble`)."""
        seen, self.trouble = self._gpus.look(wait_s, fresh_s)
        return {
            "cpu": facts.cpus(),
            "memory": evidence.memory_limit()[0],
            "disk": evidence.free_bytes(self._root) or 0,
            "gpus": [dict(gpu) for gpu in seen.gpus] if seen else [],
            "driver": seen.driver if seen else "",
            "users": _living(seen),
            "cordoned": cordon.told(self._cordon) if self._cordon else "",
        }

    def is_fresh(self, since: float = 0.0) -> bool:
        """May GPUs be given out by what is known of them? Else a look begins, and is news later (`fds`).

        `since`: when a job that used some was seen to be gone; who has stayed is known by a later look only.
        """
        return self._gpus.look(0.0, FRESH_S, since)[0] is not None

    def fds(self) -> List[int]:
        return self._gpus.fds()

    def close(self) -> None:
        """End a look that has begun."""
        self._gpus.close()


def _living(seen: Optional[Seen]) -> Dict[str, List[dict]]:
    found = seen.processes if seen else {}
    return {uuid: [entry for entry in entries if gpus.still_there(entry)] for uuid, entries in found.items()}


def outsiders(users: Dict[str, List[dict]], leases: List[dict]) -> List[dict]:
    """Who uses a GPU without a lease of it: {"gpu", "pid", "name", "user", "memory_bytes", "job"}.

    On a GPU that is held: whoever is surely not its holder's (of another account, or of another job of ours).
    """
    holders = {uuid: lease for lease in leases for uuid in lease["gpus"]}
    found = []
    for uuid, entries in users.items():
        for entry in entries:
            job = job_of(entry["pid"])
            if uuid not in holders or _is_foreign(entry, job, holders[uuid]):
                kept = {key: entry.get(key) for key in ("pid", "name", "user", "memory_bytes")}
                found.append({"gpu": uuid, **kept, "job": job or ""})
    return found


def _is_foreign(entry: dict, job: Optional[str], lease: dict) -> bool:
    if job is not None and job == lease["job"]:
        return False
    if entry.get("uid") is not None and entry["uid"] != lease["uid_number"]:
        return True
    # What has wiped its environment still is the job's, as long as its supervisor is above it.
    return job is not None and bool(lease["job"]) and not process.is_below(entry["pid"], lease["pid"])


def job_of(pid: int) -> Optional[str]:
    """The job that a process of this account belongs to, "" when to none; None where we may not know."""
    mark = b"\0%s=" % JOB_ID.encode()
    environment = process.environment(pid)
    if not environment:
        return None
    _, found, rest = environment.partition(mark)
    return rest.split(b"\0", 1)[0].decode("utf-8", "replace") if found else ""


def strayed(found: List[dict], leases: List[dict]) -> Dict[str, List[str]]:
    """Jobs that use GPUs which they do not hold, though they hold something: job -> UUIDs."""
    leased = {lease["job"] for lease in leases if lease["job"]}
    jobs: Dict[str, List[str]] = {}
    for each in found:
        if each["job"] in leased:
            jobs.setdefault(each["job"], []).append(each["gpu"])
    return jobs


def taken(found: List[dict]) -> Tuple[str, ...]:
    """GPUs that are not to be given out for them."""
    return tuple(sorted({each["gpu"] for each in found}))
