"""From what an engine and a job's own report say, to a state of the wire. Pure: no request is made here.

The container tells whether it runs, its exit code, whether the kernel killed for memory, and when. The report, which
process 1 of the container has written (init/), tells why it ended: an order, a limit, a step that failed. The words
are those of `hostside.verdict`, as for all workers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any

from airflow_jobdeploy.backends.engine import bare, names, reports
from airflow_jobdeploy.hostside import verdict
from airflow_jobdeploy.hostside.finish import RESULT_LIMIT
from airflow_jobdeploy.hostside.verdict import Evidence

#: Of a file of the report no more is read than this, in bytes.
REPORT_LIMIT = 16 * 1024 * 1024
_NEVER = "0001-01-01T00:00:00Z"
_KILLED = -9
#: Files of the report: hundredths of a second that were added to its life_span, each by one request.
LIFE = "life."
#: Facts that are no news for people.
_INTERNAL = ("metrics", "artifacts")
#: What the engine says of a container whose end nobody saw: the machine went down under it.
_UNSEEN = 255
_GOING = ("removing", "dead")


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What was seen of one attempt."""

    job_id: str
    plan: Mapping[str, Any]
    #: When the claim was made, as the engine writes times.
    claimed: str
    #: The container as the engine inspects it; None: there is none.
    container: Mapping[str, Any] | None
    #: The files of the report; None: not read.
    report: Mapping[str, bytes] | None = None
    #: The engine's clock now, in seconds since 1970.
    now: float = 0.0
    facts: Mapping[str, Any] = field(default_factory=dict)
    #: The GPUs that its lease gave it; where it stands in the engine's line: {"position", "ahead", "why"}.
    gpus: tuple[str, ...] = ()
    line: Mapping[str, Any] = field(default_factory=dict)
    #: Since when it waits for a slot of its pool; "": it does not, or did not.
    queued: str = ""
    #: Since when its image was made; "": it needed none of its own.
    setup: str = ""

    @property
    def state(self) -> Mapping[str, Any]:
        return (self.container or {}).get("State") or {}

    @property
    def is_running(self) -> bool:
        return bool(self.state.get("Running"))

    @property
    def is_unstarted(self) -> bool:
        """Has its container never run? Also one that is being replaced has not."""
        if self.container is None or self.state.get("Status") not in ("created", *_GOING):
            return False
        return self.state.get("Status") == "created" or seconds(self.state.get("StartedAt")) is None

    def text(self, name: str) -> str:
        return (self.report or {}).get(name, b"").decode("utf-8", "replace")

    @property
    def has_begun(self) -> bool:
        return "history" in (self.report or {}) or self.is_bare

    @property
    def is_bare(self) -> bool:
        """Is, or was, the command itself process 1 of its container?"""
        return bare.MARK in (self.report or {}) and not self.is_unstarted

    @property
    def orders(self) -> dict[str, dict[str, Any]]:
        """What is to end it, by its names."""
        found = {name: _json(self, f"{name}.json") for name in bare.ORDERS}
        return {name: order for name, order in found.items() if order is not None}

    @property
    def has_reported(self) -> bool:
        return "end" in (self.report or {})


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


def life_span_s(seen: Seen) -> float | None:
    """How long the attempt may run: what was planned, and what was added since (orders.extend)."""
    planned = (seen.plan.get("limits") or {}).get("life_span_s")
    if planned is None:
        return None
    added = [text for name, data in (seen.report or {}).items() if name.startswith(LIFE) and (text := data.strip())]
    return float(planned) + sum(int(text) for text in added if text.isdigit()) / 100


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
    result, complaint = _result(seen)
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
        "artifacts": _artifacts(seen),
        "history": _told([*history, end], seen.now),
    }


def _outcome(seen: Seen) -> dict[str, Any] | None:
    """How it ended; None: it has not."""
    if (failed := _json(seen, "failed.json")) is not None:
        if "limit" in failed:
            return verdict.judge(Evidence(limit={key: failed[key] for key in ("limit", "limit_s")}))
        return verdict.judge(
            Evidence(setup=str(failed.get("message", "it could not be started")), facts=dict(seen.facts))
        )
    if seen.has_reported and facts_of(seen).get("cause") != "terminated":
        return verdict.judge(_reported(seen))
    if seen.is_bare and seen.container is not None:
        return verdict.judge(_by_itself(seen))
    order, room = _json(seen, "stop.json"), _json(seen, "preempt.json")
    if not seen.has_begun and (seen.container is None or seen.is_unstarted):
        if order is None and room is None:
            return None
        return verdict.judge(Evidence(stop=order, preempt=room))
    return _lost(seen, order, room)


