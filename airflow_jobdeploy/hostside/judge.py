"""What a job directory says, as a state of the wire. Reads only; a child of ours ends one whose supervisor is dead."""

from __future__ import annotations

import os
import time
from typing import Any, Dict, Optional, Set, Tuple

from airflow_jobdeploy.hostside import files, finish, launch, layout, life, logs, messages, moves, recover
from airflow_jobdeploy.hostside.files import Damaged
from airflow_jobdeploy.hostside.jobdir import Job, NewerLayout, age_s, stamp
from airflow_jobdeploy.hostside.layout import HostPaths

#: How long one request waits in all for the ends of jobs found dead; what takes longer ends in the background.
_RECOVERY_WAIT_S = 2.0


class Judge:
    """Judges the jobs of one host, for one session. Ended ones are kept in memory: they never change."""

    def __init__(self, host: HostPaths) -> None:
        self.host = host
        self._ended: Dict[str, Tuple[int, dict]] = {}
        self._jobs: Dict[str, Job] = {}
        self._messages: Dict[str, messages.Live] = {}
        self._children: Set[int] = set()
        self._patience_s = _RECOVERY_WAIT_S

    def job(self, name: object) -> Job:
        """ValueError when that is no name of ours."""
        known = self._jobs.get(str(name))
        if known is None or not known.exists:
            known = Job(self.host, layout.checked_name(name))
            self._jobs[known.id] = known
        return known

    def views(self, names: Any) -> Dict[str, Optional[dict]]:
        """The states of many jobs; None where there is no such job."""
        self._patience_s = _RECOVERY_WAIT_S
        return {name: self.view(self.job(name)) for name in names}

    def view(self, job: Job) -> Optional[dict]:
        """The state of one job."""
        try:
            job.plan()  # a newer layout is never touched: that is known before anything else is asked
            return self._ended_view(job) or self._live_view(job)
        except NewerLayout as error:
            return _unknown(job, "NewerLayout", str(error))
        except Damaged as error:
            if not job.exists:  # never claimed, or forgotten by somebody else while we read
                self._jobs.pop(job.id, None)
                return None
            return _unknown(job, "RecordMissing", str(error))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            text = "the record in %s is damaged: %s %s" % (job.paths.dir, type(error).__name__, error)
            return _unknown(job, "RecordMissing", text)

    def _ended_view(self, job: Job) -> Optional[dict]:
        try:
            inode = os.stat(job.paths.exit).st_ino
        except OSError:
            return None
        known = self._ended.get(job.id)
        if known is None or known[0] != inode:
            record = job.exit()
            if record is None:
                return None
            known = (inode, {**_base(job), **_of_record(job, record)})
            self._messages.pop(job.id, None)
            self._ended[job.id] = known
        state = {**known[1], "moved_to": moves.moved_to(job)}
        state["history"] = _history(state["history"])
        return state

    def _live_view(self, job: Job) -> Optional[dict]:
        state = job.state()
        if state.get("pid") is None:
            if _staged_too_long(job, state) and recover.end_unstarted(job, _setup_timeout(job)):
                return self._ended_view(job)
        elif not recover.is_supervised(job, state):
            self._recover(job)
            if job.has_ended:
                return self._ended_view(job)
            state = {**job.state(), "phase": "finishing"}
        seen = _of_state(job, state)
        return {**_base(job), **seen, "facts": {**seen["facts"], **strayed(job)}, "messages": self._told(job)}

    def _told(self, job: Job) -> dict:
        if job.id not in self._messages:
            self._messages[job.id] = messages.Live(job.paths.messages)
        return self._messages[job.id].summary()

    def _recover(self, job: Job) -> None:
        """Let a child of ours end a job whose supervisor is gone: hashing its output must not hold up this session."""
        pid = os.fork()
        if pid == 0:
            _recover_and_exit(job)
        self._children.add(pid)
        begun = time.monotonic()
        while pid in self._children and time.monotonic() - begun < self._patience_s:
            self.reap()
            if pid in self._children:
                time.sleep(0.005)  # bounded, and only for jobs that were found dead
        self._patience_s -= time.monotonic() - begun

    @property
    def has_children(self) -> bool:
        return bool(self._children)

    def reap(self) -> None:
        """Collect children that have ended."""
        for pid in list(self._children):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)


