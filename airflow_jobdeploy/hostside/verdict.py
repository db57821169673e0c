"""From evidence to a verdict: pure, so that every case is one line of a test."""

from __future__ import annotations

import signal
from typing import Any, Dict, NamedTuple, Optional

_KILLED = -int(signal.SIGKILL)
_SHELL_KILLED = 128 + int(signal.SIGKILL)


class Evidence(NamedTuple):
    """What was seen of one attempt. Each field is the truth about itself; `judge` weighs them."""

    #: Exit status of the last command: >= 0 its code, < 0 minus the signal; None: no command ended.
    status: Optional[int] = None
    #: Does the plan count that status as success?
    is_ok: bool = False
    step: str = ""
    #: Why nothing could be started, as a sentence.
    setup: str = ""
    #: {"limit", "limit_s"} of the limit that ended the attempt.
    limit: Optional[Dict[str, Any]] = None
    #: {"reason", "by"} of the order that ended it, given before the command ended.
    stop: Optional[Dict[str, Any]] = None
    #: {"reason", "by", "checkpointed"} of the order to make room.
    preempt: Optional[Dict[str, Any]] = None
    #: {"orphaned_s"}: nobody had asked for the job for so long.
    orphan: Optional[Dict[str, Any]] = None
    #: {"memory_used_bytes", "memory_limit_bytes"}: the kernel killed for memory meanwhile.
    memory: Optional[Dict[str, Any]] = None
    #: {"disk_free_bytes", "disk_path"}: a disk of the job was full at its end.
    disk: Optional[Dict[str, Any]] = None
    #: What is true whatever the verdict: leftovers, hints, last lines.
    facts: Optional[Dict[str, Any]] = None


def judge(seen: Evidence) -> Dict[str, Any]:
    """status, reason, message (only where the facts do not tell), exit_code, signal, step, facts."""
    status, reason, extra = _weigh(seen)
    facts = {key: value for key, value in {**(seen.facts or {}), **extra}.items() if value not in (None, "", [])}
    return {
        "status": status,
        "reason": reason,
        "message": seen.setup if reason == "Setup" else "",
        "exit_code": seen.status if seen.status is not None and seen.status >= 0 else None,
        "signal": signal_name(-seen.status) if seen.status is not None and seen.status < 0 else None,
        "step": seen.step,
        "facts": facts,
    }


def _weigh(seen: Evidence) -> Any:
    if seen.stop is not None:
        return "CANCELLED", "Cancelled", {"stopped_by": seen.stop.get("by"), "stop_reason": seen.stop.get("reason")}
    if seen.preempt is not None:
        return "SUSPENDED", "Preempted", preempted_facts(seen.preempt)
    if seen.orphan is not None:
        return "FAILED", "WorkerLost", seen.orphan
    if seen.limit is not None:
        return "FAILED", "TimedOut", seen.limit
    if seen.setup:
        return "FAILED", "DiskFull" if seen.disk else "Setup", seen.disk or {}
    if seen.is_ok:
        return "SUCCEEDED", "", {}
    # sh reports a killed child as 128 + 9: with the kernel's own count as evidence it means the same.
    if seen.memory is not None and seen.status in (_KILLED, _SHELL_KILLED):
        return "FAILED", "OutOfMemory", seen.memory
    if seen.disk:
        return "FAILED", "DiskFull", seen.disk
    if seen.status is not None and seen.status < 0:
        return "FAILED", "Signal", {}
    return "FAILED", "ExitCode", {}


def preempted_facts(order: Dict[str, Any]) -> Dict[str, Any]:
    """What is worth knowing of a preemption. `checkpointed`: did the job write a checkpoint line after the signal?"""
    facts = {"stopped_by": order.get("by"), "stop_reason": order.get("reason")}
    return {**facts, "checkpointed": bool(order.get("checkpointed"))}


def is_ok(status: int, step: dict) -> bool:
    """Does the step count this exit status (>= 0 a code, < 0 minus a signal) as success?"""
    if status < 0:
        return -status in step.get("ok_signals", ())
    return status == 0 or status in step.get("ok_codes", ())


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no names
        return "signal %d" % number


def signal_number(name: object) -> int:
    """The number of "SIGINT", "INT" or 2; SIGTERM for what we do not know."""
    text = str(name).upper()
    if text.isdigit():
        return int(text)
    found = getattr(signal, text if text.startswith("SIG") else "SIG" + text, signal.SIGTERM)
    return int(found)
