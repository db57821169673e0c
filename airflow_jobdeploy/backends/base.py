"""The contract of a backend: one worker, seen from here.

Clauses that every implementation keeps (tests/contract/ holds one test for each):

 1. `claim` is idempotent: claiming the same job id again changes nothing and returns its state. Of two
    claims at once one makes the record. The record lies on the worker before `claim` returns.
 2. `start` is idempotent: the command of an attempt is started once, ever, whoever asks and how often,
    at once or after a crash between any two calls.
 3. `poll` tells the truth from evidence: an exit record, or a held lock and a live process, or proof
    of their loss. A job that the worker does not know is UNKNOWN/RecordMissing, never "lost".
 4. `read_log` gives the bytes of stdout and stderr from any offset, as often as asked, also after the
    end, and says how many bytes a cap has dropped before the first one given.
 5. `stop` returns when the order lies on the worker; the worker carries it through alone: signal,
    grace, KILL, until no process of the job is left. Stopping what has ended changes nothing.
 6. The exit code is the command's own. The state of an ended job never changes again.
 7. A method that cannot ask the worker raises WorkerUnreachable and says nothing about jobs; one whose
    answer comes from another machine than `machine` raises WorkerChanged naming both.
 8. Nothing given by a user becomes shell text or a path outside the job's own directories.
 9. `preempt` returns when the order lies on the worker: the job is signalled, has its grace to write a
    checkpoint (ended early by a checkpoint message), and ends SUSPENDED/Preempted. A claim of attempt n+1
    makes attempt n answer `moved_to`.
10. `close` stops no job. A closed backend is not used again; `connect` is called anew for the next.
11. A tree is whole or not there: `has_tree` says yes only while every file is as it was sent. `send_tree` verifies each
    file by its sha256; cut at any point it leaves nothing under the tree's name, and called again it goes on where it
    was cut. Of two at once one brings the tree, the other is told TreeBusy, and may take over when the first is gone.
12. A tree that `use_tree` has given to a job stays until that job has ended.
13. A state's `messages` hold what the job has said of itself by then (hostside/messages.py), bounded and cleaned, and
    all of it once the job has ended; its metrics are among its artifacts then, as metrics.csv.
14. A lease is exclusive: no two jobs hold one GPU, nor more cores and memory together than there are, whoever asks,
    through whichever session or account. It goes with its holder: a provisional one with `release`, or when no job
    has claimed it in time, or with the session that was granted it (`Ticket.tied`, where the worker sees that end); a
    job's with the job. A job whose lease is void waits in the line, PENDING/Queued.
15. One line for all: a ticket lives as long as it is renewed and its session lasts. The first in line gets what it
    needs; a later one passes only as a filler that does not delay a first that reserves. Who was granted something is
    told, within half a second after it became free.
16. An attempt with a `life_span_s` ends TimedOut that long after its command's start. `extend` returns when that is
    longer by `seconds` and safe on the worker, however often it is called with the same `token`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

from airflow_jobdeploy.core.leases import Room, SeekAnswer, Ticket
from airflow_jobdeploy.core.manifest import Manifest, TreeSource
from airflow_jobdeploy.core.plan import Plan
from airflow_jobdeploy.core.status import JobState
from airflow_jobdeploy.errors import WorkerError


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """How backends differ, as data."""

    kind: str
    #: Does the worker outlive the process that talks to it, for a triggerer elsewhere to reach?
    reachable_from_anywhere: bool = True
    #: Can what a command leaves behind be found and waited for?
    tracks_leftovers: bool = True
    #: Can project trees be sent and artifacts fetched as streams?
    transfers: bool = True
    #: Does it give out leases (clauses 14, 15)? Else `seek`, `release` and `room` are WorkerErrors.
    leases: bool = False


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """What a worker says of itself at connect."""

    worker: str
    #: Host identity: `machine` names it for ever, `boot` until its next start.
    machine: str
    boot: str = ""
    hostname: str = ""
    user: str = ""
    python: str = ""
    root: str = ""
    cpu_count: float = 0
    memory_bytes: int = 0
    disk_free_bytes: int = 0
    #: Jobs alive on the worker now, of all pools.
    live_jobs: int = 0
    #: {"index", "uuid", "model", "memory_bytes" (None: not told), "mig", "vendor"}; and their driver's version.
    gpus: tuple[Mapping[str, Any], ...] = ()
    driver: str = ""
    #: By whom and why it takes no new jobs; "": it takes them.
    cordoned: str = ""
    #: Things a person should know: "KillUserProcesses=yes ends jobs at logout; ...".
    warnings: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class LogChunk:
    """Bytes of a log. `offset` is where `data` begins; `dropped_bytes` went missing before it (cap)."""

    offset: int
    data: bytes
    dropped_bytes: int = 0

    @property
    def next_offset(self) -> int:
        return self.offset + len(self.data)


@dataclass(frozen=True, kw_only=True)
class ArtifactFile:
    """One file of a job's output directory."""

    path: str
    size: int
    sha256: str
    mode: int = 0o600