def _recover_and_exit(job: Job) -> None:
    code = 1
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)  # else the client's channel stays open until we are done
    os.dup2(null, 1)
    os.dup2(launch.complaints(job), 2)
    try:
        recover.recover(job)
        code = 0
    finally:
        os._exit(code)


def _base(job: Job) -> Dict[str, Any]:
    plan = job.plan()
    return {
        "job_id": job.id,
        "uid": plan.get("uid", ""),
        "attempt": plan.get("attempt", 1),
        "machine": job.host.machine,
        "message": "",
        "log_bytes": logs.size(job.paths),
        "log_dropped_bytes": logs.dropped_until(job.paths),
        "result": None,
        "artifacts": {},
        "usage": {},
        "facts": {},
        "moved_to": moves.moved_to(job),
        "grace_s": (plan.get("limits") or {}).get("grace_s", 10.0),
        "life_span_s": life.bound_s(job),
    }


def _of_state(job: Job, state: dict) -> Dict[str, Any]:
    started = state.get("started")
    return {
        "status": state["status"],
        "reason": state["reason"],
        "exit_code": None,
        "signal": None,
        "phase": state["phase"],
        "step": state.get("step", ""),
        "running_s": age_s(started) if started else None,
        "facts": state.get("facts") or {},
        "history": _history(state.get("history", ())),
    }


def _of_record(job: Job, record: dict) -> Dict[str, Any]:
    result = None
    if record.get("has_result"):
        found, complaint = finish.read_result(job)
        result = found[0] if found else None
        if complaint:
            record["facts"] = {**record.get("facts", {}), "result_error": complaint}
    kept = ("status", "reason", "exit_code", "signal", "step", "running_s", "history")
    return {
        **{key: record.get(key) for key in kept},
        "message": record.get("message") or "",
        "reason": record.get("reason") or "",
        "step": record.get("step") or "",
        "usage": record.get("usage") or {},
        "facts": {**(record.get("facts") or {}), **strayed(job)},
        "artifacts": record.get("artifacts") or {},
        "phase": "ended",
        "result": result,
        "messages": _told_at_end(job) if record.get("has_messages") else {},
    }


def strayed(job: Job) -> Dict[str, Any]:
    """{"foreign_gpus": UUIDs} of a job that was seen to use GPUs which it does not hold."""
    try:
        gpus = (files.read_json(job.paths.strayed) or {}).get("gpus")
    except Damaged:
        gpus = None
    return {"foreign_gpus": gpus} if gpus else {}


def _told_at_end(job: Job) -> dict:
    try:
        return files.read_json(job.paths.told) or {}
    except Damaged:
        return {}


def _history(entries: Any) -> list:
    now = stamp()
    return [{"status": status, "reason": reason, "ago_s": age_s(then, now)} for status, reason, then in entries or ()]


def _unknown(job: Job, reason: str, message: str) -> Dict[str, Any]:
    return {
        "job_id": job.id,
        "attempt": 0,  # not known: the near side keeps its own
        "status": "UNKNOWN",
        "reason": reason,
        "message": message,
        "machine": job.host.machine,
        "log_bytes": logs.size(job.paths),
        "history": [],
        "facts": {},
    }


def _staged_too_long(job: Job, state: dict) -> bool:
    bound = job.plan().get("limits", {}).get("setup_timeout_s")
    return bool(bound) and age_s(state["claimed"]) > bound


def _setup_timeout(job: Job) -> Dict[str, Any]:
    facts = {"limit": "setup_timeout", "limit_s": job.plan()["limits"]["setup_timeout_s"]}
    return {"status": "FAILED", "reason": "TimedOut", "facts": facts, "step": "", "usage": {}}


def age_of_claim(job: Job) -> float:
    """Seconds since the claim, for sorting; 0 where the record is damaged."""
    try:
        record = files.read_json(job.paths.exit) or job.state()
        return age_s(record["claimed"])
    except (Damaged, NewerLayout, KeyError, TypeError):
        return 0.0
