"""What a job holds of its host, for exactly as long as its supervisor lives: claims (abstract.py), and one of its
pool's slots.

It takes over the provisional lease that its plan names. Where that is void, or there never was one, the supervisor
stands in the host's line itself, with the job's ticket, until it is granted what the ticket asks for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Dict, List, Optional

from airflow_jobdeploy.hostside import files
from airflow_jobdeploy.hostside.jobdir import Job
from airflow_jobdeploy.hostside.stage import Slots

if TYPE_CHECKING:
    from airflow_jobdeploy.hostside import cage
    from airflow_jobdeploy.hostside.abstract import Lookers
    from airflow_jobdeploy.hostside.keeper import Claims
    from airflow_jobdeploy.hostside.line import Line

#: How long a ticket counts that nobody renews: we may be stopped (SIGSTOP) for longer, others shall not wait for us.
_TTL_S = 60.0
#: The longest pause between two looks at the line.
_TICK_S = 5.0


class Holding(Slots):
    """Of one job whose plan has a `lease`; of others nothing is claimed, nothing is counted."""

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._job = job
        self._plan: Dict[str, Any] = job.plan()["lease"]
        self._claims: Optional[Claims] = None
        self._line: Optional[Line] = None
        self._cage: Optional[cage.Cage] = None
        self._enforced: List[str] = []
        #: What the line has given us just now.
        self._won: Optional[Claims] = None
        self._lookers: Optional[Lookers] = None
        #: While it stands in line: {"position", "ahead", "why"}.
        self._place: Dict[str, Any] = {}

    @property
    def gpus(self) -> List[str]:
        """UUIDs of what it holds."""
        return list(self._claims.lease["gpus"]) if self._claims is not None else []

    def take(self) -> bool:
        """Does it hold what it needs? Else to be called again when `fds` have news, or after `tick_s`."""
        return self._has_claims() and super().take()

    def _may_begin(self) -> bool:
        return True  # it was granted what it holds while the host took jobs

    def _has_claims(self) -> bool:
        if self._claims is not None:
            return True
        first = self._line is None
        self._claims = (self._taken_over(str(self._plan.get("id") or "")) if first else None) or self._granted()
        if self._claims is None:
            return False
        self._leave_line()
        from airflow_jobdeploy.hostside import cage

        self._cage = cage.Cage(self._job.id, self._claims.lease)
        self._cage.make()
        return True

    def _taken_over(self, lease: str) -> Optional[Claims]:
        from airflow_jobdeploy.hostside import abstract, census, keeper  # most jobs hold nothing

        self._lookers = abstract.Lookers()
        return keeper.take(lease, census.who_is(self._plan["ticket"]["uid"]), self._job.id) if lease else None

    def _granted(self) -> Optional[Claims]:
        """What comes of standing in line."""
        if self._line is None:
            from airflow_jobdeploy.hostside import settle
            from airflow_jobdeploy.hostside.capacity import Capacity
            from airflow_jobdeploy.hostside.gpus import Gpus
            from airflow_jobdeploy.hostside.line import Line

            room = Capacity(self._job.host.root, Gpus(os.environ.get("PATH", os.defpath)), self._job.host.cordon)
            self._line = Line(room, self._given, lambda: settle.settled(self._job.host))
        else:
            self._line.turn()
        if self._won is None:  # a ticket of ours is renewed whenever we look
            answer = self._line.seek({**self._plan["ticket"], "ttl_s": _TTL_S}, 0.5)
            ahead = [{key: each[key] for key in ("who", "user", "priority")} for each in answer["ahead"]]
            self._place = {"position": answer["position"], "ahead": ahead, "why": answer["why"]}
            if answer["lease"] is not None and self._won is None:  # the waiter was granted one meanwhile
                return self._taken_over(answer["lease"]["id"])
        return self._won

    def _given(self, _: str, claims: Claims) -> Dict[str, Any]:
        """Under the mutex: keep what was claimed, and say whose it is now."""
        from airflow_jobdeploy.hostside import census, notices, tickets

        lease = {**claims.lease, "job": self._job.id}
        notice = notices.hold(notices.LEASE, census.tag_of(lease["id"]), notices.lease_values(lease))
        notices.close(claims.notice)
        self._won = claims._replace(lease=lease, notice=notice)
        return tickets.shown(lease)

    def _leave_line(self) -> None:
        self._place = {}
        if self._line is not None:
            self._line.room.close()
            self._line.close()
            self._line = None

    def fds(self) -> List[int]:
        """To wait for beside others while it stands in line."""
        return self._line.fds() if self._line is not None else []

    def tick_s(self) -> float:
        due = self._line.patience_s() if self._line is not None else super().tick_s()
        return _TICK_S if due is None else min(due, _TICK_S)

    def facts(self) -> Dict[str, Any]:
        """For its state: "gpus" that it holds, what of its demand is "enforced"; or "line": where it stands."""
        told = {"gpus": self.gpus, "line": self._place, "enforced": self._enforced}
        return {key: value for key, value in told.items() if value}

    def tidy(self) -> None:
        """Now and then while the job runs: let those go who have looked at what it holds."""
        if self._claims is not None and self._lookers is not None:
            self._lookers.forget_gone([*self._claims.gpus, *self._claims.notice])

    # -- its control group ---------------------------------------------------------------------------------------

    @property
    def groups(self) -> List[str]:
        """Folders that must be removed when the job has ended, whoever ends it."""
        return sorted(set(self._cage.folders.values())) if self._cage is not None else []

    def join(self) -> None:
        """In the child that becomes the command."""
        if self._cage is not None:
            self._cage.join()

    def look_at(self, pid: int) -> bool:
        """After the start of a command: is there news of what is enforced?"""
        found = self._cage.enforced(pid) if self._cage is not None else []
        is_news, self._enforced = bool(found) and not self._enforced, self._enforced or found
        return is_news

    def shortage(self, memory: Optional[dict]) -> Optional[dict]:
        """What the kernel's kill for want of memory was about: the job's own limit, where that holds."""
        if memory is None or "memory" not in self._enforced or self._claims is None:
            return memory
        return {**memory, "memory_limit_bytes": int(self._claims.lease["memory"])}

    def leave(self) -> None:
        """All its processes have ended."""
        if self._cage is not None:
            self._cage.remove()

    def environment(self) -> Dict[str, str]:
        """What tells the job, and its libraries, which GPUs are its own: none, when it holds none."""
        if self._claims is None:
            return {}
        gpus = ",".join(self.gpus)
        if self.gpus and self._vendor() == "amd":
            return {"JOBDEPLOY_GPUS": gpus, "ROCR_VISIBLE_DEVICES": gpus}
        hidden = {} if self.gpus else {"ROCR_VISIBLE_DEVICES": ""}
        return {"JOBDEPLOY_GPUS": gpus, "CUDA_VISIBLE_DEVICES": gpus, **hidden}

    def _vendor(self) -> str:
        try:
            known = files.read_json(self._job.host.gpus) or {}
        except files.Damaged:
            known = {}
        mine = [gpu.get("vendor") for gpu in known.get("gpus", ()) if gpu.get("uuid") in self.gpus]
        return str(mine[0]) if mine and mine[0] else "nvidia"
