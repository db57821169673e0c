"""The words for where a job stands, and why. Those of the statuses are Apolo's."""

from __future__ import annotations

from enum import Enum


class JobStatus(str, Enum):
    """Where a job stands."""

    PENDING = "PENDING"  #: accepted, not running yet
    SUSPENDED = "SUSPENDED"  #: preempted, will resume
    RUNNING = "RUNNING"  #: its command runs, or what that left behind
    SUCCEEDED = "SUCCEEDED"  #: exit code 0, or one of the whitelist
    FAILED = "FAILED"  #: the reason says how
    CANCELLED = "CANCELLED"  #: somebody stopped it, or took it down
    UNKNOWN = "UNKNOWN"  #: the worker cannot be asked, or does not know; not an end

    @classmethod
    def _missing_(cls, value: object) -> JobStatus | None:
        """In any case: "running"."""
        return cls.__members__.get(value.upper()) if isinstance(value, str) else None

    @property
    def is_pending(self) -> bool:
        """Will it run, or run again?"""
        return self in (JobStatus.PENDING, JobStatus.SUSPENDED)

    @property
    def is_running(self) -> bool:
        return self is JobStatus.RUNNING

    @property
    def is_finished(self) -> bool:
        """Will this never change again?"""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)

    def __str__(self) -> str:
        return self.value


class Reason(str, Enum):
    """Why a job has its status: for programs. The sentence for people is `JobState.message`."""

    NONE = ""
    BACKOFF = "Backoff"  #: waiting before it is tried again
    QUEUED = "Queued"  #: no free slot on the worker
    STAGING = "Staging"  #: code or data is on its way
    SETUP = "Setup"  #: staging or setting up failed
    EXIT_CODE = "ExitCode"  #: the command ended with a code that is no success
    SIGNAL = "Signal"  #: a signal that we did not send ended the command
    OUT_OF_MEMORY = "OutOfMemory"  #: the kernel killed the command for want of memory
    TIMED_OUT = "TimedOut"  #: `timeout`, `setup_timeout` or `schedule_timeout` passed
    DISK_FULL = "DiskFull"  #: a disk of the job was full when it failed
    CANCELLED = "Cancelled"  #: stopped or taken down; the message says by whom and why
    PREEMPTED = "Preempted"  #: it had to make room
    WORKER_LOST = "WorkerLost"  #: the host rebooted under the job, or is gone with it
    PROCESS_LOST = "ProcessLost"  #: the supervisor was killed; its processes were swept
    WORKER_CHANGED = "WorkerChanged"  #: another machine answers under the worker's name
    UNREACHABLE = "Unreachable"  #: the worker does not answer; what runs there goes on
    RECORD_MISSING = "RecordMissing"  #: the worker answers, and knows no such job
    NEWER_LAYOUT = "NewerLayout"  #: a newer release made the record: this one does not judge it
    LEFTOVERS = "Leftovers"  #: RUNNING: the build ended, what it left is still alive

    def __str__(self) -> str:
        return self.value