#: What a job does with a tree: "work" is its working directory (a writable copy), "dataset" is read in place.
WORK, DATASET = "work", "dataset"

#: Told while a tree is sent: bytes sent so far, and bytes that the worker lacked at first. What it raises ends the
#: sending; what has arrived by then is not sent again.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class TreeReport:
    """What `send_tree` did."""

    name: str
    #: The whole tree: files and links, and their bytes.
    files: int
    bytes: int
    #: What had to be sent of it; the rest was there: of a transfer that was cut, or of another tree.
    sent_files: int = 0
    sent_bytes: int = 0
    #: The source's, with the sha256 of files that nobody had read before.
    manifest: Manifest | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Something on a worker that nobody needs."""

    #: job, resource, environment, tree, image, runner, container, volume, lease.
    kind: str
    name: str
    why: str
    bytes: int = 0
    #: Since its end, its last use, or since it was made.
    age_s: float = 0.0


class TreeBusy(WorkerError):
    """Another session is bringing the same tree. Attributes: `done_bytes` so far, of `todo_bytes`; 0: not known."""

    def __init__(self, message: str, *, done_bytes: int = 0, todo_bytes: int = 0) -> None:
        super().__init__(message)
        self.done_bytes = done_bytes
        self.todo_bytes = todo_bytes


class TreeGone(WorkerError):
    """The worker has no such tree, or no longer: send it (again)."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """An output file that its worker is to send to an object store, and a URL for just that: a secret."""

    path: str
    size: int
    sha256: str
    url: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class UploadNews:
    """How uploads get on. `sent`: bytes so far; `path`: of the file that this is about, "" when it is about none.

    `tag`: what the store calls the object; `error`: unreachable (the store, from there), refused, or changed (the
    file), with a sentence in `message`.
    """

    sent: int = 0
    path: str = ""
    tag: str = ""
    error: str = ""
    message: str = ""


class Backend(Protocol):
    """One worker. Used by one thread at a time. See the module's docstring for the clauses."""

    capabilities: Capabilities

    def facts(self, *, quick: bool = False) -> WorkerFacts:
        """Who the worker is and what it has. `quick`: who it is, and whether it takes jobs; the rest may be missing."""

    def claim(self, plan: Plan) -> JobState:
        """Write the attempt's record on the worker (clause 1)."""

    def prepare(self, job_id: str, say: Callable[[str], None] = lambda text: None) -> None:
        """Bring what a claimed job needs beside its trees: the image of its container. `start` does it too, silently.

        `say` gets lines for people, and "" now and then; what it raises ends the preparation. What is for ever in the
        way ends the job: FAILED, with the cause.
        """

    def has_tree(self, name: str) -> bool:
        """Is this tree there, every file of its size and untouched since it came? It counts as used just now.

        TreeBusy while another session brings it.
        """

    def may_have(self, sizes: Sequence[int]) -> bool:
        """May one of its trees hold a file of one of these sizes (bytes)? False: surely none."""

    def send_tree(self, source: TreeSource, progress: Progress = lambda done, todo: None) -> TreeReport:
        """Bring a tree to the worker: only what it lacks is sent, as one stream (clause 11).

        TreeBusy; StagingError for a full disk, a file that differs from its sha256 or has vanished, a tree that the
        worker refuses (paths or links that lead out).
        """

    def use_tree(self, job_id: str, role: str, name: str) -> None:
        """Give a claimed job a tree as its "work" or "dataset" (clause 12). TreeGone when it is not there."""

    def start(self, job_id: str) -> JobState:
        """Start a claimed attempt (clause 2). TreeGone when a tree that it was given is not there any more.

        Secrets come with the claim: who starts a job that has some has claimed it, too, by the same backend.
        """

    def poll(self, job_ids: Sequence[str]) -> dict[str, JobState]:
        """The state of each job (clause 3); one round trip for all."""

    def watch(self, job_ids: Sequence[str], timeout_s: float) -> dict[str, JobState]:
        """Wait until the state or log size of any of the jobs changes since the last `watch` of this
        backend, at most `timeout_s`; the changed ones. A job new to the watch counts as changed."""

    def wake(self) -> None:
        """Let a `watch` that waits in another thread return at once. The one method for other threads."""

    def read_log(self, job_id: str, offset: int, limit: int) -> LogChunk:
        """At most `limit` bytes from `offset` on (clause 4); empty at the end."""

    def stop(self, job_id: str, *, reason: str, by: str = "", grace_s: float | None = None) -> JobState:
        """Order the end of a job (clause 5). `grace_s`: None is the plan's own."""

    def preempt(
        self, job_id: str, *, reason: str, by: str = "", signal: str | None = None, grace_s: float | None = None
    ) -> JobState:
        """Order a job to make room (clause 10). `signal`, `grace_s`: None is the plan's own."""

    def renew(self, job_ids: Sequence[str]) -> None:
        """Somebody waits for these jobs: those of them that stop when nobody asks go on (`orphan_after_s`)."""

    def extend(self, job_id: str, seconds: float, token: str) -> JobState:
        """Let a job live longer (clause 16). WorkerError when it has ended, or has no `life_span`."""

    def set_moved(self, job_id: str, successor: Plan) -> None:
        """Another attempt takes the place of `job_id`: it will say so (`moved_to`), and never start again."""

    def checkpoint(self, job_id: str) -> Iterator[bytes]:
        """The checkpoint directory of a job as a tar stream, for `send_checkpoint` elsewhere."""

    def send_checkpoint(self, job_id: str, archive: Iterable[bytes]) -> None:
        """Unpack a tar stream as the checkpoint directory of a claimed job, published by rename."""

    def seek(self, ticket: Ticket) -> SeekAnswer:
        """Put a ticket in line, or renew it (RENEW_S): a provisional lease, or the place in line (clauses 14, 15).

        The same ticket again, after it was granted, is answered with the same lease until that is claimed or void.
        """

    def granted(self, timeout_s: float = 0.0) -> dict[str, SeekAnswer]:
        """Answers by uid that have changed since they were given: a lease, or what became of the ticket.

        Waits for the first at most `timeout_s`, or until `wake`; a `watch` that waits returns early for one, too.
        """

    def drop(self, uid: str) -> None:
        """Take a ticket out of the line. A lease that it was granted meanwhile is given back."""

    def release(self, lease_id: str) -> bool:
        """Give back a provisional lease. False: it is void, or a job's by now."""

    def room(self, *, gpus: bool = True) -> Room:
        """What there is, who holds it, who waits, who uses GPUs without a lease.

        `gpus`: False: who asks needs none, and does not wait for a look at them. While they are not known, its capacity
        says why in "gpus_unknown".
        """

    def cordon(self, *, by: str, why: str = "", lift: bool = False) -> str:
        """Let the worker take no new jobs, or (`lift`) take them again: all who use its account see it.

        What runs there goes on. Returns what `facts` and `room` tell of it from now on.
        """

    def set_owner(self, job_id: str, owner: str) -> None:
        """ "task" or "none": may the reaper stop the job when its task is over?"""

    def jobs(self, *, deployment: str | None = None, live_only: bool = False) -> list[dict[str, Any]]:
        """The records of the worker's jobs: {"plan": ..., "state": JobState dict}, newest first."""

    def resource(self, resource_id: str) -> dict[str, Any] | None:
        """The record of a resource, or None when the worker knows no such."""

    def manifest(self, job_id: str, match: str | None = None) -> list[ArtifactFile]:
        """The files of the output directory. Of a job that has not ended they are read for it, which takes time:
        only those whose path the regular expression `match` matches whole."""

    def fetch(self, job_id: str, paths: Sequence[str], offset: int = 0) -> Iterator[tuple[ArtifactFile, IO[bytes]]]:
        """The contents of output files, in one stream, in the manifest's order; the first from `offset` on."""

    def upload(self, job_id: str, files: Sequence[Upload]) -> Iterator[UploadNews]:
        """Let the worker send output files to an object store; news of each file, and a sign of life every second.

        What is not as `files` has it does not become an object.
        """

    def forget(self, job_id: str) -> None:
        """Remove the record of an ended job; WorkerError when it is active."""

    def collect(self, *, dry_run: bool, deployment: str = "") -> list[Garbage]:
        """Remove what nobody needs, or with `dry_run` only say what that is.

        Jobs that ended longer ago than their `keep_for`, what is left of them; code, data and images above the pool's
        `cache_limit`, the longest unused first. Never what an active job or resource has. `deployment`: jobs of others
        stay, where the worker serves several.
        """

    def close(self) -> None:
        """Let go of the worker (clause 10)."""