def _reported(seen: Seen) -> Evidence:
    """Process 1 of the container saw the end."""
    said = facts_of(seen)
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


def facts_of(seen: Seen) -> dict[str, str]:
    """The lines of the report, by key."""
    return dict(line.partition("=")[::2] for line in seen.text("facts").splitlines())


def _limit(said: Mapping[str, str]) -> dict[str, Any]:
    return {"limit": said.get("limit", "timeout"), "limit_s": float(said.get("limit_s") or 0) / 100}


def _stop(seen: Seen, cause: str) -> dict[str, Any] | None:
    if cause == "stop":
        return _json(seen, "stop.json") or {}
    return {"reason": "taken down", "by": "down"} if cause == "takedown" else None


def _preempt(seen: Seen, said: Mapping[str, str]) -> dict[str, Any]:
    return {**(_json(seen, "preempt.json") or {}), "checkpointed": bool(said.get("checkpointed"))}


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


def _result(seen: Seen) -> tuple[Any, str]:
    data = (seen.report or {}).get("result.json")
    if data is None:
        return None, ""
    if len(data) > RESULT_LIMIT:
        return None, f"the result file holds more than {RESULT_LIMIT} bytes: write large results to the output"
    try:
        return json.loads(data.decode(), parse_constant=_refuse), ""
    except (ValueError, RecursionError) as error:
        return None, f"the result file is not JSON: {error}"


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def _artifacts(seen: Seen) -> dict[str, int]:
    listed = listing(seen.report or {})
    if listed is None:
        return dict(seen.facts.get("artifacts") or {})
    more = bool(seen.facts.get("metrics")) and not any(path == "metrics.csv" for path, *_ in listed)
    return {"files": len(listed) + more, "bytes": sum(size for _, size, _, _ in listed)}


def listing(report: Mapping[str, bytes]) -> Sequence[tuple[str, int, str, int]] | None:
    """(path, size, sha256, mode) of the output's files, in the order of the engine's archives.

    None where the image could not tell.
    """
    if "names" not in report:
        return None
    return _listed(report["names"], report.get("sums", b""), report.get("sizes", b""))


@lru_cache(2)
def _listed(names: bytes, sums: bytes, sizes: bytes) -> Sequence[tuple[str, int, str, int]] | None:
    """Asked for several times while one job's output is fetched: thousands of lines take milliseconds."""
    paths = [name for name in names.split(b"\0") if name]
    digests, stats = sums.split(b"\n")[:-1], sizes.split(b"\n")[:-1]
    if not len(paths) == len(digests) == len(stats):
        return None
    found = []
    for name, digest, stat in zip(paths, digests, stats, strict=True):
        length, _, mode = stat.partition(b" ")
        path = name.removeprefix(b"./").decode("utf-8", "surrogateescape")
        found.append((path, int(length), digest.lstrip(b"\\")[:64].decode("ascii", "replace"), int(mode or b"0", 8)))
    return tuple(sorted(found, key=lambda file: file[0].split("/")))


def _json(seen: Seen, name: str) -> dict[str, Any] | None:
    data = (seen.report or {}).get(name)
    if data is None:
        return None
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError):
        return {}


def seconds(text: object) -> float | None:
    """A time of the engine (RFC 3339, nanoseconds) in seconds since 1970; None for "never"."""
    if not isinstance(text, str) or not text or text == _NEVER:
        return None
    whole, _, rest = text.partition(".")
    fraction = rest.rstrip("Z").partition("+")[0].partition("-")[0] if rest else ""
    zone = text[19:].lstrip("." + fraction) if rest else text[19:]
    moment = datetime.fromisoformat(whole[:19] + (zone if zone and zone != "Z" else "+00:00"))
    return moment.astimezone(timezone.utc).timestamp() + (float(f"0.{fraction}") if fraction.isdigit() else 0.0)
