"""What can be said about a job: its status, why, since when, and the sentence for people.

The host decides status and reason from evidence (hostside/verdict.py) and sends them with the facts
behind them; this module gives them types and words (statuses.py has the enums).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from airflow_jobdeploy.core.messages import progress_text
from airflow_jobdeploy.core.statuses import JobStatus as JobStatus
from airflow_jobdeploy.core.statuses import Reason as Reason
from airflow_jobdeploy.core.words import duration, size


@dataclass(frozen=True, kw_only=True)
class JobState:
    """What a worker says about one attempt at one moment. Times are durations in seconds."""

    job_id: str
    uid: str = ""
    attempt: int = 1
    status: JobStatus
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    signal: str | None = None
    #: claimed, waiting, setup, running, leftovers, finishing, ended
    phase: str = ""
    #: The build that runs, or that failed.
    step: str = ""
    log_bytes: int = 0
    #: Bytes that the log's cap removed from its head.
    log_dropped_bytes: int = 0
    running_s: float | None = None
    #: {"wall_s", "cpu_s", "peak_memory_bytes"}
    usage: Mapping[str, float] = field(default_factory=dict)
    #: What the job wrote to its result file (any JSON value).
    result: Any = None
    #: {"files": n, "bytes": n} of the output directory, once ended.
    artifacts: Mapping[str, int] = field(default_factory=dict)
    #: [{"status", "reason", "ago_s"}], oldest first.
    history: tuple[Mapping[str, Any], ...] = ()
    #: What the job says of itself: "progress", "metrics", "assets", "outputs" (hostside.messages.Digest.summary).
    messages: Mapping[str, Any] = field(default_factory=dict)
    #: Evidence behind the verdict, as the host gave it.
    facts: Mapping[str, Any] = field(default_factory=dict)
    machine: str = ""
    #: Seconds that the job has between its stop signal and KILL.
    grace_s: float = 10.0
    #: Seconds that this attempt may run, with all that was added since its claim; None: no bound.
    life_span_s: float | None = None
    #: {"job_id", "attempt", "worker"} of the attempt that has taken this one's place.
    moved_to: Mapping[str, Any] | None = None

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> JobState:
        """From a state of the protocol; keys unknown to this version are left out."""
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        known["status"] = _status(known.get("status"))
        known["history"] = tuple(known.get("history", ()))
        state = cls(**known)
        return replace(state, message=state.message or sentence(state))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; `from_wire` reads it back."""
        data = {key: getattr(self, key) for key in self.__dataclass_fields__}
        data.update(status=self.status.value, history=[dict(h) for h in self.history])
        mappings = ("usage", "artifacts", "facts", "messages")
        return {**data, **{key: dict(data[key]) for key in mappings}}


def unknown(job_id: str, reason: Reason, message: str, *, uid: str = "", attempt: int = 1) -> JobState:
    """The state of a job that cannot be judged now."""
    return JobState(
        job_id=job_id, uid=uid, attempt=attempt, status=JobStatus.UNKNOWN, reason=reason.value, message=message
    )


def _status(word: object) -> JobStatus:
    """Statuses of a newer host that we do not know are UNKNOWN, as Apolo's client has it."""
    try:
        return JobStatus(str(word))
    except ValueError:
        return JobStatus.UNKNOWN


