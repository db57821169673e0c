"""From what an engine and a job's own report say, to a state of the wire. Pure: no request is made here.

The container tells whether it runs, its exit code, whether the kernel killed for memory, and when. The report, which
process 1 of the container has written (init/), tells why it ended: an order, a limit, a step that failed. The words
are those of `hostside.verdict`, as for all workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow_jobdeploy.backends.engine import bare, names, outputs, reports
from airflow_jobdeploy.backends.engine.seen import Seen, life_span_s
from airflow_jobdeploy.backends.engine.times import seconds
from airflow_jobdeploy.hostside import verdict
from airflow_jobdeploy.hostside.verdict import Evidence

_KILLED = -9
#: Facts that are no news for people.
_INTERNAL = ("metrics", "artifacts")
#: What the engine says of a container whose end nobody saw: the machine went down under it.
_UNSEEN = 255


def wire(seen: Seen) -> dict[str, Any]:
    """The state, but for what lies elsewhere: log sizes, the successor."""
    base = {
        "job_id": seen.job_id,
        "uid": seen.plan.get("uid", ""),
        "attempt": seen.plan.get("attempt", 1),
        "grace_s": (seen.plan.get("limits") or {}).get("grace_s", 10.0),
        "life_span_s": life_span_s(seen),
    }
    if not seen.is_running and (outcome := _outcome(seen)) is not None:
        return {**base, **_ended(seen, outcome)}
    return {**base, **_live(seen)}


# -- alive ---------------------------------------------------------------------------------------------------------


def _live(seen: Seen) -> dict[str, Any]:
    phase, status, reason, step, left = "claimed", "PENDING", "Staging", "", ""
    if seen.setup:
        reason = "Setup"
    if seen.queued:
        phase, reason = "waiting", "Queued"
    if seen.is_running:
        phase = "claimed" if seen.plan.get("secret_names") else "starting"  # its secrets are not there yet
        reason = "Staging" if reason == "Queued" else reason
        if (told := reports.standing(seen.report)) is not None:
            phase, status, reason, step, left = told
        elif seen.is_bare:
            phase, status, step = "finishing" if seen.orders else "running", "RUNNING", seen.plan["steps"][0]["name"]
            reason = "Preempted" if "preempt" in seen.orders else ""
    history = _history(seen)
    started = _started(seen, history)
    return {
        "status": status,
        "reason": reason,
        "phase": phase,
        "step": step,
        "facts": {**({"leftovers": int(left)} if left.isdigit() else {}), **_held(seen, reason)},
        "running_s": None if started is None else max(0.0, seen.now - started),
        "history": _told(history, seen.now),
    }


def _held(seen: Seen, reason: str) -> dict[str, Any]:
    if reason == "Queued":
        return {"line": dict(seen.line)} if seen.line else {}
    return {"gpus": list(seen.gpus)} if seen.gpus else {}


def _history(seen: Seen) -> list[tuple[str, str, float]]:
    """(status, reason, engine's time) in order."""
    found = [("PENDING", "Staging", seconds(seen.claimed) or seen.now)]
    if seen.setup and (setup := seconds(seen.setup)) is not None:
        found.append(("PENDING", "Setup", setup))
    if seen.queued and (queued := seconds(seen.queued)) is not None:
        found.append(("PENDING", "Queued", queued))
    for time, status, reason, *_ in reports.entries(seen.report):
        if (status, reason) != found[-1][:2]:
            found.append((status, reason, float(time)))
    if seen.is_bare and (started := seconds(seen.state.get("StartedAt"))) is not None:
        found.append(("RUNNING", "", started))
    return found


def _started(seen: Seen, history: Sequence[tuple[str, str, float]]) -> float | None:
    """When the command began: what waited in the container first did not run."""
    running = next((time for status, _, time in history if status == "RUNNING"), None)
    if running is None:
        return None
    waited = seen.plan.get("secret_names") or any(reason == "Backoff" for _, reason, _ in history)
    return running if waited else seconds(seen.state.get("StartedAt")) or running


def _told(history: Sequence[tuple[str, str, float]], now: float) -> list[dict[str, Any]]:
    return [{"status": s, "reason": r, "ago_s": max(0.0, now - time)} for s, r, time in history]


# -- ended ---------------------------------------------------------------------------------------------------------


def _ended(seen: Seen, outcome: Mapping[str, Any]) -> dict[str, Any]:
    history = _history(seen)
    started = _started(seen, history)
    ended = seconds(seen.state.get("FinishedAt")) or (history[-1][2] if seen.has_begun else seen.now)
    ran_s = None if started is None else max(0.0, ended - started)
    result, complaint = outputs.result(seen)
    known = {key: value for key, value in outcome["facts"].items() if key not in _INTERNAL}
    facts = {**known, **({"result_error": complaint} if complaint else {})}
    end = (str(outcome["status"]), str(outcome["reason"]), ended)
    return {
        **outcome,
        "facts": facts,
        "phase": "ended",
        "running_s": ran_s,
        "usage": {"wall_s": ran_s or 0.0},
        "result": result,
        "artifacts": outputs.artifacts(seen),
        "history": _told([*history, end], seen.now),
    }


def _outcome(seen: Seen) -> dict[str, Any] | None:
    """How it ended; None: it has not."""
    if (failed := seen.json("failed.json")) is not None:
        if "limit" in failed:
            return verdict.judge(Evidence(limit={key: failed[key] for key in ("limit", "limit_s")}))
        if "orphaned_s" in failed:
            return verdict.judge(Evidence(orphan={"orphaned_s": failed["orphaned_s"]}))
        return verdict.judge(
            Evidence(setup=str(failed.get("message", "it could not be started")), facts=dict(seen.facts))
        )
    if seen.has_reported and _facts(seen).get("cause") != "terminated":
        return verdict.judge(_reported(seen))
    if seen.is_bare and seen.container is not None:
        return verdict.judge(_by_itself(seen))
    order, room = seen.json("stop.json"), seen.json("preempt.json")
    if not seen.has_begun and (seen.container is None or seen.is_unstarted):
        if order is None and room is None:
            return None
        return verdict.judge(Evidence(stop=order, preempt=room))
    return _lost(seen, order, room)


def _reported(seen: Seen) -> Evidence:
    """Process 1 of the container saw the end."""
    said = _facts(seen)
    cause = said.get("cause", "")
    status = int(said["status"]) if said.get("status", "").isdigit() else None
    facts: dict[str, Any] = {**seen.facts}
    if said.get("left_behind"):
        facts["left_behind"] = said["left_behind"].split(", ")
    if said.get("exit_unknown"):
        facts["exit_unknown"] = True
    if said.get("hint"):
        facts["hint"] = said["hint"]
    elif status is not None and status > 128 and "ok" not in said and not cause:
        facts["hint"] = f"{status} is 128 + {status - 128}: {verdict.signal_name(status - 128)} ended the command"
    oom = seen.state.get("OOMKilled") or None
    return Evidence(
        status=status,
        is_ok="ok" in said,
        step=said.get("step", ""),
        setup=said.get("setup", ""),
        limit=_limit(said) if cause == "timeout" else None,
        stop=_stop(seen, cause),
        preempt=_preempt(seen, said) if cause == "preempt" else None,
        orphan={"orphaned_s": float(said.get("orphaned_s") or 0)} if cause == "orphan" else None,
        memory=_memory(seen) if oom else None,
        disk=_disk(said),
        facts=facts,
    )


def _disk(said: Mapping[str, str]) -> dict[str, Any] | None:
    free = said.get("disk_free_kib", "")
    return {"disk_free_bytes": int(free) * 1024, "disk_path": names.JOB} if free.isdigit() else None


def _by_itself(seen: Seen) -> Evidence:
    memory = _memory(seen) if seen.state.get("OOMKilled") else None
    code, ended = int(seen.state.get("ExitCode") or 0), seconds(seen.state.get("FinishedAt"))
    return bare.evidence(seen.plan, code, seen.orders, ended, memory, seen.facts)


def _facts(seen: Seen) -> dict[str, str]:
    """The lines of the report, by key."""
    return dict(line.partition("=")[::2] for line in seen.text("facts").splitlines())


def _limit(said: Mapping[str, str]) -> dict[str, Any]:
    return {"limit": said.get("limit", "timeout"), "limit_s": float(said.get("limit_s") or 0) / 100}


def _stop(seen: Seen, cause: str) -> dict[str, Any] | None:
    if cause == "stop":
        return seen.json("stop.json") or {}
    return {"reason": "taken down", "by": "down"} if cause == "takedown" else None


def _preempt(seen: Seen, said: Mapping[str, str]) -> dict[str, Any]:
    return {**(seen.json("preempt.json") or {}), "checkpointed": bool(said.get("checkpointed"))}


def _memory(seen: Seen) -> dict[str, Any]:
    limit = (seen.plan.get("container") or {}).get("memory_bytes")
    return {"memory_limit_bytes": limit, "memory_used_bytes": limit}


def _lost(seen: Seen, order: dict[str, Any] | None, room: dict[str, Any] | None) -> dict[str, Any]:
    """The container has ended, or is gone, and process 1 could not say why."""
    told = reports.standing(seen.report)
    step = told.step if told else ""
    if order is not None or room is not None:
        return verdict.judge(Evidence(stop=order, preempt=room, step=step))
    if seen.state.get("OOMKilled"):
        return verdict.judge(Evidence(status=_KILLED, memory=_memory(seen), step=step, facts={**seen.facts}))
    code = seen.state.get("ExitCode")
    if seen.container is not None and code == names.NO_ROOM_CODE and not seen.has_begun:
        return verdict.judge(Evidence(setup="its files could not be written: is the engine's disk full?"))
    outcome = verdict.judge(Evidence(status=_KILLED, step=step, facts={**seen.facts}))
    if seen.container is not None and code == _UNSEEN:
        return {**outcome, "reason": "WorkerLost", "signal": None}
    why = "Its container was removed" if seen.container is None else f"Its container was killed (exit code {code})"
    if seen.has_reported:
        why = "Its container was stopped (SIGTERM)"
    text = f"{why} while the job ran, by somebody else or by the end of the engine; its processes are gone"
    return {**outcome, "reason": "ProcessLost", "message": text, "signal": None}