@dataclass(frozen=True, kw_only=True)
class JobHandle:
    """Names a job for other tasks: small, JSON, without secrets. It names the job, not the attempt."""

    uid: str
    job_id: str
    attempt: int
    key: str
    worker_pool: str
    worker: str
    version: int = 1
    status: str = JobStatus.PENDING.value
    reason: str = ""
    message: str = ""
    exit_code: int | None = None
    result: Any = None
    #: The worker's identity at the claim; another one later is WorkerChanged.
    machine: str = ""
    #: Resource id for jobs that came of a template.
    resource: str = ""
    #: Silence of the worker, in seconds, after which the job has surely stopped itself; None: it goes on for ever.
    lost_after_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The handle as it travels through XCom."""
        return {key: getattr(self, key) for key in self.__dataclass_fields__}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> JobHandle:
        """Read a handle back. ValueError when `data` is none, or of a newer version."""
        missing = [key for key in ("uid", "job_id", "worker_pool") if not data.get(key)]
        if missing:
            raise ValueError(f"not a job handle: {', '.join(missing)} missing in {sorted(data)}")
        if int(data.get("version", 1)) > 1:
            raise ValueError(f"job handle of version {data['version']}: made by a newer release than this one")
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        return cls(**{"attempt": 1, "key": "", "worker": "", **known})

    def with_state(self, state: JobState) -> JobHandle:
        """The same handle telling the news of `state`; messages are cut so that a handle stays below 4 KB."""
        return replace(
            self,
            job_id=state.job_id or self.job_id,
            attempt=state.attempt or self.attempt,
            status=state.status.value,
            reason=state.reason,
            message=_cut(state.message, 2000),
            exit_code=state.exit_code,
            result=state.result,
            machine=state.machine or self.machine,
        )


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes as JSON, where a character may take twelve."""
    if len(json.dumps(text)) <= limit:
        return text
    return text[: limit - 5 if text.isascii() and text.isprintable() else limit // 12] + "..."


# -- the sentence for people ---------------------------------------------------------------------------------------


def sentence(state: JobState) -> str:
    """One sentence that tells a person what became of the job and why."""
    maker = _SENTENCES.get(state.reason)
    if maker is not None:
        return maker(state) + _flaws(state) + _last_lines(state)
    if state.status is JobStatus.SUCCEEDED:
        return f"Succeeded{_after(state)}{_yet(state)}{_flaws(state)}."
    if state.status is JobStatus.RUNNING:
        return f"Running{_for(state.running_s)}{_at(state)}."
    return {JobStatus.PENDING: "Waiting to start.", JobStatus.UNKNOWN: "The worker cannot tell."}.get(
        state.status, f"{state.status.value.capitalize()}{_after(state)}."
    )


def _after(state: JobState) -> str:
    return f" after {duration(state.running_s)}" if state.running_s is not None else ""


def _yet(state: JobState) -> str:
    """What a success leaves to be said."""
    if state.facts.get("exit_unknown"):
        return "; the exit status of the detached session is unknown"
    if state.exit_code:
        return f"; exit code {state.exit_code} is on the whitelist"
    return f"; {state.facts['hint']}" if state.facts.get("hint") else ""


def _flaws(state: JobState) -> str:
    """What of a finished job's results is not there, whatever its status."""
    told = [
        str(state.facts[key])
        for key in ("result_error", "manifest_error", "metrics_error", "log_cap_error")
        if state.facts.get(key)
    ]
    return "".join(f"; {text}" for text in told) if state.status.is_finished else ""


def _for(seconds: float | None) -> str:
    return f" for {duration(seconds)}" if seconds is not None and seconds >= 1 else ""


def _at(state: JobState) -> str:
    progress = state.messages.get("progress")
    return f"; {progress_text(progress)}" if progress else ""


def _in_step(state: JobState) -> str:
    return f" in build {state.step!r}" if state.step and state.step != "job" else ""


def _last_lines(state: JobState) -> str:
    lines = str(state.facts.get("last_lines") or "").strip()
    if not lines or state.status is not JobStatus.FAILED:
        return ""
    return f"; last lines:\n{lines}"


def _exit_code(state: JobState) -> str:
    hint = f". {state.facts['hint']}" if state.facts.get("hint") else ""
    return f"Exit code {state.exit_code}{_in_step(state)}{_after(state)}{hint}"


def _signal(state: JobState) -> str:
    return f"Killed by {state.signal or 'a signal'}{_in_step(state)}{_after(state)}; nobody asked us to stop it"


def _out_of_memory(state: JobState) -> str:
    used, limit = state.facts.get("memory_used_bytes"), state.facts.get("memory_limit_bytes")
    at = f" at {used / 2**30:.1f} of {limit / 2**30:.1f} GiB" if used and limit else ""
    return f"Killed by the kernel: out of memory{at}, {duration(state.running_s)} in"


def _timed_out(state: JobState) -> str:
    which, limit = state.facts.get("limit", "timeout"), state.facts.get("limit_s")
    return f"Stopped by its {which} of {duration(limit)}{_in_step(state)}"


def _disk_full(state: JobState) -> str:
    free = state.facts.get("disk_free_bytes")
    seen = f" ({size(free)} free)" if free is not None else ""
    if state.exit_code is not None:
        end = f"exit code {state.exit_code}"
    else:
        end = f"killed by {state.signal}" if state.signal else "the command could not be started"
    return f"The disk of {state.facts.get('disk_path', 'the job')} is full{seen}; {end}"


def _cancelled(state: JobState) -> str:
    by, why = state.facts.get("stopped_by"), state.facts.get("stop_reason")
    return "Stopped" + (f" by {by}" if by else "") + (f": {why}" if why else "") + _after(state)


def _preempted(state: JobState) -> str:
    by, why = state.facts.get("stopped_by"), state.facts.get("stop_reason")
    told = (f" by {by}" if by else "") + (f": {why}" if why else "")
    if state.status is JobStatus.RUNNING:
        return "Making room; it was told to checkpoint"
    saved = "a checkpoint was written" if state.facts.get("checkpointed") else "no new checkpoint was written"
    return f"Preempted{told}{_after(state)}; {saved}"


def _backoff(state: JobState) -> str:
    return "Waiting before it is tried again"


def _worker_lost(state: JobState) -> str:
    if state.facts.get("given_up_by"):
        return f"{state.facts['given_up_by']} has given it up: its worker does not answer, and will not come back"
    if state.facts.get("lost_s"):
        silence = duration(state.facts["lost_s"])
        return f"The worker has not answered for {silence}; the job stops itself there (on_orphan: stop)"
    if state.facts.get("orphaned_s"):
        silence = duration(state.facts["orphaned_s"])
        return f"Nobody asked for the job for {silence}, so it stopped itself (on_orphan: stop){_after(state)}"
    return f"The host rebooted while the job ran{_after(state)}; its processes are gone"


def _process_lost(state: JobState) -> str:
    swept = int(state.facts.get("swept", 0))
    return f"The job's supervisor was killed{_after(state)}; {swept} of its processes were left and have been killed"


def _queued(state: JobState) -> str:
    line = state.facts.get("line") or {}
    if not line:
        return "Waiting for a free slot on the worker"
    ahead = sorted({str(each.get("user")) for each in line.get("ahead", ())})
    place = f", place {line['position']}" if line.get("position") else ""
    behind = f", behind jobs of {', '.join(ahead)}" if ahead else ""
    return f"Waiting in the worker's line{place}{behind}: {line.get('why') or 'its turn comes'}"


def _setup(state: JobState) -> str:
    if not state.status.is_finished:
        return "Setting up: the environment with its packages is being made"
    return f"It could not be set up{_after(state)}"


def _leftovers(state: JobState) -> str:
    count = state.facts.get("leftovers")
    what = f"{count} process{'es' if count != 1 else ''}" if count else "what it left"
    return f"The build has ended; {what} still running{_for(state.running_s)}"


_SENTENCES = {
    "ExitCode": _exit_code,
    "Signal": _signal,
    "OutOfMemory": _out_of_memory,
    "TimedOut": _timed_out,
    "DiskFull": _disk_full,
    "Cancelled": _cancelled,
    "WorkerLost": _worker_lost,
    "ProcessLost": _process_lost,
    "Queued": _queued,
    "Setup": _setup,
    "Backoff": _backoff,
    "Preempted": _preempted,
    "Leftovers": _leftovers,
}
